"""The crash detector: what arms a term, who may take it over early, and what must not be taken for a death."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from scheduler_service import guard as guards
from scheduler_service import tables
from scheduler_service.clock import BootClock
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.events import Events
from scheduler_service.guard import Guard
from scheduler_service.leases import LeaseStore, election_key, open_store
from tests.electors import Heard, wait_until
from tests.relay import Relay
from tests.servers import PostgresServer

LEADER, SUCCESSOR = "leader-aaaaaa", "successor-bbbbbb"
CLASS = election_key("scheduler", 1)


class Bench:
    """Stores and guards on one PostgreSQL, and a director who looks and hurts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.director = psycopg.connect(url, autocommit=True)
        self.closing: list[Callable[[], None]] = [self.director.close]

    def store(self, url: str | None = None, *, guarded: bool = True) -> LeaseStore:
        database = Database(url or self.url)
        store = open_store(database, lock_id=1, lease_seconds=30.0, attempt_seconds=2.0, guarded=guarded)
        self.closing.append(store.close)
        return store

    def guard(self, heard: Heard | None = None) -> tuple[Guard, list[int]]:
        gone: list[int] = []
        events = heard.events if heard else Events()
        guard = Guard(Database(self.url), 1, gone=gone.append, events=events, clock=BootClock(), rng=random.Random(1))
        self.closing.append(guard.stop)
        return guard, gone

    def row(self) -> Any:
        columns = "term, leader_id, guard_pid, guard_boot = pg_postmaster_start_time()"
        return self.director.execute(f"select {columns} from scheduler.leader_lease").fetchone()

    def locks(self) -> list[tuple[int, int, str]]:
        """Return who holds or wants which key: process, key, mode."""
        statement = "select pid, objid, mode from pg_locks where locktype = 'advisory' and classid = %s order by mode"
        return self.director.execute(statement, [CLASS & 0xFFFFFFFF]).fetchall()

    def terminate(self, pid: int) -> None:
        self.director.execute("select pg_terminate_backend(%s)", [pid])
        wait_until(lambda: pid not in self.backends(), what=f"the end of {pid}")

    def backends(self) -> list[int]:
        return [pid for (pid,) in self.director.execute("select pid from pg_stat_activity").fetchall()]

    def end_reasons(self) -> list[str | None]:
        statement = "select end_reason from scheduler.leader_term order by term"
        return [reason for (reason,) in self.director.execute(statement).fetchall()]

    def close(self) -> None:
        for close in reversed(self.closing):
            close()


@pytest.fixture
def bench(migrated_postgres_url: str) -> Iterator[Bench]:
    bench = Bench(migrated_postgres_url)
    yield bench
    bench.close()


def acquire(store: LeaseStore, leader_id: str = LEADER) -> int:
    acquired = store.acquire(leader_id)
    assert acquired is not None
    return acquired.term


# Arming


def test_a_term_is_armed_by_the_statement_that_acquires_it(bench: Bench) -> None:
    acquired = bench.store().acquire(LEADER)
    assert acquired is not None
    assert acquired.armed
    term, leader_id, pid, this_boot = bench.row()
    assert (term, leader_id, this_boot) == (acquired.term, LEADER, True)
    assert bench.locks() == [(pid, acquired.term, "ExclusiveLock")]
    seen = bench.store().observe()
    assert seen is not None
    assert seen.armed


def test_nothing_is_armed_unless_asked_for(bench: Bench) -> None:
    acquired = bench.store(guarded=False).acquire(LEADER)
    assert acquired is not None
    assert not acquired.armed
    assert bench.row()[2:] == (None, None)
    assert bench.locks() == []


def test_a_term_whose_key_is_somebody_elses_is_led_unarmed(bench: Bench) -> None:
    store = bench.store()
    store.observe()
    bench.director.execute("select pg_advisory_lock(%s, 1)", [CLASS])
    acquired = store.acquire(LEADER)
    assert acquired is not None
    assert (acquired.term, acquired.armed) == (1, False)
    assert bench.row()[2:] == (None, None)
    bench.director.execute("select pg_advisory_unlock_all()")
    renewal = store.renew(1, LEADER)
    assert renewal is not None
    assert renewal.armed  # it is tried again
    assert bench.row()[3] is True


def test_a_term_resumed_on_a_fresh_session_is_armed_again(bench: Bench) -> None:
    store = bench.store()
    term = acquire(store)
    former = bench.row()[2]
    bench.terminate(former)
    with pytest.raises(StoreUnavailable):
        store.renew(term, LEADER)
    renewal = store.renew(term, LEADER)
    assert renewal is not None
    assert renewal.armed
    pid = bench.row()[2]
    assert pid != former
    assert bench.locks() == [(pid, term, "ExclusiveLock")]


