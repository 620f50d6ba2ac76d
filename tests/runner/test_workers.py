"""Worker threads: what is taken, begun, stopped, recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from scheduler_service.clock import BootClock, DatabaseTime
from scheduler_service.ledger import Finished
from scheduler_service.model import Attempt, JobSpec, OnCrash, Outcome, State
from scheduler_service.workers import HELD_SECONDS, Workers
from scheduler_service.workers.room import AHEAD, QUICK_SECONDS
from scheduler_service.workers.tasks import MARKED_LOST, REPLICA_ENDS
from tests.runner.conftest import NOON, PATIENCE_SECONDS, Bench, Told, a_job, an_attempt
from tests.waiting import wait_until

DONE = Outcome(State.SUCCEEDED, 0.5)


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Writer:
    """Takes results, and writes them when it is told to."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.taken: dict[int, Outcome] = {}
        self.on_written: Callable[[Sequence[Finished]], None] = lambda _: None
        self._at_once = at_once

    def add(self, attempt: Attempt, outcome: Outcome, *, awaited: bool = False) -> None:
        assert attempt.id not in self.taken, "a result was added twice"
        self.taken[attempt.id] = outcome
        if self._at_once:
            self.on_written([Finished(attempt, outcome)])

    def write(self, *numbers: int) -> None:
        self.on_written([Finished(an_attempt(number), self.taken[number]) for number in numbers])


