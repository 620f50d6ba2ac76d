"""Run one function with a `timeout` in a thread that nobody depends on.

    runs --returns--> ended
      | `timeout`: `stopping` is set, a coroutine cancelled
      v
    asked --returns in time--> ended, timed out
      | at most GRACE_SECONDS, less if `kill_after` is
      v
    left: timed out, and not returned --returns at last--> told

A thread cannot be ended from outside.  One that goes on holds its slot, but no worker: what it would
return is told when it does.  It ends with the process at the latest.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator

from scheduler_service.clock import Clock
from scheduler_service.context import RunContext, request_stop, stop_reason
from scheduler_service.model import JobSpec, State
from scheduler_service.runner.callable import Call, run_callable
from scheduler_service.runner.ending import Ending
from scheduler_service.runner.group import LOOK_SECONDS, Limit

GRACE_SECONDS = 1.0


class LimitedThread:
    """One call, in a thread of its own that may be left behind."""

    def __init__(self, call: Call, spec: JobSpec, run: RunContext, seconds: float, clock: Clock) -> None:
        self._call = call
        self._run = run
        self._clock = clock
        self._limit = Limit(seconds, clock)
        self._grace_seconds = min(GRACE_SECONDS, spec.kill_after.total_seconds())
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ending: Ending | None = None
        self._on_return: Callable[[], None] | None = None

    def run(self) -> Ending:
        """Run the call in a copy of the current context, until it ends or is left behind."""
        context = contextvars.copy_context()
        name = f"{self._run.job}-{self._run.run_id}"
        threading.Thread(target=context.run, args=(self._work,), name=name, daemon=True).start()
        while (left := self._limit.ends_at - self._clock.monotonic()) > 0:
            if self._ended.wait(min(LOOK_SECONDS, left)) and self._ending is not None:
                return self._ending
        stop = self._run.stopping
        if stop.is_set():  # somebody else asked before
            asked = Ending(State.CANCELLED, f"stopped: {stop_reason(stop)}")
        else:
            asked = Ending(State.TIMED_OUT, self._limit.reason)
            request_stop(stop, self._limit.reason)
        if not self._ended.wait(self._grace_seconds):
            return Ending(asked.state, f"{asked.error}; it has not returned", returned=False)
        return asked if asked.state is State.TIMED_OUT or self._ending is None else self._ending

    def when_returned(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the function has returned: in its thread, or here if that is so already."""
        with self._lock:
            if not self._ended.is_set():
                self._on_return = callback
                return
        callback()

    def _work(self) -> None:
        self._ending = run_callable(self._call, self._run, self._going_on)
        with self._lock:
            self._ended.set()
            callback = self._on_return
        if callback is not None:
            callback()

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        self._limit.begin()
        yield
