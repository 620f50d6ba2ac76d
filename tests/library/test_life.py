"""Several elections in one process, what an elector costs, and what is left when it has ended."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from scheduler_service import Elector, NotLeaderError
from scheduler_service.database import Database
from scheduler_service.model import Lease
from tests.electors import Heard, Told, wait_until

QUICK: dict[str, Any] = {"renewal_interval": 0.2, "jitter_range": 0.1}
OURS = ("elector", "guard", "listeners", "journal")


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name in OURS)


def sessions(url: str) -> list[str]:
    """The application names of all other sessions of that PostgreSQL database."""
    database = Database(url)
    query = (
        "select application_name from pg_stat_activity"
        " where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    with database.connect() as connection:
        names = sorted(connection.execute(text(query)).scalars())
    database.dispose()
    return names


def test_elections_of_one_process_are_led_and_ended_apart(store_url: str) -> None:
    lost: list[tuple[int, str]] = []
    told = {lock_id: Told(store_url, lock_id=lock_id, **QUICK) for lock_id in (1, 2, -(2**63))}

    def note(lease: Lease, reason: str) -> None:
        lost.append((lease.lock_id, reason))

    for each in told.values():
        each.elector.add_listener(on_lost=note)
        each.elector.start()
    leases = {lock_id: each.elector.wait_elected(20) for lock_id, each in told.items()}
    assert {lock_id: lease.lock_id for lock_id, lease in leases.items() if lease} == {1: 1, 2: 2, -(2**63): -(2**63)}
    assert len({lease.leader_id for lease in leases.values() if lease}) == 3
    told[1].elector.stop()
    for lock_id in (2, -(2**63)):
        renewed = len(told[lock_id].heard.all("leadership_renewed"))
        told[lock_id].heard.wait("leadership_renewed", after=renewed + 1)
        assert told[lock_id].elector.current() is not None
        assert told[lock_id].heard.all("leadership_suspect") == []
    assert lost == [(1, "released")]
    with Told(store_url, lock_id=1, **QUICK) as next_one:
        next_one.heard.wait("leader_elected")
    for lock_id in (2, -(2**63)):
        told[lock_id].elector.stop()
    assert sorted(lost) == [(-(2**63), "released"), (1, "released"), (2, "released")]
    assert threads() == []


def test_terms_of_one_election_grow_whatever_others_do(database: Database) -> None:
    terms: list[int] = []
    for _ in range(2):
        for lock_id in (1, 2):
            with Elector(database, lock_id=lock_id) as elector:
                lease = elector.wait_elected(20)
                assert lease is not None
                terms.append(lease.term)
    assert terms[0] < terms[2]
    assert terms[1] < terms[3]


def test_schemas_are_elections_apart_too(migrated_postgres_url: str) -> None:
    with Elector(migrated_postgres_url) as one, Elector(migrated_postgres_url, schema="second") as other:
        assert one.wait_elected(20) is not None
        assert other.wait_elected(20) is not None


def test_an_elector_costs_one_thread_and_one_connection(migrated_postgres_url: str) -> None:
    with Elector(migrated_postgres_url) as leader:
        leader.wait_elected(20)
        assert threads() == ["elector"]
        assert sessions(migrated_postgres_url) == ["scheduler-service elector"]
        with Told(migrated_postgres_url) as standby:
            standby.heard.wait("leader_observed")
            assert threads() == ["elector"] * 2
            # The session in which it looked at the tables may not have ended yet.
            expected = ["scheduler-service elector"] * 2
            wait_until(lambda: sessions(migrated_postgres_url) == expected, what="one session each")
        leader.add_listener(on_elected=lambda lease: None)
        assert threads() == ["elector", "listeners"]
    wait_until(lambda: sessions(migrated_postgres_url) == [], what="the end of the sessions")
    assert threads() == []


def test_crash_detection_costs_a_thread_more_and_a_standby_a_connection_more(migrated_postgres_url: str) -> None:
    with Told(migrated_postgres_url, crash_detection="auto") as leader:
        leader.heard.wait("leader_elected")
        assert threads() == ["elector", "guard"]
        assert sessions(migrated_postgres_url) == ["scheduler-service elector"]
        with Told(migrated_postgres_url, crash_detection="auto") as standby:
            standby.heard.wait("leader_observed")
            expected = ["scheduler-service elector"] * 2 + ["scheduler-service guard"]
            wait_until(lambda: sessions(migrated_postgres_url) == expected, what="the guard's session")


# The end, and after


def test_after_stop_everything_that_may_be_asked_says_no(database: Database) -> None:
    elector = Elector(database)
    elector.start()
    elector.wait_elected(20)
    elector.stop()
    elector.stop()
    assert elector.current() is None
    assert not elector.is_leader()
    assert elector.wait_elected(60) is None
    with pytest.raises(NotLeaderError, match="the elector was stopped"):
        elector.require()
    elector.release()
    elector.withdraw()
    elector.add_listener(on_elected=lambda lease: None)
    with pytest.raises(RuntimeError, match="was stopped: make another"):
        elector.start()
    with pytest.raises(RuntimeError, match="was stopped: make another"), elector:
        pass
    assert threads() == []


@pytest.mark.parametrize("started", [False, True], ids=["never started", "stopped"])
def test_an_elector_that_is_not_used_any_more_is_collected_without_a_word(store_url: str, started: bool) -> None:
    elector = Elector(store_url)
    elector.add_listener(on_elected=lambda lease: None)
    if started:
        with elector:
            elector.wait_elected(20)
    remembered = weakref.ref(elector)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del elector
        gc.collect()
    assert remembered() is None


def test_an_elector_that_runs_is_kept_by_its_thread(store_url: str) -> None:
    heard = Heard()
    elector = Elector(store_url, events=heard.events, **QUICK)
    elector.start()
    remembered = weakref.ref(elector)
    heard.wait("leader_elected")
    del elector
    gc.collect()
    heard.wait("leadership_renewed", after=len(heard.all("leadership_renewed")) + 1)
    again = remembered()
    assert again is not None
    again.stop()


def test_a_program_that_ends_without_stopping_ends_at_once(migrated_sqlite_url: str) -> None:
    program = (
        "import sys; from scheduler_service import Elector; elector = Elector(sys.argv[1]); elector.start();"
        "print(elector.wait_elected(20).term)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, migrated_sqlite_url],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


def test_a_forked_child_listens_and_logs_for_itself(store_url: str) -> None:
    logger = logging.getLogger("test.fork")
    logger.setLevel(logging.INFO)
    elector = Elector(store_url, logger=logger, **QUICK)
    elector.add_listener(on_elected=lambda lease: None)
    with elector:
        lease = elector.wait_elected(20)
        assert lease is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads
            pid = os.fork()
        if pid == 0:
            os._exit(_in_child(elector, lease, logger))
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert elector.is_leader()


def _in_child(elector: Elector, lease: Lease, logger: logging.Logger) -> int:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        with pytest.raises(RuntimeError, match="was not started"):
            elector.wait_elected(60)
        with pytest.raises(NotLeaderError):
            elector.require()
        with elector:
            wait_until(lambda: elector.observation is not None, what="the parent")
            with pytest.raises(NotLeaderError, match=f"{lease.leader_id} does, in term {lease.term}"):
                elector.require()
        assert lines == [f"leader_observed leader={lease.leader_id} term={lease.term} instance={elector.instance_id}"]
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def test_what_a_child_needs_is_loaded_before_any_thread_runs(migrated_sqlite_url: str) -> None:
    program = """