class Jobs:
    """What runs: each attempt waits until it is let go, or asked to stop."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.threads: set[str] = set()
        self.outcome = DONE
        self._gates: dict[int, threading.Event] = {}
        self._open = False
        self._lock = threading.Lock()

    def run(self, attempt: Attempt, spec: JobSpec, stop: threading.Event) -> Outcome:
        with self._lock:
            self.begun.append(attempt.id)
            self.threads.add(threading.current_thread().name)
            gate = self._gates.setdefault(attempt.id, threading.Event())
            if self._open:
                gate.set()
        wait_until(lambda: gate.is_set() or stop.is_set())
        return Outcome(State.CANCELLED, 0.1, "stopped") if stop.is_set() else self.outcome

    def let_go(self, *numbers: int) -> None:
        for number in numbers:
            with self._lock:
                gate = self._gates.setdefault(number, threading.Event())
            gate.set()

    def let_all_go(self) -> None:
        with self._lock:
            self._open = True
            gates = list(self._gates.values())
        for gate in gates:
            gate.set()


class World:
    def __init__(
        self, threads: int = 2, *, at_once: bool = True, answers: Iterable[bool | None] = (), **settings: Any
    ) -> None:
        self.told = Told()
        self.clock = FakeClock()
        self.jobs = Jobs()
        self.writer = Writer(at_once=at_once)
        self.asked: list[int] = []
        self._answers = iter(answers)
        self.freed = threading.Semaphore(0)
        self.database_time = DatabaseTime(self.clock)
        self.workers = Workers(
            threads,
            settings.pop("run", self.jobs.run),
            self.writer,
            processes=settings.pop("processes", 2),
            still_open=settings.pop("still_open", self.still_open),
            begin_within_seconds=7.5,
            database_time=self.database_time,
            events=self.told.events,
            clock=self.clock,
            **settings,
        )
        self.workers.on_free = self.freed.release

    def still_open(self, attempt_id: int) -> bool | None:
        self.asked.append(attempt_id)
        return next(self._answers)

    def submit(self, *numbers: int, sent: float | None = None) -> None:
        for number in numbers:
            self.workers.submit(an_attempt(number, sent=self.clock.now if sent is None else sent), a_job())

    def ended(self, count: int = 1) -> None:
        """Wait until this many results are taken and their workers are free."""
        wait_until(lambda: len(self.writer.taken) >= count)
        wait_until(lambda: self.workers.free_count > 0)


def test_an_attempt_is_run_and_its_result_handed_on():
    world = World()
    world.submit(1)
    world.jobs.let_go(1)
    world.ended()
    assert world.writer.taken == {1: DONE}
    assert world.workers.registry() == {}
    assert world.told.names() == ["run_started", "run_finished"]
    assert world.told.fields("run_started") == [
        {
            "term": 4, "job": "tidy", "run": 10, "scheduled_at": NOON, "attempt": 1, "kind": "scheduled",
            "delay_seconds": 0.0,
        }
    ]  # fmt: skip
    assert world.told.fields("run_finished") == [
        {
            "term": 4, "job": "tidy", "run": 10, "scheduled_at": NOON, "attempt": 1, "state": "succeeded",
            "duration_seconds": 0.5,
        }
    ]  # fmt: skip


def test_a_failure_is_told_with_its_error():
    world = World()
    world.jobs.outcome = Outcome(State.FAILED, 0.5, "exit code 3", 3)
    world.submit(1)
    world.jobs.let_go(1)
    world.ended()
    failed = world.told.fields("run_failed")[0]
    assert (failed["state"], failed["error"], failed["exit_code"]) == ("failed", "exit code 3", 3)


@pytest.mark.parametrize(
    ("state", "name"),
    [(State.TIMED_OUT, "run_failed"), (State.CANCELLED, "run_finished"), (State.FAILED, "run_failed")],
)
def test_each_way_to_end_has_its_event(state: State, name: str):
    world = World()
    world.jobs.outcome = Outcome(state, 0.5)
    world.submit(1)
    world.jobs.let_go(1)
    world.ended()
    assert world.told.names() == ["run_started", name]


def test_the_delay_is_counted_in_the_databases_time():
    world = World()
    world.database_time.observe(100.0, 100.0, NOON + timedelta(seconds=2.5))
    world.submit(1)
    assert world.told.wait_for("run_started")[0]["delay_seconds"] == pytest.approx(2.5)
    world.jobs.let_all_go()


def test_threads_start_when_they_are_needed_and_no_more_than_allowed():
    world = World(threads=3)
    for number in (1, 2, 3):
        world.submit(number)
        world.jobs.let_go(number)
        world.ended(number)
    assert world.jobs.threads == {"worker-1"}
    world.submit(4, 5, 6)
    wait_until(lambda: len(world.jobs.begun) == 6)
    assert world.jobs.threads == {"worker-1", "worker-2", "worker-3"}
    world.jobs.let_all_go()
    wait_until(lambda: not world.workers.registry())


def test_nothing_is_taken_beyond_the_workers_there_are():
    world = World(threads=2)
    assert world.workers.free_count == 2
    world.submit(1, 2)
    assert world.workers.free_count == 0
    with pytest.raises(ValueError, match="no worker is free for attempt 3"):
        world.submit(3)
    world.jobs.let_go(1)
    wait_until(lambda: world.workers.free_count == 1)
    world.submit(3)
    assert world.workers.registry().keys() == {2, 3}
    world.jobs.let_all_go()


def test_an_attempt_is_taken_once():
    world = World(threads=2)
    world.submit(1)
    with pytest.raises(ValueError, match="attempt 1 was submitted twice"):
        world.submit(1)
    world.jobs.let_all_go()


def test_an_attempt_whose_number_another_has_is_not_begun():
    world = World(threads=2)
    world.submit(1)
    first = world.workers.registry()[1]
    world.workers.submit(replace(first, started_at=first.started_at + timedelta(seconds=1)), a_job())
    assert world.workers.registry() == {1: first}
    assert world.workers.free_count == 1
    world.jobs.let_all_go()


def test_nor_is_one_whose_number_a_stuck_function_has():
    """Its late end would take the place of the other's result."""
    world = World(run=lambda *_: Outcome(State.TIMED_OUT, 0.4, "it has not returned", returned=False))
    world.submit(1)
    wait_until(lambda: not world.workers.registry())
    (stuck,) = world.workers.stuck()
    world.workers.submit(replace(stuck, started_at=stuck.started_at + timedelta(seconds=1)), a_job())
    assert world.workers.registry() == {}
    assert world.workers.stuck() == (stuck,)


