"""What an elector with its thread promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from scheduler_service import tables
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.elector import Elected, Elector, Lost, Observed
from scheduler_service.elector.announcements import BACKLOG_LIMIT, Listener, Listeners
from scheduler_service.events import Events
from scheduler_service.leases import Acquired, LeaseStore, open_store
from scheduler_service.model import Lease
from scheduler_service.tables import database_time, leader_lease, leader_term
from tests.electors import Heard, Told, wait_until

QUICK: dict[str, Any] = {"renewal_interval": 0.2, "jitter_range": 0.1}


def ends(database: Database) -> list[str | None]:
    with database.connect() as connection:
        return list(connection.execute(select(leader_term.c.end_reason).order_by("term")).scalars())


def row_count(database: Database) -> int:
    with database.connect() as connection:
        return len(connection.execute(select(leader_lease.c.id)).all())


def expire(database: Database) -> None:
    with database.transaction() as connection:
        now = connection.execute(select(database_time())).scalar_one()
        moved = {"expires_at": now - timedelta(seconds=1), "created_at": now - timedelta(seconds=2)}
        connection.execute(update(leader_lease).values(**moved))


def test_an_elector_leads_in_its_block_and_gives_the_lease_back_at_its_end(database: Database) -> None:
    heard = Heard()
    with Elector(database, lock_id=7, events=heard.events) as elector:
        heard.wait("leader_elected", lock_id=7)
        assert elector.is_leader()
        lease = elector.current()
        assert lease is not None
        assert lease.leader_id == elector.instance_id
        assert row_count(database) == 1
    assert elector.current() is None
    assert row_count(database) == 0
    assert ends(database) == ["released"]
    assert not [thread.name for thread in threading.enumerate() if thread.name in ("elector", "guard", "listeners")]


def test_a_url_is_enough(store_url: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}" if store_url.startswith("sqlite") else store_url
    with Told(url) as only:
        only.heard.wait("leader_elected")
    assert tables.check(Database(url)) == []


def test_one_leads_and_another_takes_over_when_it_stops(database: Database) -> None:
    with Told(database, **QUICK) as leader:
        term = leader.heard.wait("leader_elected").fields["term"]
        with Told(database, **QUICK) as standby:
            standby.heard.wait("leader_observed", leader=leader.elector.instance_id, term=term)
            assert not standby.elector.is_leader()
            leader.elector.stop()
            assert standby.heard.wait("leader_elected").fields["term"] > term


def test_a_leader_whose_lease_was_taken_steps_down(database: Database) -> None:
    with Told(database, **QUICK) as former:
        former.heard.wait("leader_elected")
        expire(database)
        former.heard.wait("leadership_lost", reason="deposed")
        former.heard.wait("leader_elected", after=1)
    assert ends(database) == ["replaced_by_itself", "released"]


def test_release_gives_the_lease_back_at_once(database: Database) -> None:
    with Told(database) as leader:
        leader.heard.wait("leader_elected")
        leader.elector.release("drained")
        assert not leader.elector.is_leader()
        leader.heard.wait("leadership_released", reason="drained")
        assert row_count(database) == 0
        assert ends(database) == ["drained"]


def test_whoever_withdraws_gives_back_and_goes_on_looking(database: Database) -> None:
    with Told(database, **QUICK) as leader:
        leader.heard.wait("leader_elected")
        with Told(database, **QUICK) as standby:
            leader.elector.withdraw()
            standby.heard.wait("leader_elected")
            leader.heard.wait("leader_observed", leader=standby.elector.instance_id)


def test_a_fenced_statement_wakes_the_elector(database: Database) -> None:
    rounds_too_long_to_wait_for = {"lease_duration": 120, "renewal_interval": 50, "jitter_range": 0}
    with Told(database, **rounds_too_long_to_wait_for) as leader:
        term = leader.heard.wait("leader_elected").fields["term"]
        leader.elector.deposed(term)
        assert not leader.elector.is_leader()
        leader.heard.wait("leadership_lost", reason="fenced")


def test_announcements_come_in_order_and_once_for_each_term(database: Database) -> None:
    told: list[Any] = []
    heard = Heard()
    with Elector(database, events=heard.events, announce=told.append, **QUICK) as elector:
        heard.wait("leader_elected")
        elector.release()
        heard.wait("leader_elected", after=1)
    kept = [(type(message), message.lease.term) for message in told if not isinstance(message, Observed)]
    first, second = (event.fields["term"] for event in heard.all("leader_elected"))
    assert kept == [(Elected, first), (Lost, first), (Elected, second), (Lost, second)]
    assert first < second


# Listeners


class Listening:
    """A listener that notes what it hears, and on which thread."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()

    def on_elected(self, lease: Lease) -> None:
        self.threads.add(threading.current_thread().name)
        self.heard.append(("elected", lease.term))

    def on_lost(self, lease: Lease, reason: str) -> None:
        self.threads.add(threading.current_thread().name)
        self.heard.append(("lost", lease.term, reason))


