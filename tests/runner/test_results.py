"""Results are written in batches, through outages, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from scheduler_service.clock import BootClock
from scheduler_service.database import StoreConflict, StoreFull, StoreRefused, StoreUnavailable
from scheduler_service.ledger import Finished
from scheduler_service.model import Outcome, State
from scheduler_service.results import BATCH_RESULTS, IDLE_SECONDS, LONGEST_PAUSE_SECONDS, PATIENCE, Results
from scheduler_service.rush import Rush
from tests.runner.conftest import PATIENCE_SECONDS, Told, an_attempt
from tests.waiting import wait_until

DONE = Outcome(State.SUCCEEDED, 0.5, output="hello", result="3")


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Store:
    """A ledger's finish, which fails as it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.written: dict[int, Outcome] = {}
        self.refuse: Callable[[Finished], Exception | None] = lambda _: None
        self.down: Exception | None = None

    def finish(self, finished: Sequence[Finished]) -> None:
        self.calls.append([one.attempt.id for one in finished])
        if self.down is not None:
            raise self.down
        for one in finished:
            if problem := self.refuse(one):
                raise problem
        for one in finished:
            assert one.attempt.id not in self.written, "a result was written twice"
            self.written[one.attempt.id] = one.outcome


class World:
    def __init__(self) -> None:
        self.store = Store()
        self.clock = FakeClock()
        self.told = Told()
        self.rush = Rush()
        self.results = Results(self.store.finish, events=self.told.events, clock=self.clock, rush=self.rush)
        self.durable: list[int] = []
        self.results.on_written = self._note

    def _note(self, finished: Sequence[Finished]) -> None:
        assert all(one.attempt.id in self.store.written for one in finished)
        self.durable += [one.attempt.id for one in finished]

    def add(self, *numbers: int, outcome: Outcome = DONE) -> None:
        for number in numbers:
            self.results.add(an_attempt(number), outcome)

    def step(self, count: int = 1) -> list[float]:
        """Take steps, and wait as long as each says."""
        waits = []
        for _ in range(count):
            waits.append(self.results.step())
            self.clock.now += waits[-1]
        return waits


@pytest.fixture
def world() -> World:
    return World()


def test_with_nothing_to_write_nothing_is_sent(world: World):
    assert world.step() == [IDLE_SECONDS]
    assert world.store.calls == []


def test_what_has_gathered_is_written_in_one_statement(world: World):
    world.add(1, 2, 3)
    assert world.results.pending_count == 3
    assert world.step(2) == [0.0, IDLE_SECONDS]
    assert world.store.calls == [[1, 2, 3]]
    assert world.durable == [1, 2, 3]
    assert world.results.pending_count == 0
    assert world.told.names() == []


def test_a_batch_has_a_limit(world: World):
    world.add(*range(1, 2 * BATCH_RESULTS + 2))
    world.step(3)
    assert [len(call) for call in world.store.calls] == [BATCH_RESULTS, BATCH_RESULTS, 1]


def test_results_wait_through_an_outage_of_any_length(world: World):
    world.store.down = StoreUnavailable("the server is down")
    world.add(1, 2)
    waits = world.step(200)
    world.add(3)
    waits += world.step(200)
    assert world.results.pending_count == 3
    world.store.down = None
    world.step(2)
    assert world.store.written == {1: DONE, 2: DONE, 3: DONE}
    assert world.durable == [1, 2, 3]
    assert max(waits) == LONGEST_PAUSE_SECONDS
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]


def test_an_outage_is_told_when_it_begins_once_a_minute_and_when_it_ends(world: World):
    world.store.down = StoreUnavailable("the server is down")
    world.add(1)
    while world.clock.now < 100.0 + 125.0:
        world.step()
    world.store.down = None
    world.step()
    assert world.told.names() == ["store_unavailable"] * 3 + ["store_recovered"]
    assert world.told.fields("store_unavailable")[0] == {"part": "results", "error": "the server is down"}
    assert world.told.fields("store_recovered")[0]["outage_seconds"] >= 120


def test_in_a_long_outage_only_one_row_is_tried_at_a_time(world: World):
    world.store.down = StoreUnavailable("the server is down")
    world.add(*range(1, 101))
    world.step(PATIENCE + 10)
    assert world.store.calls[PATIENCE:] == [[1], []] * 10  # and asked whether it takes anything