def test_a_worker_is_free_before_its_result_is_written_and_the_attempt_is_ours_until_then():
    world = World(threads=1, at_once=False)
    world.submit(1)
    world.jobs.let_go(1)
    world.ended()
    assert world.workers.free_count == 1
    assert world.workers.registry().keys() == {1}
    world.writer.write(1)
    assert world.workers.registry() == {}


def test_the_dispatcher_is_woken_when_a_worker_is_free_and_when_a_slot_is():
    world = World(threads=1, at_once=False)
    world.submit(1)
    world.jobs.let_go(1)
    assert world.freed.acquire(timeout=PATIENCE_SECONDS)
    assert not world.freed.acquire(blocking=False)
    world.writer.write(1)
    assert world.freed.acquire(blocking=False)


def test_while_too_much_is_unwritten_nothing_new_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scheduler_service.workers.UNWRITTEN_LIMIT", 10)
    world = World(threads=1, at_once=False)
    world.jobs.let_all_go()
    for number in range(1, 12):
        wait_until(lambda: world.workers.free_count == 1)
        world.submit(number)
    wait_until(lambda: len(world.writer.taken) == 11)
    assert world.workers.free_count == 0
    world.writer.write(1)
    assert world.workers.free_count == 1


def test_a_function_that_returns_at_last_takes_no_room_that_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scheduler_service.workers.UNWRITTEN_LIMIT", 1)
    world = World(threads=1, at_once=False)
    world.jobs.let_all_go()
    world.jobs.outcome = Outcome(State.TIMED_OUT, 0.4, "it has not returned", returned=False)
    world.submit(1)
    world.ended()
    world.writer.write(1)
    world.writer.taken.clear()
    world.jobs.outcome = DONE
    world.submit(2)
    world.ended()
    assert world.workers.room == 1
    world.workers.returned(an_attempt(1), DONE)  # while the statement that starts the next is on its way
    assert world.workers.room == 0
    world.workers.submit(an_attempt(3, sent=world.clock.now), a_job(), 1)
    wait_until(lambda: world.writer.taken.keys() == {1, 2, 3})


def test_a_run_is_asked_to_stop_with_a_reason():
    reasons: list[str] = []

    def run(attempt: Attempt, spec: JobSpec, stop: threading.Event) -> Outcome:
        assert stop.wait(PATIENCE_SECONDS)
        reasons.append(stop.reason)  # type: ignore[attr-defined]  # what the runner puts into the outcome
        return DONE

    world = World(run=run)
    world.submit(1)
    world.told.wait_for("run_started")
    world.workers.stop_run(99, "not ours")
    world.workers.stop_run(1, MARKED_LOST)
    world.ended()
    assert reasons == [MARKED_LOST]


@pytest.mark.parametrize("reason", [REPLICA_ENDS, MARKED_LOST])
@pytest.mark.parametrize(("on_crash", "start", "again"), [("rerun", 9, True), ("rerun", 10, False), ("fail", 1, False)])
def test_what_is_stopped_with_its_replica_is_run_again_as_often_as_its_job_says(
    reason: str, on_crash: str, start: int, again: bool
):
    world = World()
    spec = a_job(on_crash=OnCrash(on_crash))
    world.workers.submit(replace(an_attempt(1, sent=world.clock.now), attempt=start), spec)
    world.told.wait_for("run_started")
    world.workers.stop_run(1, reason)
    world.ended()
    outcome = world.writer.taken[1]
    assert (outcome.state, outcome.retry_seconds) == (State.CANCELLED, 0.0 if again else None)


def test_a_function_that_raises_what_it_should_not_has_failed():
    def run(attempt: Attempt, spec: JobSpec, stop: threading.Event) -> Outcome:
        raise SystemExit(3)

    world = World(threads=1, run=run)
    for number in (1, 2):
        world.submit(number)
        world.ended(number)
    assert world.writer.taken[2].error == "the service failed to run it: SystemExit: 3"