def test_listeners_hear_of_each_term_once_in_order_on_a_thread_of_their_own(database: Database) -> None:
    with Told(database, **QUICK) as leader:
        listening = Listening()
        leader.elector.add_listener(on_elected=listening.on_elected, on_lost=listening.on_lost)
        leader.heard.wait("leader_elected")
        leader.elector.release()
        leader.heard.wait("leader_elected", after=1)
    terms = [event.fields["term"] for event in leader.heard.all("leader_elected")]
    expected = [("elected", terms[1]), ("lost", terms[1], "released")]
    assert listening.heard[-2:] == expected
    assert listening.heard[:-2] in (
        [("elected", terms[0]), ("lost", terms[0], "released")],
        [("lost", terms[0], "released")],
    )
    assert listening.threads == {"listeners"}


def test_a_listener_that_fails_once_is_called_again(database: Database) -> None:
    leader = Told(database)
    calls: list[int] = []

    def fail_at_first(lease: Lease) -> None:
        calls.append(lease.term)
        if len(calls) == 1:
            raise RuntimeError("not yet")

    leader.elector.add_listener(on_elected=fail_at_first)
    with leader:
        leader.heard.wait("listener_failed", error="RuntimeError: not yet")
        wait_until(lambda: len(calls) == 2, what="a second call")
        assert leader.elector.is_leader()
    assert len(set(calls)) == 1
    assert len(calls) == 2


def test_an_elector_resigns_whose_listener_fails_three_times(database: Database) -> None:
    leader, lost = Told(database), threading.Event()

    def fail(lease: Lease) -> None:
        raise RuntimeError("the port is taken")

    leader.elector.add_listener(on_elected=fail, on_lost=lambda lease, reason: lost.set())
    with leader:
        leader.heard.wait("leadership_released", reason="listener_failed")
        assert lost.wait(10)
        assert len(leader.heard.all("listener_failed")) == 3
    assert ends(database)[0] == "listener_failed"


def test_a_listener_that_hangs_holds_no_renewal_up(database: Database) -> None:
    leader, go_on = Told(database, **QUICK), threading.Event()
    leader.elector.add_listener(on_elected=lambda lease: go_on.wait(30) and None)
    with leader:
        leader.heard.wait("leadership_renewed", after=2)
        assert leader.elector.is_leader()
        go_on.set()


def test_so_many_messages_wait_for_a_hanging_listener_and_no_further_term_begins() -> None:
    go_on = threading.Event()
    listeners = Listeners(Events(), resign=lambda term: None, holds=lambda term: True)
    listeners.add(Listener(lambda lease: go_on.wait(30) and None, None))
    for term in range(BACKLOG_LIMIT // 2):
        lease = Lease(1, "me", term, datetime(2031, 1, 1, tzinfo=UTC), 0.0)
        listeners.put(Elected(lease))
        assert not listeners.behind
        listeners.put(Lost(lease, "released"))
    listeners.put(Elected(lease))
    assert listeners.behind
    go_on.set()
    listeners.stop(10)
    assert not listeners.behind


# What goes wrong


class LosesReplies:
    """A lease store whose first acquire is executed and never answered."""

    def __init__(self, store: LeaseStore) -> None:
        self._store = store
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def acquire(self, leader_id: str) -> Acquired | None:
        acquired = self._store.acquire(leader_id)
        if not self._lost:
            self._lost = True
            raise StoreUnavailable("the reply was lost")
        return acquired


def test_a_lease_whose_acquisition_was_never_answered_is_recognised_as_ours(database: Database) -> None:
    store = open_store(database, lock_id=1, lease_seconds=10.0, attempt_seconds=2.0, guarded=False)
    told: list[Any] = []
    with Told(LosesReplies(store), announce=told.append) as leader:
        elected = leader.heard.wait("leader_elected")
        assert elected.fields["how"] == "reply_lost"
    assert ends(database) == ["replaced_by_itself", "released"]
    assert len([message for message in told if isinstance(message, Elected)]) == 1


def test_a_database_that_is_not_there_yet_is_asked_until_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with Told(f"sqlite:///{folder}/scheduler.db") as early:
        early.heard.wait("store_unavailable", part="elector")
        folder.mkdir()
        early.heard.wait("store_recovered", part="elector")
        early.heard.wait("leader_elected")


def test_a_thread_that_crashes_leads_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda crash: raised.append(str(crash.exc_value)))

    def crash(message: Any) -> None:
        if isinstance(message, Elected):
            raise TypeError("a mistake of ours")

    with Told(database, announce=crash) as leader:
        event = leader.heard.wait("thread_crashed")
        assert event.fields["error"] == "TypeError: a mistake of ours"
        assert not leader.elector.is_leader()
        assert leader.heard.names[-2:] == ["leadership_lost", "thread_crashed"]
    assert raised == ["a mistake of ours"]