def test_a_term_that_is_watched_is_renewed_by_its_whole_token_and_in_time(bench: Bench) -> None:
    store = bench.store()
    term = acquire(store)
    assert store.renew(term, LEADER) is not None
    bench.director.execute("update scheduler.leader_lease set leader_id = %s", [SUCCESSOR])
    assert store.renew(term, LEADER) is None
    store = bench.store()
    later = acquire(store, SUCCESSOR)
    bench.director.execute(
        "update scheduler.leader_lease set created_at = created_at - interval '1 hour', expires_at = clock_timestamp()"
    )
    assert store.renew(later, SUCCESSOR) is None


def test_a_released_term_leaves_no_lock_behind(bench: Bench) -> None:
    store = bench.store()
    term = acquire(store)
    assert [key for _, key, _ in bench.locks()] == [term]
    assert store.release(term, LEADER, "released")
    assert bench.locks() == []


def test_a_term_resumed_by_way_of_a_pooler_is_armed_no_more(bench: Bench) -> None:
    term = acquire(bench.store())
    with Relay(bench.url, pooled=True) as pooler:
        renewal = bench.store(pooler.url).renew(term, LEADER)
        assert renewal is not None
        assert not renewal.armed
    assert bench.row()[2:] == (None, None)


def test_behind_a_pooler_the_detector_stays_off_and_says_so(bench: Bench) -> None:
    with Relay(bench.url, pooled=True) as pooler:
        store = bench.store(pooler.url)
        acquired = store.acquire(LEADER)
        assert acquired is not None
        assert not acquired.armed
        assert store.unguarded_reason == "a pooler lends out the session: the lease has to expire"
        assert bench.locks() == []
        store.close()


def test_a_server_that_takes_locks_without_meaning_it_is_found_out(bench: Bench) -> None:
    bench.director.execute("create schema pretended")
    bench.director.execute(
        "create function pretended.pg_try_advisory_lock(int, int) returns bool language sql as 'select true'"
    )
    store = bench.store(f"{bench.url}?options=-csearch_path%3Dpretended,pg_catalog,public")
    acquired = store.acquire(LEADER)
    assert acquired is not None
    assert not acquired.armed
    assert store.unguarded_reason == "the server does not hold advisory locks"


def test_a_self_test_that_cannot_be_made_prevents_no_leading(
    postgres_url: str, make_role: Callable[[str], str]
) -> None:
    tables.upgrade(Database(postgres_url))
    bench = Bench(postgres_url)
    url = make_role("scheduler_test_single")
    for grant in ("usage on schema", "all on all tables in schema", "all on all sequences in schema"):
        bench.director.execute(f"grant {grant} scheduler to scheduler_test_single")
    bench.director.execute("alter role scheduler_test_single connection limit 1")
    store = bench.store(url)
    acquired = store.acquire(LEADER)
    assert acquired is not None
    assert not acquired.armed
    assert "a second session could not be opened" in (store.unguarded_reason or "")
    bench.director.execute("alter role scheduler_test_single connection limit 5")
    renewal = store.renew(acquired.term, LEADER)
    assert renewal is not None
    assert renewal.armed
    assert store.unguarded_reason is None
    bench.close()


# Taking over early


def test_a_term_whose_session_is_gone_is_taken_over_before_it_expires(bench: Bench) -> None:
    leader, successor = bench.store(), bench.store()
    term = acquire(leader)
    assert successor.acquire(SUCCESSOR) is None
    leader.close()
    wait_until(lambda: not bench.locks(), what="the end of the session")
    later = successor.acquire(SUCCESSOR)
    assert later is not None
    assert later.term > term
    assert later.armed
    assert bench.end_reasons() == ["session_gone", None]


def test_an_unarmed_term_is_not_taken_over_before_it_expires(bench: Bench) -> None:
    leader, successor = bench.store(guarded=False), bench.store()
    acquire(leader)
    leader.close()
    assert successor.acquire(SUCCESSOR) is None


def test_a_term_armed_in_another_incarnation_of_the_server_is_not_taken_over_before_it_expires(bench: Bench) -> None:
    leader, successor = bench.store(), bench.store()
    acquire(leader)
    bench.director.execute("update scheduler.leader_lease set guard_boot = guard_boot - interval '1 second'")
    leader.close()
    wait_until(lambda: not bench.locks(), what="the end of the session")
    seen = successor.observe()
    assert seen is not None
    assert not seen.armed
    assert successor.acquire(SUCCESSOR) is None


def test_a_frozen_former_leaders_lock_does_not_hinder_the_next(bench: Bench) -> None:
    frozen, second, third = bench.store(), bench.store(), bench.store()
    term = acquire(frozen)
    bench.director.execute(
        "update scheduler.leader_lease set created_at = created_at - interval '1 hour', "
        "expires_at = clock_timestamp() - interval '1 second'"
    )
    later = second.acquire(SUCCESSOR)
    assert later is not None
    assert later.armed
    assert {key for _, key, _ in bench.locks()} == {term, later.term}  # the frozen one holds its own still
    second.close()
    wait_until(lambda: len(bench.locks()) == 1, what="the end of the second session")
    assert third.acquire("third-cccccc") is not None
    assert frozen.renew(term, LEADER) is None
    wait_until(lambda: term not in {key for _, key, _ in bench.locks()}, what="the frozen one's lock is given back")