def test_a_crash_of_a_worker_is_handed_on():
    crashed: list[tuple[str, str]] = []
    world = World(on_crash=lambda name, error: crashed.append((name, str(error))))

    def broken() -> None:
        raise RuntimeError("a mistake of ours")

    world.workers.on_free = broken
    world.writer.on_written = lambda _: None
    world.submit(1)
    world.jobs.let_go(1)
    wait_until(lambda: crashed)
    assert crashed == [("worker-1", "a mistake of ours")]


@pytest.mark.parametrize("threads", [0, -1])
def test_no_workers_are_no_pool(threads: int):
    with pytest.raises(ValueError, match="at least 1 is needed"):
        World(threads=threads)


# --- late beginnings


def test_what_was_started_a_moment_ago_is_begun_without_asking():
    world = World()
    world.submit(1, sent=world.clock.now - 7.4)
    world.jobs.let_go(1)
    world.ended()
    assert world.asked == []
    assert world.jobs.begun == [1]


def test_what_was_started_a_while_ago_is_begun_if_it_is_still_open():
    world = World(answers=[True])
    world.submit(1, sent=world.clock.now - 7.5)
    world.jobs.let_go(1)
    world.ended()
    assert world.asked == [1]
    assert world.jobs.begun == [1]


def test_what_is_no_longer_open_is_given_back_and_never_begun():
    world = World(threads=1, answers=[False])
    world.submit(1, sent=world.clock.now - 7.5)
    returned = world.told.wait_for("attempt_returned")[0]
    assert (returned["job"], returned["run"], returned["attempt"]) == ("tidy", 10, 1)
    assert world.freed.acquire(timeout=PATIENCE_SECONDS)
    assert world.workers.free_count == 1
    assert world.workers.registry() == {}
    assert world.jobs.begun == []
    assert world.writer.taken == {}


def test_where_nobody_can_tell_it_is_asked_again():
    world = World(answers=[None, None, True])
    world.submit(1, sent=world.clock.now - 7.5)
    world.jobs.let_go(1)
    world.ended()
    assert world.asked == [1, 1, 1]
    assert world.jobs.begun == [1]


def test_an_answer_that_took_too_long_is_no_answer():
    answered: list[bool] = []

    def slow(_: int) -> bool:
        world.clock.now += 8.0 if not answered else 0.0
        answered.append(True)
        return len(answered) == 1

    world = World(still_open=slow)
    world.submit(1, sent=world.clock.now - 7.5)
    world.told.wait_for("attempt_returned")
    assert world.jobs.begun == []


def test_what_is_stopped_while_nobody_can_tell_is_cancelled_and_never_begun():
    world = World(answers=iter(lambda: None, True))
    world.submit(1, sent=world.clock.now - 7.5)
    wait_until(lambda: world.asked)
    world.workers.stop_run(1, "cancelled by ada")
    world.ended()
    outcome = world.writer.taken[1]
    assert (outcome.state, outcome.error) == (State.CANCELLED, "stopped before it began: cancelled by ada")
    assert world.jobs.begun == []


def test_what_is_marked_lost_before_it_begins_is_not_recorded():
    world = World(answers=iter(lambda: None, True))
    world.submit(1, sent=world.clock.now - 7.5)
    wait_until(lambda: world.asked)
    world.workers.stop_run(1, MARKED_LOST)
    world.told.wait_for("attempt_returned")
    wait_until(lambda: not world.workers.registry())
    assert world.jobs.begun == []
    assert 1 not in world.writer.taken


# --- the register


def test_an_attempt_is_registered_until_its_result_is_recorded():
    world = World(at_once=False)
    world.submit(1)
    world.jobs.let_go(1)
    world.ended()
    assert list(world.workers.registry()) == [1]
    forgotten = replace(an_attempt(1), started_at=NOON - timedelta(hours=1))  # by a database that gave its number again
    world.writer.on_written([Finished(forgotten, replace(DONE))])
    assert list(world.workers.registry()) == [1]
    world.writer.write(1)
    assert not world.workers.registry()


def a_stuck_world() -> World:
    """Return a world in which the function of attempt 1 was given up, and nothing is written yet."""
    world = World(at_once=False, run=lambda *_: Outcome(State.TIMED_OUT, 0.4, "it has not returned", returned=False))
    world.submit(1)
    world.ended()
    return world