def test_one_refused_row_does_not_hold_up_the_others(world: World):
    world.store.refuse = lambda one: StoreConflict("no such attempt") if one.attempt.id == 2 else None
    world.add(1, 2, 3)
    world.step()
    assert world.store.written.keys() == {1, 3}
    assert world.durable == [1, 3]
    assert world.told.fields("result_refused") == [{"job": "tidy", "run": 20, "attempt": 1, "error": "no such attempt"}]


def test_a_row_that_is_refused_in_any_form_is_kept_and_tried_again(world: World):
    world.store.refuse = lambda one: TypeError("a mistake of ours") if one.attempt.id == 2 else None
    world.add(1, 2, 3)
    world.step(50)
    assert world.results.pending_count == 1
    assert world.told.names() == ["result_refused"]
    world.store.refuse = lambda _: None
    world.step(2)
    assert world.store.written[2] == DONE


def test_a_row_that_waits_aside_delays_no_other(world: World):
    world.store.refuse = lambda one: TypeError("a mistake of ours") if one.attempt.id == 1 else None
    world.add(1, 2)
    world.step()
    world.add(3, 4)
    assert world.step() == [0.0]
    assert world.store.calls[-1] == [3, 4]
    assert world.step() == [LONGEST_PAUSE_SECONDS]


@pytest.mark.parametrize("error", [StoreConflict("bad text"), UnicodeEncodeError("utf-8", "\udcff", 0, 1, "bad text")])
def test_a_row_whose_words_are_refused_is_written_without_them(world: World, error: Exception):
    world.store.refuse = lambda one: error if one.attempt.id == 2 and one.outcome.output else None
    world.add(1, 2, 3, outcome=Outcome(State.FAILED, 0.5, "it failed", 3, "result", "words", True))
    world.step()
    assert world.store.written[2] == Outcome(State.FAILED, 0.5, None, 3, None, "", True)
    assert world.store.written[3].output == "words"
    assert world.told.fields("result_cut") == [{"job": "tidy", "run": 20, "attempt": 1, "error": str(error)}]
    assert world.results.pending_count == 0


def test_a_row_that_passes_for_an_outage_is_found_out(world: World):
    # The driver's error for bad data does not always say that the data is bad.
    world.store.refuse = lambda one: StoreUnavailable("invalid byte sequence") if one.outcome.output == "bad" else None
    world.add(1)
    world.add(2, outcome=Outcome(State.SUCCEEDED, 0.5, output="bad"))
    world.add(3)
    world.step(PATIENCE + 1)
    assert world.store.written.keys() == {1, 2, 3}
    assert world.store.written[1] == DONE
    assert world.store.written[2].output == ""
    assert len(world.told.fields("result_cut")) == 1


def test_a_row_for_which_there_is_no_room_keeps_its_words_and_holds_up_no_other(world: World):
    full = [True]
    large = Outcome(State.FAILED, 0.5, "it went wrong", output="large")
    world.store.refuse = lambda one: StoreFull("no room") if full[0] and one.outcome.output == "large" else None
    world.add(1)
    world.add(2, outcome=large)
    world.add(3)
    world.step(PATIENCE + 1)
    assert world.store.written.keys() == {1, 3}
    assert world.results.pending_count == 1
    world.step(3 * PATIENCE)
    full[0] = False
    world.step(PATIENCE)
    assert world.store.written[2] == large
    assert world.told.fields("result_cut") == world.told.fields("result_refused") == []


def test_a_short_outage_costs_no_words(world: World):
    world.store.down = StoreRefused("permission denied")
    world.add(1, 2)
    world.step(PATIENCE - 1)
    world.store.down = None
    world.step()
    assert world.store.written == {1: DONE, 2: DONE}
    assert world.told.fields("result_cut") == []


