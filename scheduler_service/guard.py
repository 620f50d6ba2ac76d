"""Notice at once that the leader's session is gone.

A leader holds an advisory lock for as long as its session lives.  A standby waits for that lock on a
connection of its own: when it gets it, the leader's process has died, or the server has ended the session.
That permits to take over before the lease expires and proves nothing else; the statement that acquires
asks again by itself.

    idle --watch(term)--> waiting --the lock was free--> idle, and `gone(term)` was called
                          |  ^
                          +--+  5 s have passed, or an error and a pause

A guard that hangs costs an early takeover and nothing more.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from sqlalchemy import text

from scheduler_service.clock import Clock
from scheduler_service.database import Database, OwnConnection, StoreUnavailable
from scheduler_service.events import Events, Outage
from scheduler_service.leases import election_key

WAIT_SECONDS = 5.0  # a statement that waits holds back VACUUM
_ANSWER_SECONDS = WAIT_SECONDS + 2.0

# The lock goes back with the statement, so that a process frozen here keeps it from nobody, and the limit
# does not stay behind in a pooler's session.  A time-out that is caught leaves no error in the server's log.
_WAIT = """
do $$ begin
  perform set_config('lock_timeout', '{milliseconds}', true);
  perform pg_advisory_xact_lock_shared({number}, {key});
exception when lock_not_available then null; end $$"""


class Guard:
    """A thread that waits for the end of the leader's session; `gone(term)` must not block."""

    def __init__(
        self,
        database: Database,
        lock_id: int,
        *,
        gone: Callable[[int], None],
        events: Events,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._database = database
        self._number = election_key(database.schema, lock_id)
        self._gone = gone
        self._clock = clock
        self._rng = rng
        self.forget(events)

    def forget(self, events: Events) -> None:
        """Begin anew, in a forked child too, where the thread is not and connection and name are the parent's."""
        self._events = events
        self._outage = Outage(events, "guard", self._clock)
        self._changed = threading.Condition()
        self._term: int | None = None
        self._stopped = False
        self._connection: OwnConnection | None = None
        self._failures = 0
        self._thread: threading.Thread | None = None

    def watch(self, term: int | None) -> None:
        """Wait for the session that leads `term` from now on, None for nobody's; any thread may ask."""
        with self._changed:
            self._term = term
            self._changed.notify()

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float = 1.0) -> None:
        """End the thread, which may be waiting for the server."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._close()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def step(self, term: int) -> float:
        """Wait for the session that leads `term`, 5 s at most; return the seconds to pause before the next."""
        try:
            ended = self._wait(term)
        except StoreUnavailable as error:
            self._close()
            if self._stopped:
                return 0.0
            self._failures += 1
            if self._failures > 1:  # a session that ended while it was idle is no outage
                self._outage.failed(error)
            return min(WAIT_SECONDS, 0.05 * 2.0 ** min(self._failures, 10)) * self._rng.uniform(0.5, 1.0)
        self._failures = 0
        self._outage.over()
        if ended:
            with self._changed:
                if self._term == term:
                    self._term = None  # until somebody has looked what became of it
            self._gone(term)
        return 0.0

    def _wait(self, term: int) -> bool:
        connection = self._connection
        if connection is None or connection.broken:
            connection = self._connection = self._database.own_connection(name="guard", seconds=_ANSWER_SECONDS)
            if self._stopped:  # while it was being opened, so that nobody has closed it
                raise StoreUnavailable("the guard was stopped")
        limit = round(WAIT_SECONDS * 1000)
        began = self._clock.monotonic()
        connection.execute(text(_WAIT.format(number=self._number, key=term % 2147483647, milliseconds=limit)))
        # Only the time tells whether the lock was had: a wait that the limit cut short was no shorter than it.
        # A lock had at the last moment is had again at the next step.
        return self._clock.monotonic() - began < WAIT_SECONDS

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _next(self) -> int | None:
        with self._changed:
            if not self._changed.wait_for(self._wanted, timeout=WAIT_SECONDS):
                self._close()  # a leader needs none, and a session that ends unused is no outage
                self._changed.wait_for(self._wanted)
            return None if self._stopped else self._term

    def _wanted(self) -> bool:
        return self._stopped or self._term is not None

    def _run(self) -> None:
        try:
            while (term := self._next()) is not None:
                pause = self.step(term)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=pause)
        except Exception as error:
            self._events.emit("thread_crashed", thread="guard", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            self._close()