def test_an_attempt_whose_function_returned_at_last_is_registered_until_that_is_recorded_too():
    """A database that forgot its first end would have it begin again otherwise."""
    world = a_stuck_world()
    world.writer.write(1)
    assert not world.workers.registry()
    world.writer.taken.clear()
    world.workers.returned(an_attempt(1), DONE)
    assert list(world.workers.registry()) == [1]
    world.writer.write(1)
    assert not world.workers.registry()


def test_an_attempt_whose_function_returns_while_its_first_end_is_being_written_is_registered_until_both_are():
    world = a_stuck_world()
    first = world.writer.taken.pop(1)
    world.workers.returned(an_attempt(1), DONE)
    world.writer.on_written([Finished(an_attempt(1), first)])
    assert list(world.workers.registry()) == [1]
    world.writer.write(1)
    assert not world.workers.registry()


def test_many_attempts_at_once_are_each_run_once():
    world = World(threads=8)
    world.jobs.let_all_go()
    number = 0
    while number < 500:
        for _ in range(world.workers.free_count):
            number += 1
            world.submit(number)
        assert world.freed.acquire(timeout=PATIENCE_SECONDS)
    wait_until(lambda: len(world.writer.taken) == number)
    assert sorted(world.jobs.begun) == list(range(1, number + 1))
    assert world.workers.registry() == {}


# --- taken ahead


def a_quick_world(threads: int = 1) -> World:
    """Return workers that have seen the job end at once."""
    world = World(threads)
    world.jobs.outcome = Outcome(State.SUCCEEDED, QUICK_SECONDS)
    world.submit(1)
    world.jobs.let_go(1)
    world.ended()
    return world


def test_of_a_job_that_was_over_at_once_a_worker_takes_several_runs_ahead():
    world = World(threads=1)
    assert (world.workers.room, world.workers.weight(a_job())) == (AHEAD, AHEAD)
    world = a_quick_world()
    assert (world.workers.room, world.workers.weight(a_job())) == (AHEAD, 1)
    ahead = range(2, AHEAD + 2)
    for number in ahead:
        world.workers.submit(an_attempt(number, sent=world.clock.now), a_job(), 1)
    assert world.workers.room == 0
    with pytest.raises(ValueError, match="no worker is free"):
        world.workers.submit(an_attempt(100, sent=world.clock.now), a_job(), 1)
    world.jobs.let_all_go()
    world.ended(AHEAD + 1)
    assert world.jobs.begun == [1, *ahead]
    assert world.jobs.threads == {"worker-1"}


@pytest.mark.parametrize("slow", [{"isolation": "process"}, {"run": None, "command": "true"}])
def test_what_may_take_longer_takes_a_whole_worker(slow: dict[str, Any]):
    assert a_quick_world().workers.weight(a_job(**{"run": "tidy:main", **slow})) == AHEAD


def test_a_job_that_has_not_run_yet_is_taken_for_one_like_the_last_that_had_not():
    world = a_quick_world()
    assert world.workers.weight(a_job(id="unknown")) == 1
    world.jobs.outcome = Outcome(State.SUCCEEDED, 2 * QUICK_SECONDS)
    world.workers.submit(an_attempt(2, sent=world.clock.now), a_job(id="slow"))
    world.jobs.let_go(2)
    world.ended(2)
    assert [world.workers.weight(a_job(id=name)) for name in ("unknown", "slow", "tidy")] == [AHEAD, AHEAD, 1]


def test_a_job_is_quick_until_a_run_takes_longer():
    world = a_quick_world()
    world.jobs.outcome = Outcome(State.SUCCEEDED, 2 * QUICK_SECONDS)
    world.submit(2)
    world.jobs.let_go(2)
    world.ended(2)
    assert world.workers.weight(a_job()) == AHEAD