def test_a_statement_that_ran_out_of_time_costs_no_session(bench: Bench) -> None:
    store = bench.store()
    term = acquire(store)
    pid = bench.row()[2]
    with psycopg.connect(bench.url) as holder:
        holder.execute("select from scheduler.leader_lease for update")
        with pytest.raises(StoreUnavailable):
            store.renew(term, LEADER)
        holder.rollback()
    assert bench.locks() == [(pid, term, "ExclusiveLock")]  # else every standby would take over
    renewal = store.renew(term, LEADER)
    assert renewal is not None
    assert renewal.armed
    assert bench.row()[2] == pid


# Being told


def test_a_release_told_while_the_row_was_being_read_is_not_slept_through(bench: Bench) -> None:
    leader, standby = bench.store(), bench.store()
    term = acquire(leader)
    standby.observe()
    session = standby._session  # type: ignore[attr-defined]
    read = session.connection.notifications
    released: list[bool] = []

    def release_first() -> Any:
        if not released:
            released.append(leader.release(term, LEADER, "released"))
        return read()

    session.connection.notifications = release_first
    assert standby.observe() is None


# The guard


def test_the_guard_tells_of_the_end_of_the_session_it_watches(bench: Bench) -> None:
    term = acquire(bench.store())
    guard, gone = bench.guard()
    guard.start()
    guard.watch(term)
    wait_until(lambda: "ShareLock" in {mode for _, _, mode in bench.locks()}, what="the guard waits")
    assert gone == []
    bench.terminate(bench.row()[2])
    wait_until(lambda: bool(gone), what="the guard tells")
    assert gone == [term]
    assert bench.locks() == []  # the guard gave its lock back


def test_the_guard_tells_once_until_it_is_asked_again(bench: Bench) -> None:
    guard, gone = bench.guard()
    guard.start()
    guard.watch(5)
    wait_until(lambda: gone == [5], what="the guard tells")
    guard.watch(6)
    wait_until(lambda: gone == [5, 6], what="the guard tells")
    guard.watch(None)
    assert gone == [5, 6]


def test_a_wait_that_reaches_its_limit_tells_nothing_and_logs_no_error(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "WAIT_SECONDS", 0.2)
    url = own_server.create_database()
    tables.upgrade(Database(url))
    bench = Bench(url)
    try:
        term = acquire(bench.store())
        before = own_server.log
        guard, gone = bench.guard()
        assert guard.step(term) == 0.0
        assert guard.step(term) == 0.0
        assert gone == []
        guard.stop()
        assert "ERROR" not in own_server.log.removeprefix(before)
    finally:
        bench.close()


def test_a_guard_frozen_in_its_wait_keeps_nobody_from_the_lock(bench: Bench) -> None:
    leader = bench.store()
    term = acquire(leader)
    frozen = psycopg.connect(bench.url, autocommit=True)
    bench.closing.append(frozen.close)
    wait = guards._WAIT.format(number=CLASS, key=term, milliseconds=5000)
    frozen.pgconn.send_query(wait.encode())  # and nobody ever reads the answer
    wait_until(lambda: (frozen.info.backend_pid, term, "ShareLock") in bench.locks(), what="the guard waits")
    bench.terminate(bench.row()[2])
    wait_until(lambda: not bench.locks(), what="the lock is given back though the answer was not read")
    with pytest.raises(StoreUnavailable):
        leader.renew(term, LEADER)
    renewal = leader.renew(term, LEADER)
    assert renewal is not None
    assert renewal.armed


def test_a_guard_that_cannot_ask_pauses_tells_of_it_and_goes_on(own_server: PostgresServer) -> None:
    bench = Bench(own_server.url)
    heard = Heard()
    guard, gone = bench.guard(heard)
    bench.director.close()
    own_server.stop()
    guard.start()
    guard.watch(3)
    heard.wait("store_unavailable", part="guard")
    own_server.start()
    heard.wait("store_recovered", part="guard")
    wait_until(lambda: gone == [3], what="the guard tells")
    guard.stop()


def test_a_guard_is_stopped_in_the_middle_of_its_wait(bench: Bench) -> None:
    term = acquire(bench.store())
    guard, gone = bench.guard()
    guard.start()
    guard.watch(term)
    wait_until(lambda: "ShareLock" in {mode for _, _, mode in bench.locks()}, what="the guard waits")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(guard.stop).result(3)
    assert gone == []
    assert "guard" not in {thread.name for thread in threading.enumerate()}