@pytest.mark.parametrize("failed_count", range(PATIENCE, PATIENCE + 6))
def test_a_long_outage_costs_no_words_whenever_it_ends(world: World, failed_count: int):
    def finish(finished: Sequence[Finished]) -> None:
        world.store.down = StoreUnavailable("timeout") if len(world.store.calls) < failed_count else None
        world.store.finish(finished)

    world.results = Results(finish, events=world.told.events, clock=world.clock)
    world.add(1, 2)
    world.step(PATIENCE + 6)
    assert world.store.written == {1: DONE, 2: DONE}
    assert world.told.names() == ["store_unavailable", "store_recovered"]


def test_no_fault_at_any_call_loses_or_doubles_a_result():
    """Fail the first call, then the second, and so on, until a pass meets no fault."""
    for error in (StoreUnavailable("down"), StoreConflict("refused"), ValueError("odd")):
        faulty = 0
        while True:
            world = World()
            met = _finish_with_fault(world, faulty, error)
            assert world.store.written.keys() == set(range(1, 6))
            assert sorted(world.durable) == list(range(1, 6))
            if not met:
                break
            faulty += 1
        assert faulty >= 2


def _finish_with_fault(world: World, faulty: int, error: Exception) -> bool:
    """Write five results; the call with this number fails.  Return whether there was one."""

    def refuse(_: Finished) -> Exception | None:
        return error if len(world.store.calls) == faulty + 1 else None

    world.store.refuse = refuse
    world.add(1, 2, 3)
    world.step()
    world.add(4, 5)
    world.step(10)
    return len(world.store.calls) > faulty


# --- the thread


def started(finish: Callable[[Sequence[Finished]], None], **settings: Any) -> tuple[Results, Told]:
    told = Told()
    results = Results(finish, events=told.events, clock=BootClock(), **settings)
    results.start()
    return results, told


def soon() -> float:
    return BootClock().monotonic() + PATIENCE_SECONDS


def test_the_thread_writes_what_is_added_and_flush_waits_for_it():
    store = Store()
    results, _ = started(store.finish)
    for number in range(1, 1001):
        results.add(an_attempt(number), DONE)
    assert results.flush(soon())
    assert store.written.keys() == set(range(1, 1001))
    results.stop()


def test_flush_gives_up_at_its_deadline_and_loses_nothing():
    store = Store()
    store.down = StoreUnavailable("down")
    results, told = started(store.finish)
    results.add(an_attempt(1), DONE)
    told.wait_for("store_unavailable")
    assert not results.flush(BootClock().monotonic() + 0.05)
    store.down = None
    assert results.flush(soon())
    assert store.written == {1: DONE}
    results.stop()


def test_who_is_in_a_hurry_ends_a_pause_and_waits_for_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scheduler_service.results.FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr("scheduler_service.results.LONGEST_PAUSE_SECONDS", 3600.0)
    store = Store()
    store.down = StoreUnavailable("down")
    results, told = started(store.finish)
    results.add(an_attempt(1), DONE)
    told.wait_for("store_unavailable")
    store.down = None
    results.hurry()
    wait_until(lambda: results.pending_count == 0)
    assert store.written == {1: DONE}
    results.stop()


def test_a_slow_write_gathers_what_is_added_meanwhile():
    store, began, go = Store(), threading.Event(), threading.Event()

    def finish(finished: Sequence[Finished]) -> None:
        began.set()
        assert go.wait(PATIENCE_SECONDS)
        store.finish(finished)

    results, _ = started(finish)
    results.add(an_attempt(1), DONE)
    assert began.wait(PATIENCE_SECONDS)
    for number in range(2, 51):
        results.add(an_attempt(number), DONE)
    go.set()
    assert results.flush(soon())
    assert store.calls == [[1], list(range(2, 51))]
    results.stop()


def test_a_new_result_does_not_hasten_a_store_that_is_down():
    store = Store()
    store.down = StoreUnavailable("down")
    results, told = started(store.finish)
    results.add(an_attempt(1), DONE)
    told.wait_for("store_unavailable")
    for number in range(2, 1000):
        results.add(an_attempt(number), DONE)
    assert len(store.calls) < 100
    store.down = None
    assert results.flush(soon())
    results.stop()