def test_more_is_taken_when_half_of_what_was_taken_ahead_has_begun():
    world = a_quick_world(threads=2)
    for number in range(2, AHEAD + 6):
        world.workers.submit(an_attempt(number, sent=world.clock.now), a_job(), 1)
    assert world.workers.room == 0
    world.jobs.let_go(*range(2, 12))
    wait_until(lambda: world.workers.room > 0)
    assert 2 * world.workers.room >= 2 * AHEAD
    world.jobs.let_all_go()


def test_the_dispatcher_is_woken_when_what_waited_for_a_worker_begins_and_makes_room():
    world = World(threads=3)
    world.submit(1)
    wait_until(lambda: world.jobs.begun == [1])
    assert not world.freed.acquire(blocking=False), "there was room all the time"
    world.submit(2)  # less than half is free: whoever asks before it begins is told that there is no room
    assert world.freed.acquire(timeout=PATIENCE_SECONDS)
    assert world.workers.room == AHEAD
    wait_until(lambda: world.jobs.begun == [1, 2])
    world.submit(3)
    wait_until(lambda: world.jobs.begun == [1, 2, 3])
    assert not world.freed.acquire(blocking=False), "there is none"
    world.jobs.let_all_go()


def test_a_quick_job_that_takes_its_time_once_takes_a_whole_worker():
    world = a_quick_world(threads=2)
    world.workers.submit(an_attempt(2, sent=world.clock.now), a_job(), 1)
    wait_until(lambda: world.jobs.begun == [1, 2])
    assert world.workers.room == 2 * AHEAD - 1
    world.clock.now += 2 * QUICK_SECONDS
    assert world.workers.room == AHEAD
    world.jobs.let_all_go()


def test_what_was_taken_ahead_and_cannot_begin_is_given_back_once():
    world = a_quick_world()
    for number in (2, 3, 4):
        world.workers.submit(an_attempt(number, sent=world.clock.now), a_job(), 1)
    wait_until(lambda: world.jobs.begun == [1, 2])
    assert world.workers.give_back() == []
    world.workers.stop_run(4, "cancelled by a person")
    world.clock.now += 2 * HELD_SECONDS
    assert world.workers.weight(a_job(id="unknown")) == 1
    assert [one.id for one in world.workers.give_back()] == [3]
    assert world.workers.weight(a_job(id="unknown")) == AHEAD
    assert world.workers.give_back() == []
    assert world.workers.registry().keys() == {2, 4}
    world.jobs.let_all_go()
    world.ended(3)
    assert world.jobs.begun == [1, 2]
    assert world.writer.taken[4].state is State.CANCELLED


def test_once_they_are_closed_nothing_begins_that_has_not_and_what_has_goes_on():
    world = a_quick_world()
    for number in (2, 3):
        world.workers.submit(an_attempt(number, sent=world.clock.now), a_job(), 1)
    wait_until(lambda: world.jobs.begun == [1, 2])
    world.workers.close()
    assert world.workers.registry().keys() == {2}
    for number in range(4, 4 + 2 * AHEAD):  # whether there is room or not
        world.workers.submit(an_attempt(number, sent=world.clock.now), a_job())
    assert world.workers.registry().keys() == {2}
    world.jobs.let_all_go()
    world.ended(2)
    assert world.jobs.begun == [1, 2]
    assert world.writer.taken.keys() == {1, 2}


@pytest.mark.parametrize("answer", [True, False, None])
def test_once_they_are_closed_a_worker_that_asks_whether_it_may_begin_begins_nothing(answer: bool | None):
    asked, told = threading.Event(), threading.Event()

    def still_open(_: int) -> bool | None:
        asked.set()
        told.wait(PATIENCE_SECONDS)
        return answer

    world = World(threads=1, still_open=still_open)
    world.submit(1, sent=world.clock.now - 7.5)
    assert asked.wait(PATIENCE_SECONDS)
    world.workers.close()
    assert world.workers.registry() == {}, "it may be given back now, whatever the ledger says"
    told.set()
    (returned,) = world.told.wait_for("attempt_returned")
    assert returned["reason"] == REPLICA_ENDS
    wait_until(lambda: world.workers.free_count == 1)
    assert world.jobs.begun == []
    assert world.writer.taken == {}


