"""Listeners hear whole terms, each once and in order, whatever they do themselves."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from scheduler_service.database import Database
from scheduler_service.elector import Elector
from scheduler_service.model import Lease
from tests.electors import Heard, Told, wait_until
from tests.relay import Relay

QUICK: dict[str, Any] = {"renewal_interval": 0.2, "jitter_range": 0.1}


class Listening:
    """A listener that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def on_elected(self, lease: Lease) -> None:
        self.heard.append(("elected", lease.term))

    def on_lost(self, lease: Lease, reason: str) -> None:
        self.heard.append(("lost", lease.term, reason))

    def join(self, elector: Elector) -> Listening:
        elector.add_listener(on_elected=self.on_elected, on_lost=self.on_lost)
        return self


def terms(told: Told) -> list[int]:
    return [event.fields["term"] for event in told.heard.all("leader_elected")]


def test_every_term_is_heard_once_from_its_beginning_to_its_end(database: Database) -> None:
    leader = Told(database, **QUICK)
    listening = Listening().join(leader.elector)
    with leader:
        for number in range(5):
            leader.heard.wait("leader_elected", after=number)
            leader.elector.release(f"reason {number}")
        leader.heard.wait("leader_elected", after=5)
    told = terms(leader)
    assert len(told) == len(set(told)) == 6
    reasons = [*(f"reason {number}" for number in range(5)), "released"]
    assert listening.heard == [
        message
        for term, reason in zip(told, reasons, strict=True)
        for message in (("elected", term), ("lost", term, reason))
    ]


def test_whoever_comes_while_we_lead_hears_of_this_term_first_and_of_no_half_one(database: Database) -> None:
    with Told(database, **QUICK) as leader:
        early = Listening().join(leader.elector)
        leader.heard.wait("leader_elected")
        late = Listening().join(leader.elector)
        leader.elector.release()
        leader.heard.wait("leadership_released")
        between = Listening().join(leader.elector)
        leader.heard.wait("leader_elected", after=1)
    first, second = terms(leader)
    whole = [("elected", first), ("lost", first, "released"), ("elected", second), ("lost", second, "released")]
    assert early.heard == late.heard == whole
    assert between.heard == whole[2:]


def test_decorators_listen_and_leave_the_function_as_it_is(database: Database) -> None:
    leader, heard = Told(database), []

    @leader.elector.on_elected
    def begin(lease: Lease) -> None:
        heard.append("begin")

    @leader.elector.on_lost
    def end(lease: Lease, reason: str) -> None:
        heard.append(reason)

    with leader:
        lease = leader.elector.wait_elected(20)
        assert lease is not None
    assert heard == ["begin", "released"]
    begin(lease)
    assert heard == ["begin", "released", "begin"]


def test_a_listener_may_stop_the_elector(database: Database) -> None:
    leader, stopped = Told(database), threading.Event()
    listening = Listening()

    def stop(lease: Lease) -> None:
        leader.elector.stop()
        stopped.set()

    leader.elector.add_listener(on_elected=stop)
    listening.join(leader.elector)
    leader.elector.start()
    assert stopped.wait(20)
    (term,) = terms(leader)
    wait_until(lambda: listening.heard == [("elected", term), ("lost", term, "released")], what="the whole term")
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "listeners"], what="its end")
    assert not leader.elector.is_leader()


def test_a_listener_may_release_and_is_elected_again(database: Database) -> None:
    leader, heard = Told(database, **QUICK), []

    def release_once(lease: Lease) -> None:
        heard.append(lease.term)
        if len(heard) == 1:
            leader.elector.release("not yet")

    leader.elector.add_listener(on_elected=release_once)
    with leader:
        leader.heard.wait("leader_elected", after=1)
    assert heard == terms(leader)


def test_one_listener_that_fails_keeps_nothing_from_the_others(database: Database) -> None:
    leader = Told(database)

    def fail(lease: Lease, reason: str) -> None:
        raise RuntimeError("the port is gone")

    leader.elector.add_listener(on_lost=fail)
    listening = Listening().join(leader.elector)
    with leader:
        leader.heard.wait("leader_elected")
    (term,) = terms(leader)
    assert listening.heard == [("elected", term), ("lost", term, "released")]
    (failed,) = leader.heard.all("listener_failed")
    assert failed.fields["error"] == "RuntimeError: the port is gone"
    assert failed.fields["listener"].endswith("fail")