def test_a_crash_of_the_thread_is_handed_on():
    crashed: list[tuple[str, BaseException]] = []
    done = threading.Event()

    def on_crash(name: str, error: BaseException) -> None:
        crashed.append((name, error))
        done.set()

    def on_written(_: Sequence[Finished]) -> None:
        raise RuntimeError("a mistake of ours")

    results, _ = started(Store().finish, on_crash=on_crash)
    results.on_written = on_written
    results.add(an_attempt(1), DONE)
    assert done.wait(PATIENCE_SECONDS)
    assert [(name, str(error)) for name, error in crashed] == [("results", "a mistake of ours")]


# --- a second result of the same attempt

STUCK = Outcome(State.TIMED_OUT, 5.0, "timed out after 5s", returned=False)
BACK = Outcome(State.TIMED_OUT, 5.0, "timed out after 5s", output="at last")


class Sequel(Store):
    """A store that takes several results of an attempt, and may be interrupted while it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, bool]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def finish(self, finished: Sequence[Finished]) -> None:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self.written.clear()
        super().finish(finished)
        self.rows += [(one.attempt.id, one.outcome.returned) for one in finished]


@pytest.fixture
def sequel() -> tuple[World, Sequel]:
    world = World()
    world.store = store = Sequel()
    world.results = Results(store.finish, events=world.told.events, clock=world.clock)
    return world, store


def test_the_second_takes_the_place_of_a_first_that_still_waits(sequel: tuple[World, Sequel]):
    world, store = sequel
    world.add(1, 2, outcome=STUCK)
    world.add(1, outcome=BACK)
    world.step(2)
    assert store.rows == [(1, True), (2, False)]
    assert world.results.pending_count == 0


def test_the_second_follows_a_first_that_is_being_written(sequel: tuple[World, Sequel]):
    world, store = sequel
    store.meanwhile = lambda: world.add(1, outcome=BACK)
    world.add(1, 2, outcome=STUCK)
    world.step()
    assert world.results.pending_count == 1
    world.step(2)
    assert store.rows == [(1, False), (2, False), (1, True)]
    assert world.results.pending_count == 0


def test_the_second_is_not_lost_when_the_first_is_written_without_its_words(sequel: tuple[World, Sequel]):
    world, store = sequel

    def refuse(one: Finished) -> Exception | None:
        if one.outcome.error is None:
            return None
        if not one.outcome.returned:
            store.meanwhile = lambda: world.add(1, outcome=BACK)
        return StoreConflict("the words are too bad")

    store.refuse = refuse
    world.add(1, outcome=STUCK)
    world.step(6)
    assert store.rows == [(1, False), (1, True)]
    assert world.results.pending_count == 0


def test_the_second_waits_through_an_outage_in_which_the_first_may_have_been_written(sequel: tuple[World, Sequel]):
    world, store = sequel
    store.down = StoreUnavailable("the answer is lost")
    world.add(1, outcome=STUCK)
    world.step(3)
    world.add(1, outcome=BACK)
    store.down = None
    world.step(2)
    assert store.rows == [(1, True)]
    assert world.results.pending_count == 0


@pytest.fixture
def hasty(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world that writes in a rush that does not end, in which results would gather for an hour."""
    monkeypatch.setattr("scheduler_service.results.GATHER_SECONDS", 3600.0)
    world.rush.tell(going_on=True)
    world.results.start()
    yield world
    world.results.stop(PATIENCE_SECONDS)


def test_in_a_rush_results_gather_until_they_fill_a_statement(hasty: World):
    hasty.add(*range(BATCH_RESULTS))
    wait_until(lambda: len(hasty.durable) == BATCH_RESULTS)
    assert hasty.store.calls == [list(range(BATCH_RESULTS))]


def test_a_result_for_which_another_run_waits_is_written_in_a_rush(hasty: World):
    hasty.add(1)
    hasty.results.add(an_attempt(2), DONE, awaited=True)
    wait_until(lambda: hasty.durable == [1, 2])


def test_who_waits_for_all_results_waits_for_no_rush(hasty: World):
    hasty.add(1)
    assert hasty.results.flush(hasty.clock.now + PATIENCE_SECONDS)
    assert hasty.durable == [1]


def test_a_rush_that_does_not_end_holds_no_result_up_for_long(world: World):
    world.rush.tell(going_on=True)
    world.results.start()
    world.add(1)
    wait_until(lambda: world.durable == [1])
    world.results.stop(PATIENCE_SECONDS)