import logging, sys
from scheduler_service import Elector
logger = logging.getLogger("election")
logger.setLevel(logging.DEBUG)
elector = Elector(sys.argv[1], logger=logger)
before = set(sys.modules)
with elector:
    elector.wait_elected(20)
print({name for name in set(sys.modules) - before if name.startswith(("scheduler_service", "structlog"))})
"""
    done = subprocess.run(
        [sys.executable, "-c", program, migrated_sqlite_url], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "set()\n"


def test_entering_twice_starts_one_thread(database: Database) -> None:
    with Elector(database) as elector:
        elector.start()
        assert threads() == ["elector"]


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lock_id": "7"}, "lock_id is '7': it must be a whole number of 64 bits"),
        ({"lock_id": True}, "lock_id is True"),
        ({"lock_id": 2**63}, "lock_id is 9223372036854775808: it must be a whole number of 64 bits"),
        ({"lease_duration": "10s"}, "'10s' is no duration: give seconds as a number, or a timedelta"),
        ({"renewal_interval": None}, "None is no duration"),
        ({"renewal_interval": True}, "True is no duration"),
        ({"lease_duration": timedelta(days=2)}, "lease_duration is 172800s: it must be over 0, and at most a day"),
        ({"lease_duration": float("inf")}, "lease_duration is infs: it must be over 0, and at most a day"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_asked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Elector("postgresql://nobody@nowhere.invalid/none", **settings)


def test_making_an_elector_asks_nobody_anything() -> None:
    began = time.monotonic()
    Elector("postgresql://nobody@192.0.2.1/none").stop()
    assert time.monotonic() - began < 60
    assert threads() == []


def test_a_database_that_refuses_is_told_to_whoever_asks_why(migrated_postgres_url: str) -> None:
    url = migrated_postgres_url.rpartition("/")[0] + "/not_there"
    with Told(url, **QUICK) as told:
        told.heard.wait("store_unavailable")
        with pytest.raises(NotLeaderError, match='database "not_there" does not exist'):
            told.elector.require()
        assert told.elector.problem is not None