def test_a_listener_that_wants_to_exit_ends_no_thread(database: Database) -> None:
    leader, calls = Told(database), []

    def leave(lease: Lease) -> None:
        calls.append(lease.term)
        if len(calls) == 1:
            sys.exit("the port is taken")

    leader.elector.add_listener(on_elected=leave)
    with leader:
        leader.heard.wait("listener_failed", error="SystemExit: the port is taken")
        wait_until(lambda: len(calls) == 2, what="a second call")


def test_a_coroutine_listener_needs_an_event_loop_and_is_told_so_before_anything_starts(database: Database) -> None:
    async def begin(lease: Lease) -> None:
        raise AssertionError("nobody can await this")

    elector = Elector(database)
    elector.add_listener(on_elected=begin)
    with pytest.raises(
        RuntimeError, match=r"the listener .*begin is a coroutine function, .* use `async with elector`"
    ):
        elector.start()
    elector.stop()
    heard = Heard()
    with (
        Elector(database, events=heard.events) as started,
        pytest.raises(RuntimeError, match="is a coroutine function"),
    ):
        started.add_listener(on_lost=begin)


def test_a_coroutine_that_a_plain_listener_returns_is_a_failure_and_not_a_silent_nothing(database: Database) -> None:
    async def begin() -> None:
        raise AssertionError("nobody can await this")

    leader = Told(database)
    leader.elector.add_listener(on_elected=lambda lease: begin())
    with leader:
        failed = leader.heard.wait("listener_failed")
        assert "there is no event loop" in failed.fields["error"]


# Waiting


def test_waiting_ends_with_the_lease_or_after_its_time_or_with_the_elector(database: Database) -> None:
    leader, standby = Told(database, **QUICK), Told(database, **QUICK)
    with leader:
        lease = leader.elector.wait_elected(20)
        assert lease is not None
        assert leader.elector.wait_elected(0) is not None
        with standby:
            assert standby.elector.wait_elected(0.01) is None
            answers: list[Lease | None] = []
            waits = threading.Thread(target=lambda: answers.append(standby.elector.wait_elected(60)))
            waits.start()
            leader.elector.stop()
            waits.join(20)
            assert [answer.term for answer in answers if answer is not None] == terms(standby)
            assert leader.elector.wait_elected(60) is None


def test_whoever_waits_is_told_when_the_elector_stops(database: Database) -> None:
    with Told(database) as leader:
        leader.heard.wait("leader_elected")
        with Told(database) as standby:
            answers: list[Lease | None] = []
            waits = threading.Thread(target=lambda: answers.append(standby.elector.wait_elected(60)))
            waits.start()
            wait_until(lambda: bool(standby.elector._waiting._futures), what="somebody who waits")
            standby.elector.stop()
            waits.join(20)
            assert answers == [None]


def test_waiting_for_an_elector_that_was_not_started_is_a_mistake(database: Database) -> None:
    elector = Elector(database)
    with pytest.raises(RuntimeError, match="was not started: use it in a `with` block"):
        elector.wait_elected(60)
    elector.stop()
    assert elector.wait_elected(60) is None


def test_whoever_waits_while_the_leader_is_suspect_is_told_when_it_resumes(migrated_postgres_url: str) -> None:
    with Relay(migrated_postgres_url) as relay, Told(relay.url, attempt_timeout=0.5, **QUICK) as leader:
        term = leader.heard.wait("leader_elected").fields["term"]
        relay.stall()
        leader.heard.wait("leadership_suspect")
        answers: list[Lease | None] = []
        waits = threading.Thread(target=lambda: answers.append(leader.elector.wait_elected(60)))
        waits.start()
        wait_until(lambda: bool(leader.elector._waiting._futures), what="somebody who waits")
        relay.heal()
        waits.join(20)
        assert [answer.term for answer in answers if answer is not None] == [term]