def test_once_they_are_closed_what_was_taken_ahead_and_cancelled_is_left_to_the_ledger():
    world = a_quick_world()
    for number in (2, 3):
        world.workers.submit(an_attempt(number, sent=world.clock.now), a_job(), 1)
    wait_until(lambda: world.jobs.begun == [1, 2])
    world.workers.stop_run(3, "cancelled by ada")
    world.workers.close()
    assert world.workers.registry().keys() == {2}
    world.jobs.let_all_go()
    world.ended(2)
    world.told.wait_for("attempt_returned")
    assert world.jobs.begun == [1, 2]
    assert world.writer.taken.keys() == {1, 2}


def test_with_a_real_runner_what_a_job_does_ends_no_worker(bench: Bench):
    bench.write(
        """
        import os, sys
        def main(what):
            if what == "exit":
                sys.exit(3)
            if what == "raise":
                raise KeyboardInterrupt
            if what == "recurse":
                main(what)
            return what
        """
    )
    writer = Writer()
    workers = Workers(
        1,
        bench.runner.run,
        writer,
        processes=1,
        still_open=lambda _: True,
        begin_within_seconds=7.5,
        database_time=DatabaseTime(BootClock()),
        events=bench.told.events,
        clock=BootClock(),
    )
    for number, what in enumerate(("exit", "raise", "recurse", "return"), 1):
        workers.submit(an_attempt(number, sent=BootClock().monotonic()), a_job(run="tidy:main", args=(what,)))
        wait_until(lambda: workers.free_count == 1)
    assert [outcome.state for outcome in writer.taken.values()] == [State.FAILED] * 3 + [State.SUCCEEDED]


# --- tried again, and processes of their own


def test_a_failure_that_is_tried_again_is_no_alarm():
    world = World()
    world.jobs.outcome = Outcome(State.FAILED, 0.5, "exit code 3", 3, retry_seconds=10.0)
    world.submit(1)
    world.jobs.let_go(1)
    world.ended()
    assert world.told.names() == ["run_started", "run_retrying"]
    told = world.told.fields("run_retrying")[0]
    assert (told["state"], told["error"], told["exit_code"], told["retry_seconds"]) == (
        "failed",
        "exit code 3",
        3,
        10.0,
    )


def test_an_attempt_in_a_process_takes_a_worker_and_a_process():
    world = World(threads=3, processes=1)
    own = a_job(run="tidy:main", isolation="process")
    assert (world.workers.free_count, world.workers.free_process_count) == (3, 1)
    world.workers.submit(an_attempt(1, sent=world.clock.now), own)
    assert (world.workers.free_count, world.workers.free_process_count) == (2, 0)
    with pytest.raises(ValueError, match="no process is free for attempt 2: ask free_process_count"):
        world.workers.submit(an_attempt(2, sent=world.clock.now), own)
    world.submit(3)
    world.jobs.let_go(1)
    wait_until(lambda: world.workers.free_process_count == 1)
    world.workers.submit(an_attempt(4, sent=world.clock.now), own)
    assert (world.workers.free_count, world.workers.free_process_count) == (1, 0)
    world.jobs.let_all_go()
    wait_until(lambda: (world.workers.free_count, world.workers.free_process_count) == (3, 1))


def test_where_no_worker_is_free_no_process_is():
    world = World(threads=1, processes=4)
    world.submit(1)
    assert world.workers.free_process_count == 0
    world.jobs.let_all_go()


def test_an_attempt_that_is_given_back_gives_its_process_back():
    world = World(threads=1, processes=1, answers=[False])
    world.workers.submit(an_attempt(1, sent=world.clock.now - 7.5), a_job(run="tidy:main", isolation="process"))
    world.told.wait_for("attempt_returned")
    wait_until(lambda: world.workers.free_process_count == 1)


@pytest.mark.parametrize("processes", [0, -1])
def test_no_processes_are_no_pool(processes: int):
    with pytest.raises(ValueError, match="at least 1 is needed"):
        World(processes=processes)
