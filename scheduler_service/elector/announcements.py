"""What an elector announces, and the thread that brings it to listeners.

Every term that was won is announced once as Elected and, when it ends, once as Lost, in order.  The
messages are immutable and carry their term; whoever gets one that is not of the current term drops it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from scheduler_service.events import Events
from scheduler_service.leases import Observation
from scheduler_service.model import Lease

ATTEMPTS = 3  # of on_elected, until the elector resigns
RETRY_SECONDS = 0.5
BACKLOG_LIMIT = 100  # messages that wait; an elector whose listeners hang does not campaign


@dataclass(frozen=True, slots=True)
class Elected:
    """We lead."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Lost:
    """We lead no more.

    `reason` is `deposed` (the row is gone or another's), `fenced` (a statement of this term was refused),
    `trust_lapsed`, `crashed`, `release_unanswered` (we stopped before we could give it back), or what `release`
    was told, such as `released` or `resigned`.
    """

    lease: Lease
    reason: str


@dataclass(frozen=True, slots=True)
class Observed:
    """Somebody else leads than before, or nobody (None)."""

    observation: Observation | None


Announcement = Elected | Lost | Observed

OnElected = Callable[[Lease], None]
OnLost = Callable[[Lease, str], None]


@dataclass(frozen=True, slots=True)
class Listener:
    """Two callables, either of which may be left out."""

    on_elected: OnElected | None
    on_lost: OnLost | None


class Listeners:
    """Calls listeners on a thread of its own, so that what they do never holds a renewal up (I9).

    An on_elected that raises is called again; after three failures `resign(term)` is called.
    """

    def __init__(self, events: Events, *, resign: Callable[[int], None], holds: Callable[[int], bool]) -> None:
        self._events = events
        self._resign = resign
        self._holds = holds  # whether a term is still ours
        self._listeners: tuple[Listener, ...] = ()
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child too, where the thread is not."""
        self._queue: deque[Elected | Lost] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def add(self, listener: Listener) -> None:
        """Tell `listener` of every term from now on."""
        self._listeners += (listener,)

    def put(self, message: Announcement) -> None:
        """Take a message to be delivered; never blocks."""
        if not self._listeners or isinstance(message, Observed):
            return
        with self._changed:
            self._queue.append(message)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="listeners", daemon=True)
                self._thread.start()

    @property
    def behind(self) -> bool:
        """Whether so much waits that no further term should begin."""
        return len(self._queue) >= BACKLOG_LIMIT

    def stop(self, timeout_seconds: float) -> None:
        """Deliver what waits and end the thread, unless a listener takes longer than that."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (message := self._next()) is not None:
            for listener in self._listeners:
                if isinstance(message, Elected):
                    self._tell_elected(listener, message.lease)
                elif listener.on_lost is not None:
                    self._call(listener.on_lost, message.lease, message.reason)

    def _next(self) -> Elected | Lost | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopped)
            return self._queue.popleft() if self._queue else None

    def _tell_elected(self, listener: Listener, lease: Lease) -> None:
        if listener.on_elected is None:
            return
        for attempt in range(1, ATTEMPTS + 1):
            if self._call(listener.on_elected, lease):
                return
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, timeout=RETRY_SECONDS if attempt < ATTEMPTS else 0)
            if not self._holds(lease.term):
                return
        self._resign(lease.term)

    def _call(self, function: Callable[..., None], lease: Lease, *arguments: object) -> bool:
        try:
            function(lease, *arguments)
        except Exception as error:
            name = getattr(function, "__qualname__", repr(function))
            self._events.emit(
                "listener_failed", listener=name, term=lease.term, error=f"{type(error).__name__}: {error}"
            )
            return False
        return True
