"""What a running job sees of itself, and how it is asked to stop."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import threading
from datetime import UTC, datetime

import pytest

from scheduler_service.context import Cancelled, RunContext, Stopping, current_run, enter_run

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def a_run(stopping: threading.Event | None = None) -> RunContext:
    return RunContext(
        job="tidy",
        scheduled_at=NOON,
        due_at=NOON,
        term=4,
        fence=7,
        attempt=1,
        run_id=70,
        instance="web-1",
        stopping=Stopping() if stopping is None else stopping,
    )


def test_a_run_that_nobody_stops_may_go_on():
    a_run().check()


def test_check_says_why_the_run_shall_end():
    stopping = Stopping()
    stopping.request("lost")
    with pytest.raises(Cancelled, match="lost"):
        a_run(stopping).check()


def test_the_first_reason_to_stop_stays():
    stopping = Stopping()
    stopping.request("cancelled by anna")
    stopping.request("the replica is stopping")
    assert stopping.reason == "cancelled by anna"


def test_the_first_reason_to_stop_stays_if_the_second_comes_at_the_same_time():
    class Overtaken(Stopping):
        asked = False

        def is_set(self) -> bool:
            was_set = super().is_set()
            if not self.asked:
                self.asked = True
                self.request("cancelled by anna")
            return was_set

    stopping = Overtaken()
    stopping.request("the replica is stopping")
    assert stopping.reason == "cancelled by anna"


def test_a_plain_event_can_ask_to_stop_too():
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(Cancelled, match="asked to stop"):
        a_run(stopping).check()


def test_except_exception_does_not_swallow_a_request_to_stop():
    stopping = Stopping()
    stopping.request("lost")

    def careless() -> str:
        try:
            a_run(stopping).check()
        except Exception:
            return "swallowed"
        return "went on"

    with pytest.raises(Cancelled):
        careless()


def test_the_context_cannot_be_changed_by_the_job():
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_run().fence = 8  # type: ignore[misc]  # that is the point


def test_outside_a_run_there_is_no_current_run():
    with pytest.raises(LookupError, match="no run is going on here"):
        contextvars.Context().run(current_run)


def test_a_run_is_current_in_its_own_context_only():
    run = a_run()
    context = contextvars.copy_context()
    context.run(enter_run, run)
    assert context.run(current_run) is run
    with pytest.raises(LookupError):
        current_run()


def test_tasks_of_a_coroutine_see_the_run():
    run = a_run()

    async def ask() -> RunContext:
        return await asyncio.create_task(asyncio.sleep(0, current_run()))

    async def main() -> RunContext:
        return await asyncio.create_task(ask())

    def begin() -> RunContext:
        enter_run(run)
        with asyncio.Runner() as runner:
            return runner.run(main())

    assert contextvars.copy_context().run(begin) is run
