"""Write finished attempts to the ledger, in batches, until each is written.

    add --> waiting --a batch of what has gathered--> written --> on_written
              ^  |
              |  | the store does not answer: again, with growing pauses, for as long as it takes
              |  | it refuses, or has not answered for long: row by row
              |  |     a row for which there is no room: kept aside, and tried again
              |  |     a row that it does not take, though it answers: without its words, which is told
              |  |     a row that it refuses even so: told, kept aside, and tried again
              `--'

A second result of the same attempt (a thread that timed out has returned) takes the place of the first, or
follows it if that is being written.

While more is due than was started, results gather for a moment, so that they are written in few statements: but not
one for which another run of its job may wait, and not while somebody waits for all of them.

A result is the only proof that a run ended, so none is given up while the process lives.  The queue is
bounded by whoever adds: a worker takes nothing new while too much waits.

`step` does one round and says how long to wait; it starts no thread and never sleeps.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from scheduler_service.clock import Clock
from scheduler_service.database import StoreConflict, StoreFull, StoreUnavailable
from scheduler_service.events import Events, Outage
from scheduler_service.ledger import Finished
from scheduler_service.model import Attempt, Outcome
from scheduler_service.rush import Rush

BATCH_RESULTS = 200
GATHER_SECONDS = 0.05  # for which results gather in a rush
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
FLUSH_PAUSE_SECONDS = 0.2  # between tries while somebody waits for the end
PATIENCE = 5  # failed tries, after which one row may be the reason
IDLE_SECONDS = 60.0


def _nobody(_: Sequence[Finished]) -> None:
    pass


class Results:
    """The results that wait to be written, and the thread that writes them."""

    def __init__(
        self,
        finish: Callable[[Sequence[Finished]], None],
        *,
        events: Events,
        clock: Clock,
        on_crash: Callable[[str, BaseException], None] | None = None,
        rush: Rush | None = None,
    ) -> None:
        self._finish = finish
        self._rush = Rush() if rush is None else rush
        self._events = events
        self._clock = clock
        self._on_crash = on_crash
        self._outage = Outage(events, "results", clock)
        self._changed = threading.Condition()
        self._waiting: dict[int, Finished] = {}  # by attempt id, in the order in which they ended
        # The thread pauses after a step, until there is something to write or to try again, and then, in a rush, lets
        # results gather.  What ends which of the two, beside `_stopped`:
        self._hurried = False  # both; cleared by the thread, when it has rested once
        self._flushing_count = 0  # gathering, and pauses are short, while somebody waits for all; cleared by who waits
        self._awaited = False  # gathering: another run waits for the end of one; cleared with `_hurried`
        self._gathering = False  # neither: they gather, and the thread need not hear of each; cleared with `_hurried`
        self._stopped = False
        # From here on only the writing thread writes.
        self._failed_count = 0  # tries in a row
        self._aside: dict[int, float] = {}  # refused rows, by attempt id: when to try again, on the boot clock
        self._thread: threading.Thread | None = None
        self.on_written: Callable[[Sequence[Finished]], None] = _nobody  # told what is durable, as it was added

    # --- from other threads

    @property
    def pending_count(self) -> int:
        """How many results are not written yet."""
        return len(self._waiting)

    def pending(self) -> tuple[Attempt, ...]:
        """Return the attempts whose results are not written yet."""
        with self._changed:
            return tuple(one.attempt for one in self._waiting.values())

    def add(self, attempt: Attempt, outcome: Outcome, *, awaited: bool = False) -> None:
        """Take a result, to be written soon; never blocks.  The last one for an attempt says everything.

        One that is `awaited` is written without waiting for others.
        """
        with self._changed:
            self._waiting[attempt.id] = Finished(attempt, outcome)
            self._awaited = self._awaited or awaited
            if not self._gathering or self._gathered_enough():
                self._changed.notify_all()

    def hurry(self) -> None:
        """Let what waits be tried now, however long the pause would be."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def flush(self, deadline: float) -> bool:
        """Wait until nothing waits, at most until `deadline` on the boot clock; return whether all is written."""
        with self._changed:
            self._flushing_count += 1
            self.hurry()
            try:
                while self._waiting and (left := deadline - self._clock.monotonic()) > 0:
                    self._changed.wait(min(left, 0.5))
                return not self._waiting
            finally:
                self._flushing_count -= 1

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Stop writing, whatever still waits; wait at most `seconds` for a write that is going on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._rest(self.step())
        except BaseException as error:
            if self._on_crash is None:
                self._events.emit("thread_crashed", thread="results", error=f"{type(error).__name__}: {error}")
                raise
            self._on_crash("results", error)

    def _rest(self, seconds: float) -> None:
        def ready() -> bool:
            # New results are no reason to try a store again that did not answer a moment ago.
            return self._stopped or self._hurried or (len(self._waiting) > len(self._aside) and not self._failed_count)

        with self._changed:
            self._changed.wait_for(ready, seconds)
            if self._rush.going_on:
                self._gathering = True
                self._changed.wait_for(self._gathered_enough, GATHER_SECONDS)
            self._gathering = self._hurried = self._awaited = False

    def _gathered_enough(self) -> bool:
        hurried = self._stopped or self._hurried or self._flushing_count or self._awaited
        return bool(hurried) or len(self._waiting) >= BATCH_RESULTS

    def step(self) -> float:
        """Write what has gathered; return the seconds until the next step."""
        batch = self._gathered()
        if not batch:
            again_at = min(self._aside.values(), default=None)
            return IDLE_SECONDS if again_at is None else max(0.0, again_at - self._clock.monotonic())
        if self._failed_count < PATIENCE:
            problem = self._write(batch)
            if problem is None:
                self._forget(batch)
                return 0.0
            if _may_pass(problem):
                return self._pause(problem)
        return self._write_singly(batch)

    def _gathered(self) -> list[Finished]:
        now = self._clock.monotonic()
        with self._changed:
            ready = (one for one in self._waiting.values() if self._aside.get(one.attempt.id, now) <= now)
            return list(itertools.islice(ready, BATCH_RESULTS))

    def _write(self, batch: Sequence[Finished]) -> Exception | None:
        """Send one statement, and note that the store takes results; return what went wrong."""
        problem = self._send(batch)
        if problem is None:
            self._outage.over()
            self._failed_count = 0
        return problem

    def _send(self, batch: Sequence[Finished]) -> Exception | None:
        """Send one statement; return what went wrong."""
        try:
            self._finish(batch)
        except Exception as error:  # whatever is wrong with it, a result must not be lost
            return error
        return None

    def _write_singly(self, batch: Sequence[Finished]) -> float:
        for one in batch:
            problem = self._write([one])
            if problem is not None and _may_pass(problem):
                # The store may be the reason, and be back for the next try, which would cost the row its words: a row
                # is to blame if it fails while an end of nothing is taken.
                silence = self._send([])
                if silence is not None:
                    return self._pause(silence)
                problem = self._write([one])
            if problem is None:
                self._forget([one])
                continue
            if isinstance(problem, StoreFull):  # an end of nothing needs no room, and others may find some
                self._outage.failed(problem)
                self._aside[one.attempt.id] = self._clock.monotonic() + LONGEST_PAUSE_SECONDS
                continue
            bare = Finished(one.attempt, replace(one.outcome, output="", error=None, result=None))
            still = self._write([bare])
            if still is None:
                self._forget([one])
                self._tell("result_cut", one.attempt, problem)
            elif _may_pass(still):
                return self._pause(still)
            else:
                if one.attempt.id not in self._aside:
                    self._tell("result_refused", one.attempt, still)
                self._aside[one.attempt.id] = self._clock.monotonic() + LONGEST_PAUSE_SECONDS
        return 0.0

    def _tell(self, name: str, attempt: Attempt, problem: Exception) -> None:
        error = str(problem) or type(problem).__name__
        self._events.emit(name, job=attempt.job_id, run=attempt.run_id, attempt=attempt.attempt, error=error)

    def _pause(self, problem: Exception) -> float:
        self._outage.failed(problem)
        seconds: float = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failed_count, 10))
        self._failed_count += 1
        return min(seconds, FLUSH_PAUSE_SECONDS) if self._flushing_count else seconds

    def _forget(self, written: Sequence[Finished]) -> None:
        self.on_written(written)
        with self._changed:
            for one in written:
                self._aside.pop(one.attempt.id, None)
                # Not what has come for the same attempt meanwhile: it frees the slot.
                if self._waiting[one.attempt.id] is one:
                    del self._waiting[one.attempt.id]
            self._changed.notify_all()


def _may_pass(problem: Exception) -> bool:
    """Whether the store, rather than a row, is the reason."""
    return isinstance(problem, StoreUnavailable) and not isinstance(problem, StoreConflict)
