"""Electors on a real server: sessions ended, servers restarted, processes killed, networks cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scheduler_service import tables
from scheduler_service.database import Database
from scheduler_service.leases import Resignation, open_store, request_resignation
from tests.electors import Told, wait_until
from tests.relay import Relay
from tests.servers import PostgresServer

AUTO: dict[str, Any] = {"crash_detection": "auto"}
QUICK: dict[str, Any] = {"renewal_interval": 0.2, "jitter_range": 0.1}
# Rounds so long that nothing in these tests can be owed to one.
PATIENT: dict[str, Any] = {"lease_duration": 120, "renewal_interval": 50, "jitter_range": 0}
# Errors so early that trust has long to go.
HASTY: dict[str, Any] = {"lease_duration": 120, "renewal_interval": 0.2, "jitter_range": 0, "attempt_timeout": 0.5}


def value(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
        return row[0] if row else None


def expire(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "update scheduler.leader_lease set created_at = created_at - interval '1 hour', "
            "expires_at = clock_timestamp() - interval '1 second'"
        )


def guard_pid(url: str) -> Any:
    return value(url, "select guard_pid from scheduler.leader_lease")


@pytest.fixture
def hurt(own_server: PostgresServer) -> tuple[PostgresServer, str]:
    """A server of our own, and the URL of a database with our tables on it."""
    url = own_server.create_database()
    tables.upgrade(Database(url))
    return own_server, url


# Told, not polled


def test_a_release_wakes_the_pollers(migrated_postgres_url: str) -> None:
    with Told(migrated_postgres_url, **PATIENT) as leader:
        leader.heard.wait("leader_elected")
        with Told(migrated_postgres_url, **PATIENT) as standby:
            standby.heard.wait("leader_observed")
            leader.elector.release()
            assert standby.heard.wait("leader_elected").fields["how"] == "free"


def test_a_new_leader_is_told_to_the_others(migrated_postgres_url: str) -> None:
    with Told(migrated_postgres_url, **PATIENT) as leader:
        leader.heard.wait("leader_elected")
        with Told(migrated_postgres_url, **PATIENT) as standby:
            standby.heard.wait("leader_observed")
            leader.elector.release()
            standby.heard.wait("leader_elected")
            leader.heard.wait("leader_observed", leader=standby.elector.instance_id)


def test_a_leaders_end_wakes_the_guards(migrated_postgres_url: str) -> None:
    with Told(migrated_postgres_url, **AUTO, **PATIENT) as leader:
        leader.heard.wait("leader_elected", crash_detection=True)
        with Told(migrated_postgres_url, **AUTO, **PATIENT) as standby:
            standby.heard.wait("leader_observed")
            value(migrated_postgres_url, f"select pg_terminate_backend({guard_pid(migrated_postgres_url)})")
            # Either the standby was faster, or the leader took its lock again: never both, never neither.
            leader.heard.wait("leadership_suspect")
            wait_until(
                lambda: bool(leader.heard.all("leadership_resumed") or leader.heard.all("leadership_lost")),
                what="the former leader knows",
            )
            if leader.heard.all("leadership_lost"):
                standby.heard.wait("leader_elected", how="session_gone")
            assert leader.elector.is_leader() != standby.elector.is_leader()


def test_a_lone_leader_whose_session_is_ended_resumes_its_term_and_arms_it_again(migrated_postgres_url: str) -> None:
    with Told(migrated_postgres_url, **AUTO, **PATIENT) as leader:
        term = leader.heard.wait("leader_elected").fields["term"]
        former = guard_pid(migrated_postgres_url)
        value(migrated_postgres_url, f"select pg_terminate_backend({former})")
        resumed = leader.heard.wait("leadership_resumed", term=term)
        assert resumed.fields["suspect_seconds"] < 2
        assert guard_pid(migrated_postgres_url) not in (None, former)
        lease = leader.elector.current()
        assert lease is not None
        assert (lease.term, lease.armed) == (term, True)
        assert leader.heard.all("leadership_lost") == []


# The server goes and comes back


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_server_changes_neither_leader_nor_term(hurt: tuple[PostgresServer, str], mode: str) -> None:
    server, url = hurt
    with Told(url, **AUTO) as leader:
        term = leader.heard.wait("leader_elected").fields["term"]
        with Told(url, **AUTO) as standby:
            standby.heard.wait("leader_observed", term=term)
            server.restart(mode)
            leader.heard.wait("leadership_resumed", term=term)
            lease = leader.elector.current()
            assert lease is not None
            assert (lease.term, lease.armed) == (term, True)
            assert value(url, "select guard_boot = pg_postmaster_start_time() from scheduler.leader_lease")
            standby.heard.wait("store_recovered", part="elector")
            # And the detector works as before.
            value(url, f"select pg_terminate_backend({guard_pid(url)})")
            leader.heard.wait("leadership_suspect", after=1)
            wait_until(lambda: leader.elector.is_leader() or standby.elector.is_leader(), what="a leader")
        assert leader.heard.all("thread_crashed") == standby.heard.all("thread_crashed") == []


def test_no_term_comes_back_after_a_crash_of_the_server_and_the_deletion_of_every_row(
    hurt: tuple[PostgresServer, str],
) -> None:
    server, url = hurt
    store = open_store(Database(url), lock_id=1, lease_seconds=10.0, attempt_seconds=2.0, guarded=True)
    terms = []
    for leader_id in ("first-aaaaaa", "second-bbbbbb", "third-cccccc"):
        acquired = store.acquire(leader_id)
        assert acquired is not None
        terms.append(acquired.term)
        store.close()
        server.restart("immediate")
        with server.connect(url.rpartition("/")[2]) as operator:
            operator.execute("delete from scheduler.leader_lease")
            operator.execute("delete from scheduler.leader_term")
    assert terms == sorted(set(terms))


def test_an_outage_longer_than_the_lease_ends_with_a_leader(hurt: tuple[PostgresServer, str]) -> None:
    server, url = hurt
    quick: dict[str, Any] = {
        "lease_duration": 2.0,
        "renewal_interval": 0.4,
        "jitter_range": 0.2,
        "attempt_timeout": 0.5,
        "safety_margin": 0.2,
    }
    with Told(url, **AUTO, **quick) as one, Told(url, **AUTO, **quick) as two:
        wait_until(lambda: one.elector.is_leader() or two.elector.is_leader(), what="a leader")
        leader, standby = (one, two) if one.elector.is_leader() else (two, one)
        server.stop("immediate")
        leader.heard.wait("leadership_suspect")
        assert not leader.elector.is_leader()
        leader.heard.wait("leadership_lost", reason="trust_lapsed")
        standby.heard.wait("store_unavailable", part="elector")
        leader.heard.wait("store_unavailable", part="elector")
        server.start()
        wait_until(lambda: one.elector.is_leader() or two.elector.is_leader(), what="a leader")
        assert not (one.elector.is_leader() and two.elector.is_leader())


@pytest.mark.parametrize("outage", ["paused", "stopped", "paused while it reconnects"])
def test_an_elector_that_cannot_give_its_lease_back_stops_in_time_and_quietly(
    hurt: tuple[PostgresServer, str], outage: str
) -> None:
    server, url = hurt
    before = set(threading.enumerate())
    leader = Told(url, **AUTO, **PATIENT) if outage != "paused while it reconnects" else Told(url, **AUTO, **HASTY)
    ends: list[str] = []
    leader.elector.add_listener(on_lost=lambda _, reason: ends.append(reason))
    try:
        with leader:
            leader.heard.wait("leader_elected")
            if outage == "stopped":
                server.stop("immediate")
            else:
                server.pause()
            if outage == "paused while it reconnects":
                leader.heard.wait("leadership_suspect")  # and connecting waits for 2 s at least
            began = time.monotonic()
            leader.elector.stop(timeout_seconds=0.5)
            assert time.monotonic() - began < 2.5
            assert not leader.elector.is_leader()
            wait_until(lambda: set(threading.enumerate()) <= before, what="the threads have ended")
        assert [event.fields["reason"] for event in leader.heard.all("leadership_lost")] == ["release_unanswered"]
        assert len(ends) == 1
        assert leader.heard.all("thread_crashed") == []
    finally:
        server.resume()


def test_electors_may_start_before_the_server(own_server: PostgresServer) -> None:
    own_server.stop()
    with Told(own_server.url, **AUTO) as early:
        early.heard.wait("store_unavailable", part="elector")
        own_server.start()
        early.heard.wait("leader_elected")  # which made the tables
        early.heard.wait("store_recovered")


# The network


def test_a_leader_whose_packets_are_swallowed_suspects_within_an_attempt(migrated_postgres_url: str) -> None:
    with Relay(migrated_postgres_url) as network, Told(network.url, **QUICK, attempt_timeout=0.5) as leader:
        term = leader.heard.wait("leader_elected").fields["term"]
        network.stall()
        error = leader.heard.wait("leadership_suspect").fields["error"]
        assert not leader.elector.is_leader()
        assert error == "the database did not answer within 0.5 s"
        network.heal()
        leader.heard.wait("leadership_resumed", term=term)


def test_a_partitioned_leader_is_replaced_when_its_lease_expires_and_not_before(migrated_postgres_url: str) -> None:
    with Relay(migrated_postgres_url) as network, Told(network.url, **AUTO, **QUICK) as leader:
        leader.heard.wait("leader_elected")
        with Told(migrated_postgres_url, **AUTO, **QUICK) as standby:
            standby.heard.wait("leader_observed")
            network.stall()
            expire(migrated_postgres_url)
            standby.heard.wait("leader_elected", how="expired")
            leader.heard.wait("leadership_suspect")
            network.heal()
            leader.heard.wait("leadership_lost")
            leader.heard.wait("leader_observed", leader=standby.elector.instance_id)


def test_behind_a_pooler_the_lease_alone_decides(migrated_postgres_url: str) -> None:
    with Relay(migrated_postgres_url, pooled=True) as pooler, Told(pooler.url, **AUTO) as leader:
        leader.heard.wait("leader_elected", crash_detection=False)
        off = leader.heard.all("crash_detection_off")
        assert [event.fields["reason"] for event in off] == ["a pooler lends out the session: the lease has to expire"]


# Names


def test_two_replicas_with_one_name_are_told_apart_and_told_of(migrated_postgres_url: str) -> None:
    with Told(migrated_postgres_url, instance_id="web", **QUICK) as leader:
        leader.heard.wait("leader_elected")
        with Told(migrated_postgres_url, instance_id="web", **QUICK) as standby:
            standby.heard.wait("instance_id_shared", other=leader.elector.instance_id)
            assert not standby.elector.is_leader()


def test_a_request_to_resign_in_the_row_is_obeyed(migrated_postgres_url: str) -> None:
    with Told(migrated_postgres_url, **QUICK) as leader:
        leader.heard.wait("leader_elected")
        with psycopg.connect(migrated_postgres_url, autocommit=True) as operator:
            operator.execute("update scheduler.leader_lease set resign_term = term")
        leader.heard.wait("leadership_released", reason="resigned")
    assert value(migrated_postgres_url, "select end_reason from scheduler.leader_term order by term") == "resigned"


def test_a_request_to_resign_wakes_the_leader_and_names_who_asked(migrated_postgres_url: str) -> None:
    database = Database(migrated_postgres_url)
    with Told(migrated_postgres_url, **PATIENT) as leader:
        term = leader.heard.wait("leader_elected").fields["term"]
        asked = request_resignation(database, 1, "ann@desk")
        assert asked == Resignation(leader.elector.instance_id, term)
        leader.heard.wait("resign_requested", term=term, by="ann@desk")
        leader.heard.wait("leadership_released", reason="resigned")
    database.dispose()


def test_a_request_that_was_told_along_with_a_renewal_is_not_slept_over(migrated_postgres_url: str) -> None:
    database = Database(migrated_postgres_url)
    store = open_store(database, lock_id=1, lease_seconds=60.0, attempt_seconds=5.0, guarded=False)
    acquired = store.acquire("me")  # whose own word to the others is heard with the next answer
    assert acquired is not None
    with psycopg.connect(migrated_postgres_url, autocommit=True) as operator:
        operator.execute(
            """create function ask() returns trigger language plpgsql as $$ begin
                 update scheduler.leader_lease set resign_term = term where resign_term is null; return null; end $$"""
        )
        operator.execute(
            "create trigger behind after update on scheduler.leader_lease "
            "when (pg_trigger_depth() = 0) execute function ask()"
        )
    renewal = store.renew(acquired.term, "me")
    assert renewal is not None
    assert renewal.resign_requested
    store.close()
    database.dispose()


# Processes


class Process:
    """A process that stands for election, and what it says."""

    def __init__(self, url: str, name: str) -> None:
        root = Path(__file__).parents[2]
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.postgres.electing", url, name], cwd=root, stdout=subprocess.PIPE, text=True
        )

    def wait_elected(self) -> int:
        assert self.child.stdout is not None
        word, term = self.child.stdout.readline().split()
        assert word == "elected"
        return int(term)

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.child.pid, sign)
        if sign is signal.SIGKILL:
            self.child.wait(10)

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(10)
        assert self.child.stdout is not None
        self.child.stdout.close()


def test_a_killed_leader_is_replaced_within_milliseconds(
    migrated_postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = int(os.environ.get("SCHEDULER_TEST_TRIALS", "2"))
    processes: list[Process] = []
    took: list[float] = []
    try:
        leader = Process(migrated_postgres_url, "first")
        processes.append(leader)
        terms = [leader.wait_elected()]
        with Told(migrated_postgres_url, **AUTO) as standby:
            standby.heard.wait("leader_observed")
            for _ in range(trials):
                _wait_for_guard(migrated_postgres_url)
                killed = time.monotonic()
                leader.kill()
                elected = standby.heard.wait("leader_elected", after=len(took))
                took.append(time.monotonic() - killed)
                assert elected.fields["how"] == "session_gone"
                terms.append(elected.fields["term"])
                leader = Process(migrated_postgres_url, "next")
                processes.append(leader)
                wait_until(lambda: _sessions(migrated_postgres_url) >= 2, what="the next has a session")
                standby.elector.release()
                terms.append(leader.wait_elected())
        assert terms == sorted(set(terms))
    finally:
        for process in processes:
            process.close()
    figures = " ".join(f"{seconds * 1000:.1f}" for seconds in sorted(took))
    with capsys.disabled():
        print(f"\nkill -9 to the next leader's acquire, ms: {figures}")


def _wait_for_guard(url: str) -> None:
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    wait_until(lambda: value(url, waiting) >= 1, what="a guard waits")


def _sessions(url: str) -> int:
    count: int = value(url, "select count(*) from pg_stat_activity where application_name like '%elector'")
    return count


def test_a_leader_frozen_longer_than_its_lease_leads_no_more_when_it_thaws(migrated_postgres_url: str) -> None:
    frozen = Process(migrated_postgres_url, "frozen")
    try:
        frozen.wait_elected()
        with Told(migrated_postgres_url, **AUTO, **QUICK) as standby:
            standby.heard.wait("leader_observed")
            frozen.kill(signal.SIGSTOP)
            expire(migrated_postgres_url)
            standby.heard.wait("leader_elected", how="expired")
            frozen.kill(signal.SIGCONT)
            assert frozen.child.stdout is not None
            assert frozen.child.stdout.readline().split()[0] == "lost"
            assert standby.elector.is_leader()
    finally:
        frozen.close()
