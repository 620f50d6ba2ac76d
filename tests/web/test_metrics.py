"""`/metrics` of real replicas: complete, current, and there while the database is not."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from scheduler_service import __version__
from scheduler_service.metrics import CATALOGUE
from tests.deploy.test_prometheus import NAME, expressions
from tests.faults.fleet import FAST_ELECTION, Fleet, Replica
from tests.servers import PostgresServer

JOBS: Mapping[str, Any] = {
    "good": {"command": "true", "every": "1s"},
    "bad": {"command": "false", "every": "1s"},
    "retried": {"command": "false", "every": "1s", "retry": {"attempts": 2, "delay": "100ms"}},
    "slow": {"command": "sleep 3", "every": "1s"},
    "daily": {"command": "true", "cron": "0 3 * * *"},
    "paused": {"command": "true", "every": "1s"},
    "off": {"command": "true", "every": "1s", "enabled": False},
}


class Scrape:
    """What one scrape said."""

    def __init__(self, replica: Replica, token: str | None = None) -> None:
        url = replica.wait_for("service_started")["http"] + "/metrics"
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            self.kind = answer.headers["Content-Type"]
            self.text = answer.read().decode()
        families = list(text_string_to_metric_families(self.text))
        self.families: dict[str, Metric] = {one.name: one for one in families}
        self._samples = {(one.name, *sorted(one.labels.items())): one.value for f in families for one in f.samples}

    def __call__(self, name: str, **labels: str) -> float | None:
        """Return the value of a series; None if there is none."""
        return self._samples.get((f"scheduler_{name}", *sorted(labels.items())))

    @property
    def names(self) -> set[str]:
        return {key[0] for key in self._samples}


@pytest.fixture
def fleet(tmp_path: Path, postgres_url: str) -> Iterator[Fleet]:
    with Fleet(tmp_path, postgres_url, JOBS, http={"port": 0}) as made:
        yield made


def other(fleet: Fleet, replica: Replica) -> Replica:
    (one,) = [one for one in fleet.replicas if one is not replica and one.alive]
    return one


def test_leader_and_standby_tell_the_same_of_the_service_and_each_its_own(fleet: Fleet) -> None:
    fleet.start(2)
    leader = fleet.leader()
    standby = other(fleet, leader)
    for job in ("good", "bad", "retried", "slow"):
        fleet.wait_for("run_started", leader, job=job)
    fleet.wait_for("run_retrying", leader)
    fleet.wait_for("run_failed", leader, job="retried")
    fleet.wait_for("tick_skipped", leader, job="slow", reason="overlap")
    fleet.wait_for("run_finished", leader, job="good")
    fleet.wait_until(lambda: (Scrape(standby)("job_failures_in_a_row", job_id="bad") or 0) >= 3, 0.2)

    def while_a_run_goes_on() -> Scrape | None:
        one = Scrape(leader)
        return one if one("job_failures_in_a_row", job_id="bad") and one("workers_free") < 20.0 else None

    own = fleet.wait_until(while_a_run_goes_on, 0.2)
    seen = Scrape(standby)
    assert own.kind == "text/plain; version=0.0.4; charset=utf-8"
    assert {name.removesuffix("_total") for name in CATALOGUE} == set(own.families)
    term = float(fleet.term(leader))
    assert (own("leader"), own("term")) == (1.0, term)
    assert (seen("leader"), seen("term")) == (0.0, term)
    assert 0.0 < own("lease_trust_remaining_seconds") <= 2.7
    assert seen("lease_trust_remaining_seconds") == 0.0
    assert own("lease_renewals_total", result="ok") > 0
    assert own("leadership_changes_total", change="elected", reason="free") == 1.0
    assert own("ticks_total", job_id="good", decision="run", reason="on_time") >= 1
    assert own("ticks_total", job_id="slow", decision="skipped", reason="overlap") >= 1
    assert own("runs_total", job_id="good", state="succeeded") >= 1
    assert own("runs_total", job_id="bad", state="failed") >= 1
    assert own("run_retries_total", job_id="retried") >= 1
    assert own("start_delay_seconds_count", kind="scheduled") >= 4
    assert own("run_duration_seconds_count", state="failed") >= 2
    assert own("job_run_duration_seconds_count", job_id="good") >= 1
    assert own("attempts_running") >= 1.0
    for scrape in (own, seen):
        assert scrape("replicas") == 2.0
        assert scrape("jobs") == 6.0
        assert scrape("leader_idle") == 0.0
        assert scrape("oldest_unsettled_tick_age_seconds") < 5.0
        assert scrape("job_last_success_age_seconds", job_id="good") < 30.0
        assert scrape("job_last_success_age_seconds", job_id="daily") > 0.0
        assert scrape("job_last_success_age_seconds", job_id="off") is None
        assert abs(scrape("clock_difference_seconds")) < 1.0
        assert scrape("config_drift") == scrape("config_rejected") == 0.0
        assert scrape("store_unavailable", part="housekeeping") == 0.0
        assert f'version="{__version__}"' in scrape.text
    assert seen("ticks_total", job_id="good", decision="run", reason="on_time") is None
    hashes = [next(iter(one.families["scheduler_config_info"].samples)).labels["hash"] for one in (own, seen)]
    assert hashes[0] == hashes[1] == fleet.wait_for("service_started", leader).get("hash", hashes[0])
    shown = own.names | seen.names
    rare = {"threads_stuck", "attempts_lost_total", "results_damaged_total", "statements_fenced_total", "job_paused"}
    named = {name for expr in expressions() for name in NAME.findall(expr)}
    known = {f"scheduler_{name}" for name in (*rare, "job_threads_stuck", "job_success_overdue_seconds")}
    assert {name for name in named - known if "outage_seconds" not in name} <= shown


def test_metrics_are_there_while_the_database_is_not(tmp_path: Path, own_server: PostgresServer) -> None:
    with Fleet(tmp_path, own_server.url, JOBS, http={"port": 0}) as fleet:
        (replica,) = fleet.start()
        fleet.wait_for("run_started", replica)
        fleet.wait_until(lambda: Scrape(replica)("job_last_success_age_seconds", job_id="good") is not None, 0.2)
        own_server.stop("immediate")
        fleet.wait_for("store_unavailable", replica, part="housekeeping")
        fleet.wait_for("leadership_lost", replica)

        def away() -> Scrape | None:
            scrape = Scrape(replica)
            return scrape if scrape("store_unavailable", part="housekeeping") == 1.0 and not scrape("leader") else None

        first = fleet.wait_until(away, 0.2)
        assert first("store_outages_total", part="housekeeping") == 1.0
        assert first("lease_trust_remaining_seconds") == 0.0
        assert first("lease_renewals_total", result="failed") >= 1.0
        age = first("job_last_success_age_seconds", job_id="good")
        fleet.wait_until(lambda: Scrape(replica)("job_last_success_age_seconds", job_id="good") > age + 1.0, 0.2)
        own_server.start()
        fleet.wait_for("store_recovered", replica, part="housekeeping")
        fleet.wait_until(lambda: Scrape(replica)("store_unavailable", part="housekeeping") == 0.0, 0.2)
        assert Scrape(replica)("store_outage_seconds_total", part="housekeeping") > 0.0


def test_series_follow_the_configuration(fleet: Fleet) -> None:
    (replica,) = fleet.start()
    fleet.wait_for("run_finished", replica, job="good")
    fleet.wait_until(lambda: Scrape(replica)("runs_total", job_id="good", state="succeeded"), 0.2)
    before = next(iter(Scrape(replica).families["scheduler_config_info"].samples)).labels["hash"]
    fleet.config_path.write_text(fleet.text({"bad": JOBS["bad"], "new": JOBS["good"]}))
    replica.reload()
    reloaded = fleet.wait_for("config_reloaded", replica)
    assert reloaded["hash"] != before
    fleet.wait_until(lambda: Scrape(replica)("runs_total", job_id="new", state="succeeded"), 0.2)
    fleet.wait_until(lambda: 'job_id="good"' not in Scrape(replica).text, 0.2)
    scrape = Scrape(replica)
    assert scrape("config_info", hash=reloaded["hash"]) == 1.0
    assert scrape("config_info", hash=before) is None
    assert scrape("jobs") == 2.0
    assert scrape("config_reloads_total", result="ok") == 1.0
    fleet.config_path.write_text("version: 2")
    replica.reload()
    fleet.wait_for("config_rejected", replica)
    fleet.wait_until(lambda: Scrape(replica)("config_rejected") == 1.0, 0.2)
    assert Scrape(replica)("config_reloads_total", result="rejected") >= 1.0


def test_the_read_token_is_asked_for_where_there_is_one(tmp_path: Path, sqlite_url: str) -> None:
    tokens = {"token": "w" * 40, "read_token": "r" * 40}
    with Fleet(tmp_path, sqlite_url, {"good": JOBS["good"]}, http={"port": 0, **tokens}) as fleet:
        (replica,) = fleet.start()
        for wrong in (None, "", "x" * 40, "é"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                Scrape(replica, wrong)
            refused.value.close()
            assert refused.value.code == 401
        for right in tokens.values():
            assert Scrape(replica, right)("leader") == 1.0
        assert not any(token in line for token in tokens.values() for line in (replica.tail(),))


def test_a_leader_whose_dispatcher_is_stuck_is_seen_by_the_standby(tmp_path: Path, postgres_url: str) -> None:
    """Somebody holds the rows of job_state: the leader renews its lease, and can settle nothing."""
    jobs = {"good": {**JOBS["good"], "misfire_grace": "2s"}, "daily": {**JOBS["daily"], "misfire_grace": "1s"}}
    with Fleet(tmp_path, postgres_url, jobs, http={"port": 0}, election={**FAST_ELECTION, "lost_after": "6s"}) as fleet:
        fleet.start(2)
        leader = fleet.leader()
        standby, term = other(fleet, leader), fleet.term(leader)
        fleet.wait_for("run_finished", leader, job="good")
        fleet.wait_until(lambda: Scrape(standby)("oldest_unsettled_tick_age_seconds") is not None, 0.2)
        with psycopg.connect(postgres_url) as connection:
            connection.execute("select 1 from scheduler.job_state for update")
            told = fleet.wait_for("leader_idle", standby)
            assert (told["leader"], told["term"], told["job"]) == (leader.instance, term, "good")
            assert told["age_seconds"] > 10.0
            fleet.wait_until(lambda: Scrape(standby)("leader_idle") == 1.0, 0.2)
            assert Scrape(standby)("oldest_unsettled_tick_age_seconds") > 10.0
            assert (Scrape(leader)("leader"), fleet.term(leader)) == (1.0, term), "it went on renewing its lease"
        ended = fleet.wait_for("leader_active", standby)
        assert ended["leader"] == leader.instance
        fleet.wait_until(lambda: Scrape(standby)("leader_idle") == 0.0, 0.2)
