"""Time-outs of functions in threads, which nobody can end: what is told, held and given back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from scheduler_service.clock import BootClock, DatabaseTime
from scheduler_service.context import Stopping
from scheduler_service.ledger import Finished
from scheduler_service.model import Attempt, JobSpec, OnCrash, Outcome, State
from scheduler_service.results import Results
from scheduler_service.workers import Workers
from scheduler_service.workers.tasks import MARKED_LOST, REPLICA_ENDS
from tests.runner.conftest import Bench, a_job, an_attempt
from tests.waiting import wait_until

SHORT = timedelta(seconds=0.2)
STAYS = """
import os, time
def main(gate):
    print("hello")
    while not os.path.exists(gate):
        time.sleep(0.005)
    print("at last")
"""


def stays(gate: Path, **settings: object) -> JobSpec:
    return a_job(**{"run": "tidy:main", "args": (str(gate),), "timeout": SHORT, "kill_after": SHORT, **settings})


class Pool:
    """Workers with a real runner and a real writer, whose statements end in a list."""

    def __init__(self, bench: Bench, threads: int) -> None:
        self.told = bench.told
        self.written: list[tuple[int, bool]] = []  # attempt, returned
        self.outcomes: dict[int, Outcome] = {}
        self.results = Results(self.finish, events=bench.told.events, clock=BootClock())
        self.workers = Workers(
            threads,
            bench.runner.run,
            self.results,
            processes=1,
            still_open=lambda _: True,
            begin_within_seconds=3600.0,
            database_time=DatabaseTime(BootClock()),
            events=bench.told.events,
            clock=BootClock(),
        )
        bench.runner.on_returned = self.workers.returned
        self.results.start()

    def finish(self, batch: Sequence[Finished]) -> None:
        for one in batch:
            self.written.append((one.attempt.id, one.outcome.returned))
            self.outcomes[one.attempt.id] = one.outcome

    def submit(self, number: int, spec: JobSpec) -> None:
        self.workers.submit(an_attempt(number, sent=BootClock().monotonic()), spec)


def test_a_function_that_ends_in_time_is_told_as_without_a_limit(bench: Bench):
    outcome = bench.function("def main(): return 3", timeout=timedelta(hours=1))
    assert (outcome.state, outcome.result, outcome.returned) == (State.SUCCEEDED, "3", True)


def test_a_function_is_told_that_its_time_is_over_and_why(bench: Bench):
    stop = Stopping()
    outcome = bench.function(
        """
        from scheduler_service.context import RunContext
        def main(run: RunContext):
            run.stopping.wait()
            print(run.stopping.reason)
            run.check()
        """,
        stop,
        timeout=SHORT,
    )
    assert (outcome.state, outcome.error) == (State.TIMED_OUT, "timed out after 0.2s")
    assert outcome.output == "timed out after 0.2s\n"


def test_loading_does_not_count_against_the_timeout(bench: Bench):
    outcome = bench.function("import time\ntime.sleep(0.4)\ndef main(): return 3", timeout=timedelta(seconds=0.3))
    assert (outcome.state, outcome.result) == (State.SUCCEEDED, "3")


def test_a_module_that_is_never_loaded_times_out(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scheduler_service.runner.group.LOAD_SECONDS", 0.1)
    gate = tmp_path / "gate"
    outcome = bench.function(
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.005)\ndef main(): pass",
        timeout=SHORT,
        kill_after=SHORT,
    )
    gate.touch()
    assert outcome.error == "timed out after 0.2s, before it was loaded; it has not returned"


def test_a_cancelled_function_that_does_not_return_is_left_at_its_timeout_too(bench: Bench, tmp_path: Path):
    stop = Stopping()
    bench.write(STAYS)
    running = bench.start(stop, **stays(tmp_path / "gate").model_dump(include={"run", "args", "timeout", "kill_after"}))
    bench.told.wait_for("run_output")
    stop.request("cancelled by anna")
    outcome = running.outcome()
    (tmp_path / "gate").touch()
    assert (outcome.state, outcome.returned) == (State.CANCELLED, False)
    assert outcome.error == "stopped: cancelled by anna; it has not returned"


def test_a_print_after_the_time_is_over_still_belongs_to_the_run(bench: Bench, tmp_path: Path):
    returned: list[Outcome] = []
    bench.runner.on_returned = lambda _, outcome: returned.append(outcome)
    bench.write(STAYS)
    first = bench.run(run="tidy:main", args=(str(tmp_path / "gate"),), timeout=SHORT, kill_after=SHORT)
    (tmp_path / "gate").touch()
    wait_until(lambda: returned)
    assert (first.output, returned[0].output) == ("hello\n", "hello\nat last\n")
    assert bench.told.lines() == ["hello", "at last"]


def test_a_stuck_function_is_recorded_and_its_place_replaced(bench: Bench, tmp_path: Path):
    bench.write(STAYS)
    bench.write("def main(): return 3", "quick")
    pool = Pool(bench, threads=1)
    pool.submit(1, stays(tmp_path / "gate"))
    stuck = pool.told.wait_for("thread_stuck")[0]
    assert {name: stuck[name] for name in ("term", "job", "run", "attempt", "stuck_count")} == {
        "term": 4, "job": "tidy", "run": 10, "attempt": 1, "stuck_count": 1,
    }  # fmt: skip
    assert stuck["seconds"] >= 0.4
    wait_until(lambda: pool.written == [(1, False)])
    wait_until(lambda: pool.workers.free_count == 1)
    assert pool.workers.registry() == {}  # so that it holds up no drain
    assert [attempt.id for attempt in pool.workers.stuck()] == [1]

    pool.submit(2, a_job(run="quick:main"))
    wait_until(lambda: pool.written == [(1, False), (2, True)])
    assert pool.workers.stuck_count == 1

    (tmp_path / "gate").touch()
    returned = pool.told.wait_for("thread_returned")[0]
    assert (returned["job"], returned["run"], returned["attempt"]) == ("tidy", 10, 1)
    assert returned["seconds"] >= stuck["seconds"]
    wait_until(lambda: pool.written == [(1, False), (2, True), (1, True)])
    assert pool.outcomes[1].state is State.TIMED_OUT
    assert (pool.workers.stuck_count, pool.workers.free_count) == (0, 1)
    assert pool.told.names().count("run_failed") == 1


def test_beyond_the_limit_a_stuck_function_keeps_its_place_until_it_returns(bench: Bench, tmp_path: Path):
    bench.write(STAYS)
    pool = Pool(bench, threads=2)
    for number in (1, 2, 3, 4):
        wait_until(lambda: pool.workers.free_count > 0)
        pool.submit(number, stays(tmp_path / f"gate-{number}"))
        pool.told.wait_for("thread_stuck", number)
    wait_until(lambda: len(pool.written) == 4)
    assert (pool.workers.stuck_count, pool.workers.free_count) == (4, 0)

    (tmp_path / "gate-1").touch()  # its place was replaced: nothing is given back
    pool.told.wait_for("thread_returned")
    assert (pool.workers.stuck_count, pool.workers.free_count) == (3, 0)

    for number in (2, 3, 4):
        (tmp_path / f"gate-{number}").touch()
    pool.told.wait_for("thread_returned", 4)
    wait_until(lambda: pool.workers.free_count == 2)
    wait_until(lambda: sorted(pool.written) == [(n, back) for n in (1, 2, 3, 4) for back in (False, True)])


def test_many_stuck_functions_leave_no_thread_and_no_place_behind(bench: Bench, tmp_path: Path):
    bench.write(STAYS)
    pool = Pool(bench, threads=4)
    for number in range(1, 25):
        wait_until(lambda: pool.workers.free_count > 0)
        pool.submit(
            number, stays(tmp_path / f"gate-{number % 3}", timeout=timedelta(seconds=0.02), kill_after=SHORT / 10)
        )
        if number % 4 == 0:
            for gate in range(3):
                (tmp_path / f"gate-{gate}").touch()
            wait_until(lambda: pool.workers.stuck_count == 0 and pool.workers.free_count == 4)
            for gate in range(3):
                (tmp_path / f"gate-{gate}").unlink()
    wait_until(lambda: {number for number, returned in pool.written if returned} == set(range(1, 25)))
    wait_until(lambda: pool.results.pending_count == 0)
    inner = [thread for thread in threading.enumerate() if thread.name.startswith("tidy-")]
    for thread in inner:
        thread.join(30)
    assert not [thread for thread in inner if thread.is_alive()]


def test_a_function_that_returns_just_after_it_was_given_up_is_recorded_once_and_as_returned(bench: Bench):
    # The second word may come before the first: from another thread, and before `run` has returned.
    pool = Pool(bench, threads=1)
    first = Outcome(State.TIMED_OUT, 0.4, "timed out after 0.2s; it has not returned", returned=False)
    last = Outcome(State.TIMED_OUT, 0.4, first.error, output="at last")

    def run(attempt: Attempt, spec: JobSpec, stop: threading.Event) -> Outcome:
        pool.workers.returned(attempt, last)
        return first

    pool.workers._run = run
    pool.submit(1, a_job(run="tidy:main"))
    wait_until(lambda: pool.written == [(1, True)])
    assert pool.outcomes[1] == last
    wait_until(lambda: pool.workers.free_count == 1)
    assert pool.workers.stuck_count == 0
    assert "thread_stuck" not in pool.told.names()


NOT_RETURNED = Outcome(State.CANCELLED, 0.4, "stopped; it has not returned", returned=False)


def given_up(bench: Bench, reason: str, meanwhile: Callable[[Pool, Attempt], None] = lambda *_: None) -> Pool:
    """Return a pool in which a function is asked to stop for `reason`, and does not return."""
    pool = Pool(bench, threads=1)

    def run(attempt: Attempt, spec: JobSpec, stop: threading.Event) -> Outcome:
        pool.workers.stop_run(attempt.id, reason)
        meanwhile(pool, attempt)
        return NOT_RETURNED

    pool.workers._run = run
    pool.submit(1, a_job(run="tidy:main", on_crash=OnCrash.RERUN))
    return pool


def return_at_last(pool: Pool, attempt: Attempt) -> None:
    pool.workers.returned(attempt, replace(NOT_RETURNED, returned=True))


@pytest.mark.parametrize("late", [False, True], ids=["before it is given up", "after it was"])
def test_what_ends_with_its_replica_is_run_again_also_if_its_function_returns_at_last(bench: Bench, late: bool):
    pool = given_up(bench, REPLICA_ENDS, *([] if late else [return_at_last]))
    if late:
        wait_until(lambda: pool.workers.stuck_count == 1)
        return_at_last(pool, pool.workers.stuck()[0])
    wait_until(lambda: (1, True) in pool.written)
    assert pool.outcomes[1].retry_seconds == 0.0


@pytest.mark.parametrize(("reason", "registered"), [(REPLICA_ENDS, [1]), (MARKED_LOST, [])])
def test_what_ends_with_its_replica_does_not_begin_elsewhere_while_its_function_goes_on(
    bench: Bench, reason: str, registered: list[int]
):
    pool = given_up(bench, reason)
    wait_until(lambda: pool.workers.free_count == 1)
    assert (pool.workers.stuck_count, pool.results.pending_count, pool.written) == (1, 0, [])
    pool.workers.close()
    (stuck,) = pool.workers.stuck()
    assert list(pool.workers.registry()) == registered  # until we sign out; the ledger has closed the other already
    return_at_last(pool, stuck)
    wait_until(lambda: pool.written == [(1, True)])
    assert pool.outcomes[1].retry_seconds == 0.0
    wait_until(lambda: pool.workers.registry() == {})
