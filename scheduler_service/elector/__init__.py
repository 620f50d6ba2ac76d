"""Decide, for this process alone, whether it may act as leader.

    with Elector("postgresql://…", lock_id=7) as elector:      # or async with
        while True:
            if elector.is_leader():
                ...

The database decides who holds the lease.  This package decides how long we go on believing its last
answer.  Belief runs out by itself, on our own clock, before the lease can run out in the database: a
process that hangs, loses the network or is stopped by the kernel therefore stops leading without having
to do anything.

What is not promised: that nothing begun under a lease goes on after it.  Only what the database fences (the
`scheduler_service.leases` explain how) is certain to be refused.  With `crash_detection="auto"` two replicas
may believe for a moment that they lead, when the server has cut the session of a leader that cannot see it.

    timing         the durations, checked against each other
    standing       where an elector stands
    machine        the state machine
    announcements  what it tells, and the thread that brings it to listeners
    waiting        who waits for us to lead
    restriction    functions for the leader alone
    journal        what happens, for Python's logging
    waker          a wait that ends early
    pace           how long to wait
    forking        what becomes of an elector in a forked child
    (this)         the thread that steps it
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from scheduler_service import tables
from scheduler_service.clock import BootClock, Clock
from scheduler_service.database import Database
from scheduler_service.elector import forking
from scheduler_service.elector.announcements import (
    Announcement,
    Elected,
    Listener,
    Listeners,
    Lost,
    Observed,
    OnElected,
    OnLost,
)
from scheduler_service.elector.journal import Journal
from scheduler_service.elector.machine import Machine
from scheduler_service.elector.restriction import NotLeaderError, leader_only, not_leader
from scheduler_service.elector.standing import Role
from scheduler_service.elector.timing import Duration, Timing, seconds
from scheduler_service.elector.waiting import Waiting
from scheduler_service.elector.waker import Waker
from scheduler_service.events import Events
from scheduler_service.guard import Guard
from scheduler_service.leases import LeaseStore, open_store
from scheduler_service.model import Lease

__all__ = [
    "Announcement",
    "Elected",
    "Elector",
    "Lost",
    "NotLeaderError",
    "Observed",
    "Role",
    "Timing",
    "leader_only",
]

_ENDING_SECONDS = 1.0  # for a thread that has given its term up

OnElectedFunction = TypeVar("OnElectedFunction", bound=OnElected)
OnLostFunction = TypeVar("OnLostFunction", bound=OnLost)


class Elector(Machine):
    """One replica's part in the election `lock_id`, and the thread that plays it.

    `database` is a URL (the tables are made if need be), a Database, or a LeaseStore.  `instance_id` is what
    people shall call this replica, `auto` for the host's name; a random suffix tells it from every other.
    Durations are seconds or timedeltas.  `crash_detection="auto"` takes over within milliseconds of the end of
    a leader's session; `off` waits for the lease to expire.  `announce` is called on the elector's thread with
    Elected, Lost and Observed and must not block; `add_listener` is for code that may.  `logger` is told what
    happens, on a thread of its own; `events` is the stream itself, for subscribers that never block.

    Raises ValueError for settings that cannot work, and StoreRefused for a URL that cannot be read; a
    database that does not answer is no error, it is asked again.
    """

    def __init__(
        self,
        database: str | Database | LeaseStore,
        *,
        lock_id: int = 1,
        instance_id: str = "auto",
        lease_duration: Duration = timedelta(seconds=10),
        renewal_interval: Duration = timedelta(seconds=3),
        jitter_range: Duration = timedelta(seconds=2),
        attempt_timeout: Duration = timedelta(seconds=2),
        safety_margin: Duration = timedelta(seconds=1),
        crash_detection: str = "off",
        schema: str = "scheduler",
        logger: logging.Logger | None = None,
        events: Events | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        announce: Callable[[Announcement], None] | None = None,
    ) -> None:
        timing = Timing(
            seconds(lease_duration),
            seconds(renewal_interval),
            seconds(jitter_range),
            seconds(attempt_timeout),
            seconds(safety_margin),
        )
        if crash_detection not in ("auto", "off"):
            raise ValueError(f"crash_detection is {crash_detection!r}: it must be 'auto' or 'off'")
        if isinstance(lock_id, bool) or not isinstance(lock_id, int) or not -(2**63) <= lock_id < 2**63:
            raise ValueError(f"lock_id is {lock_id!r}: it must be a whole number of 64 bits")
        if logger is not None and events is not None:
            raise ValueError("give an elector a logger or events, not both: a logger is the subscriber of its own")
        clock = clock or BootClock()
        rng = rng or random.Random()  # noqa: S311  # spreads rounds, guards nothing
        self._configured = None if instance_id == "auto" else instance_id
        name = _unique(self._configured)
        events = (events or Events()).bind(instance=name)
        self._told = announce
        self._waiting = Waiting(self.current)
        self._journal = Journal(logger, events)
        self._listeners = Listeners(events, resign=self._resign, holds=self.holds)
        self._own_database: Database | None = None
        self._guard: Guard | None = None
        if isinstance(database, str):
            database = self._own_database = Database(database, schema=schema, attempt_seconds=timing.attempt_seconds)
        store: LeaseStore
        if isinstance(database, Database):
            store = open_store(
                database,
                lock_id=lock_id,
                lease_seconds=timing.lease_seconds,
                attempt_seconds=timing.attempt_seconds,
                guarded=crash_detection == "auto",
            )
            if crash_detection == "auto" and database.dialect == "postgresql":
                self._guard = Guard(database, lock_id, gone=self.session_gone, events=events, clock=clock, rng=rng)
        else:
            store = database
        super().__init__(
            store,
            lock_id=lock_id,
            instance_id=name,
            timing=timing,
            clock=clock,
            rng=rng,
            events=events,
            announce=self._tell,
            watch=self._watch_session,
            prepare=self._make_tables if self._own_database is not None else None,
            ready=lambda: not self._listeners.behind,
            name=self._configured,
        )
        self._stopping = False
        self._given_up = False
        self._thread: threading.Thread | None = None
        self._waker: Waker | None = None
        forking.remember(self)

    # What tells us that we lead

    def require(self, what: str = "this") -> Lease:
        """Return the lease that we may act under right now; NotLeaderError, which names `what`, if there is none."""
        lease = self.current()
        if lease is None:
            raise self._not_leader(what)
        return lease

    def wait_elected(self, timeout_seconds: float) -> Lease | None:
        """Return the lease as soon as we lead; None after `timeout_seconds`, or when the elector ends.

        Raises RuntimeError if it was not started.
        """
        self._require_started()
        return self._waiting.wait(timeout_seconds)

    async def wait_elected_async(self, timeout_seconds: float) -> Lease | None:
        """Do as `wait_elected` without blocking the event loop."""
        self._require_started()
        return await self._waiting.wait_async(timeout_seconds)

    def add_listener(self, *, on_elected: OnElected | None = None, on_lost: OnLost | None = None) -> None:
        """Call `on_elected(lease)` and `on_lost(lease, reason)` once for each term, in order, on one other thread.

        An on_elected that raises is called again; after three failures the elector gives its term up.  The term
        that we lead already, if any, is told first.  Coroutine functions run on the event loop of `async with`;
        RuntimeError, here or in `start`, if there is none.
        """
        listener = Listener(on_elected, on_lost)
        if self._thread is not None:
            self._listeners.require_loop(listener)
        self._listeners.add(listener)

    def on_elected(self, function: OnElectedFunction) -> OnElectedFunction:
        """Decorate a listener: as `add_listener(on_elected=function)`."""
        self.add_listener(on_elected=function)
        return function

    def on_lost(self, function: OnLostFunction) -> OnLostFunction:
        """Decorate a listener: as `add_listener(on_lost=function)`."""
        self.add_listener(on_lost=function)
        return function

    # From start to end

    def start(self) -> None:
        """Start the thread; RuntimeError after `stop`.  Never blocks: it is the thread that asks the database."""
        if self._stopping:
            raise RuntimeError("this elector was stopped: make another")
        if self._thread is not None:
            return
        self._listeners.require_loop()
        self._waker = Waker()
        if self._guard is not None:
            self._guard.start()
        self._thread = threading.Thread(target=self._run, name="elector", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Give the lease back, stand for no other, end the threads.

        A lease that the database does not take back within `timeout_seconds` is left to expire; all of it
        together ends within about a second more.  A thread that is just connecting ends when that fails.  A
        coroutine listener that has not returned by then is cancelled.
        """
        deadline = self._clock.monotonic() + timeout_seconds
        self._stopping = True
        self.withdraw()
        self._waiting.close()
        if self._guard is not None:
            self._guard.stop(0.0)
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                deadline += _ENDING_SECONDS
                self._given_up = True
                self._wake()
                self._store.close()
                self._thread.join(self._left(deadline))
        elif self._standing.lease is not None:
            self.step()
        if self._thread is None or not self._thread.is_alive():  # else it will do so, and may still tell of an end
            self._store.close()
            self._listeners.stop(self._left(deadline))
            self._listeners.cancel()
            self._journal.stop(self._left(deadline))
        if self._guard is not None:
            self._guard.stop(self._left(deadline))
        if self._own_database is not None:
            self._own_database.dispose()

    def __enter__(self) -> Elector:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Elector:
        self._listeners.use_loop(asyncio.get_running_loop())
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.withdraw()  # at once, however long the event loop's threads are busy with other things
        await asyncio.to_thread(self.stop)

    def release(self, reason: str = "released") -> None:
        """Give the term up, if there is one, and lead again after a round if nobody else does."""
        super().release(reason)
        self._wake()

    def deposed(self, term: int) -> None:
        """Take note that the database refused a statement of `term`: it is over."""
        super().deposed(term)
        self._wake()

    def session_gone(self, term: int) -> None:
        """Take note that the session that led `term` has ended."""
        super().session_gone(term)
        self._wake()

    def _run(self) -> None:
        try:
            while not self._done():
                pause = self.step()
                lease = self.current()
                if lease is not None:
                    self._waiting.tell(lease)
                if not self._done():
                    self._wait(pause)
            self.abandon("release_unanswered")
        except Exception as error:
            self.abandon("crashed")
            self._events.emit("thread_crashed", thread="elector", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            self._store.close()
            self._waiting.close()
            self._listeners.stop(0.0)
            if self._given_up:  # nobody waits any more for what listeners may still tell
                self._journal.stop(0.0)
            if self._waker is not None:
                self._waker.close()

    def _done(self) -> bool:
        return self._given_up or (self._stopping and self._standing.lease is None)

    def _left(self, deadline: float) -> float:
        return max(0.0, deadline - self._clock.monotonic())

    def _wait(self, pause: float) -> None:
        """Wait until it is time for the next attempt, somebody left a word, or the server says something."""
        if self._waker is not None:
            self._waker.wait(pause, self._store.fileno())

    def _wake(self) -> None:
        if self._waker is not None:
            self._waker.wake()

    def _tell(self, message: Announcement) -> None:
        if self._told is not None:
            self._told(message)
        self._listeners.put(message)

    def _watch_session(self, term: int | None) -> None:
        if self._guard is not None:
            self._guard.watch(term)

    def _resign(self, term: int) -> None:
        if self.holds(term):
            self.release("listener_failed")

    def _make_tables(self) -> None:
        if self._own_database is not None:
            tables.upgrade(self._own_database)
            self._own_database.dispose()  # nobody else uses its pool: one connection is enough to lead

    def _require_started(self) -> None:
        if self._thread is None and not self._stopping:
            raise RuntimeError("this elector was not started: use it in a `with` block, or call start()")

    def _not_leader(self, what: str) -> NotLeaderError:
        leader = self.observation
        if self._stopping:
            leader, why = None, "the elector was stopped"
        elif leader is not None and leader.leader_id == self.instance_id:
            leader, why = None, self.problem or "its lease is over"
        else:
            started = self._thread is not None or leader is not None
            why = self.problem or ("nobody is known to" if started else "the elector was not started")
        return not_leader(what, replica=self.instance_id, lock_id=self.lock_id, leader=leader, why=why)

    def forget(self) -> None:
        """Be a standby under a new name in a forked child, where the threads are not; `start` starts them anew.

        The parent goes on leading; its connections and sockets stay its own.
        """
        name = _unique(self._configured)
        events = self._events.bind(instance=name)
        self.begin(name, events)
        self.database_time.forget()
        self._waiting.forget()
        self._listeners.forget(events)
        self._journal.forget()
        if self._guard is not None:
            self._guard.forget(events)
        if self._waker is not None:
            self._waker.close()
        self._waker = self._thread = None


def _unique(configured: str | None) -> str:
    return f"{configured or socket.gethostname()}-{secrets.token_hex(3)}"