def test_a_hung_elector_thread_is_harmless(database: Database) -> None:
    class Hand:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock, hanging, go_on = Hand(), threading.Event(), threading.Event()

    def hang(message: Any) -> None:
        if isinstance(message, Elected):
            hanging.set()
            go_on.wait(30)

    with Told(database, announce=hang, clock=clock) as leader:
        assert hanging.wait(20)
        assert leader.elector.is_leader()
        clock.now += 9.0
        assert not leader.elector.is_leader()
        go_on.set()


def test_stopping_ends_within_its_limit_though_a_listener_hangs(database: Database) -> None:
    leader, go_on, called = Told(database), threading.Event(), threading.Event()

    def hang(lease: Lease) -> None:
        called.set()
        go_on.wait(30)

    leader.elector.add_listener(on_elected=hang)
    leader.elector.start()
    assert called.wait(20)
    began = time.monotonic()
    leader.elector.stop(timeout_seconds=0.5)
    assert time.monotonic() - began < 5
    assert row_count(database) == 0
    go_on.set()


def test_whoever_was_stopped_does_not_start_again(database: Database) -> None:
    elector = Elector(database)
    elector.stop()
    with pytest.raises(RuntimeError, match="was stopped"):
        elector.start()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crash_detection": "maybe"}, "crash_detection is 'maybe': it must be 'auto' or 'off'"),
        ({"lease_duration": timedelta(seconds=8)}, "lease_duration is 8s, too short"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Elector("sqlite:///x.db", **settings)


def test_steps_need_no_thread(database: Database) -> None:
    elector = Elector(database, instance_id="by-hand")
    assert 1.0 <= elector.step() <= 5.0
    assert elector.is_leader()
    assert elector.instance_id.startswith("by-hand-")
    assert elector.instance_id != Elector(database, instance_id="by-hand").instance_id
    elector.stop()
    assert row_count(database) == 0


def test_a_forked_child_is_no_leader_has_a_name_of_its_own_and_can_stand_for_itself(database: Database) -> None:
    with Told(database, **QUICK) as parent:
        parent.heard.wait("leader_elected")
        lease = parent.elector.current()
        assert lease is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads
            pid = os.fork()
        if pid == 0:
            os._exit(_in_child(parent.elector, lease))
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        renewed = len(parent.heard.all("leadership_renewed"))
        parent.heard.wait("leadership_renewed", after=renewed + 1)
        assert parent.elector.is_leader()
        assert parent.heard.all("leadership_suspect") == []


def test_a_child_that_was_forked_in_the_middle_of_an_answer_can_stand_for_itself(database: Database) -> None:
    elector = Elector(database)
    with elector.database_time._lock, warnings.catch_warnings():  # as its thread holds it
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                elector.step()
            finally:
                os._exit(0 if elector.is_leader() else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_whatever_a_forked_child_tells_bears_its_own_name(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    elector = Elector(database, crash_detection="auto", events=heard.events)

    def fail(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("gone")

    elector.add_listener(on_lost=fail)
    elector.forget()  # as in a child
    lease = Lease(1, "other", 1, datetime.now(UTC), 0.0, False)
    elector._listeners.put(Lost(lease, "crashed"))
    monkeypatch.setattr(database, "own_connection", fail)
    elector.step()
    parts = {"elector"}
    if elector._guard is not None:
        parts.add("guard")
        elector._guard.step(1)
        elector._guard.step(1)  # the first failure may be no more than the end of an idle session
    elector.stop()
    told = [*heard.all("store_unavailable"), *heard.all("listener_failed")]
    assert {event.fields.get("part", "listener") for event in told} == parts | {"listener"}
    assert {event.fields["instance"] for event in told} == {elector.instance_id}


def _in_child(elector: Elector, lease: Lease) -> int:
    try:
        if elector.is_leader() or elector.holds(lease.term):
            return 10
        if elector.instance_id == lease.leader_id:
            return 11
        elector.step()
        if elector.is_leader() or elector.observation is None or elector.observation.leader_id != lease.leader_id:
            return 12
        elector.start()
        elector.stop()
    except BaseException:
        return 13
    return 0
