"""What a running job sees of itself.

A callable gets its `RunContext` through a parameter with that annotation, or asks `current_run()`:

    def prune(folder: str, run: RunContext) -> None:
        for path in Path(folder).iterdir():
            run.check()              # raises Cancelled when this run shall end
            ...

`current_run()` works in the job's function, in coroutines and tasks it starts and in
`asyncio.to_thread`.  A thread that the job starts itself sees it only if it is given the context:
`Thread(target=contextvars.copy_context().run, args=(function,))`.

Stopping is a request.  Nothing is interrupted by force but commands and coroutines: a function that
runs long looks at `stopping`, or calls `check()`, from time to time.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler_service.ledger.transactions import Connection

LONGEST_WAIT_SECONDS = 366 * 86_400  # of RetryLater; neither driver can read what is beyond the calendar's end


class Cancelled(BaseException):  # not an error: somebody asked for it
    """The run shall end; raised by `RunContext.check`.

    It is no `Exception`, as asyncio's CancelledError is none: `except Exception` around one step of a
    job, or a retry loop in a library, must not swallow the request to stop and go on.  Clean up in
    `finally`, and let it pass: the run is then recorded as cancelled.
    """


class RetryLater(Exception):  # noqa: N818  # a word to the service; `raise RetryLater(60)` reads as what it means
    """Raised by a job: start this run again in `seconds`, instead of after the wait of its `retry`.

    It counts as a failed start: after `retry.attempts` of them the run has failed.  ValueError for a wait of
    more than a year, which is a moment by mistake.
    """

    def __init__(self, seconds: float | timedelta, message: str = "") -> None:
        self.seconds = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
        if not 0 <= self.seconds <= LONGEST_WAIT_SECONDS:
            raise ValueError(
                f"RetryLater({seconds!r}): a wait is a number of seconds from now, from 0 to {LONGEST_WAIT_SECONDS:,} "
                "(a year)"
            )
        super().__init__(message or f"to be tried again in {self.seconds:g}s")


class GiveUp(Exception):  # noqa: N818  # the same
    """Raised by a job: this run has failed, and trying again would not help."""


class Stopping(threading.Event):
    """A request to stop, and who made it for what reason."""

    reason = "it was asked to stop"

    def request(self, reason: str) -> None:
        """Ask to stop; the first reason stays."""
        if not self.is_set():
            # In one step and without a lock, which a signal's handler or a forked child might find held for ever.
            vars(self).setdefault("reason", reason)
            self.set()


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Where the service's tables are."""

    url: str = field(repr=False)  # holds the password
    schema: str


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run that is going on, as its job may see it."""

    job: str
    scheduled_at: datetime  # the tick, as the schedule gives it, aware UTC
    due_at: datetime  # when it was due: later than the tick where the job has jitter
    term: int  # of the leader that started it
    fence: int  # grows with every start of any job: pass it on to refuse what comes from an older start
    attempt: int  # 1 for the first start of this run
    run_id: int
    instance: str  # the replica that runs it
    stopping: threading.Event  # set when this run shall end
    database: DatabaseAddress | None = None  # of the ledger that knows this run

    def check(self) -> None:
        """Return if the run may go on; raise Cancelled if it shall end or was marked lost."""
        if self.stopping.is_set():
            raise Cancelled(stop_reason(self.stopping))

    @contextlib.contextmanager
    def transaction(self, *, seconds: float = 30.0) -> Iterator[Connection]:
        """Lend a connection to the service's PostgreSQL whose transaction ends with the success of this run.

            with run.transaction() as connection:
                connection.execute(text("insert into payments …"))

        What is written in the block and the run's success are committed together at its end: both or neither,
        whatever happens to this process, the network or the database.  Each answer may take `seconds`; silence
        of more than ten seconds inside the block ends it.  The block comes last: what the job does after it is
        not part of the run's success, and a second block finds the run over.

        Raises Cancelled when the run is over (cancelled, timed out, marked lost), in which case nothing was
        kept; RuntimeError where no ledger knows the run, as in `exec`; StoreRefused on SQLite; StoreUnavailable
        when the database did not answer: then the ledger knows whether the run succeeded, and the job does not.
        """
        from scheduler_service.ledger.transactions import (  # noqa: PLC0415  # takes 0.3 s, and few jobs need it
            RunOverError,
            job_transaction,
            jobs_database,
        )

        if self.database is None:
            raise RuntimeError("no ledger knows this run, so its success cannot be committed with anything")
        database = jobs_database(self.database.url, self.database.schema)
        try:
            with job_transaction(database, self.fence, self.job, self.scheduled_at, seconds=seconds) as connection:
                yield connection
        except RunOverError as over:
            request_stop(self.stopping, str(over))
            raise Cancelled(str(over)) from over


def stop_reason(stopping: threading.Event) -> str:
    """Return why the run shall end, for a person."""
    return stopping.reason if isinstance(stopping, Stopping) else Stopping.reason


def request_stop(stopping: threading.Event, reason: str) -> None:
    """Ask the run to end."""
    if isinstance(stopping, Stopping):
        stopping.request(reason)
    else:
        stopping.set()


_current: contextvars.ContextVar[RunContext] = contextvars.ContextVar("scheduler_service_run")


def current_run() -> RunContext:
    """Return the context of the run that this code belongs to; LookupError outside a run."""
    try:
        return _current.get()
    except LookupError:
        raise LookupError(
            "no run is going on here: current_run() works in a job's function, in its coroutines, and in threads"
            " that were given its context (contextvars.copy_context().run)"
        ) from None


def enter_run(context: RunContext) -> None:
    """Make `context` the current run of this thread's or task's context; the runner calls it."""
    _current.set(context)
