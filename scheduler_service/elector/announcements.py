"""What an elector announces, and the thread that brings it to listeners.

Every term that was won is announced once as Elected and, when it ends, once as Lost, in order.  The
messages are immutable and carry their term; whoever gets one that is not of the current term drops it.

A listener hears whole terms: one that is added while we lead hears of this election first.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

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

OnElected = Callable[[Lease], object]  # coroutine functions too
OnLost = Callable[[Lease, str], object]


@dataclass(frozen=True, slots=True)
class Listener:
    """Two callables, either of which may be left out."""

    on_elected: OnElected | None = None
    on_lost: OnLost | None = None

    @property
    def needs_loop(self) -> str | None:
        """The name of what has to run on an event loop, None if nothing has."""
        for function in (self.on_elected, self.on_lost):
            if inspect.iscoroutinefunction(function):
                return _name(function)
        return None


class Listeners:
    """Calls listeners on a thread of its own, so that what they do never holds a renewal up (I9).

    An on_elected that raises is called again; after three failures `resign(term)` is called.  Coroutine functions
    are awaited on the event loop that was given with `use_loop`; one listener after the other, like all.
    """

    def __init__(self, events: Events, *, resign: Callable[[int], None], holds: Callable[[int], bool]) -> None:
        self._resign = resign
        self._holds = holds  # whether a term is still ours
        self._listeners: tuple[Listener, ...] = ()
        self.forget(events)

    def forget(self, events: Events) -> None:
        """Begin anew, in a forked child too, where the thread and the event loop are not, and the name is another."""
        self._events = events
        self._queue: deque[tuple[Elected | Lost, tuple[Listener, ...]]] = deque()
        self._newest: Elected | Lost | None = None
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awaited: Future[object] | None = None

    def add(self, listener: Listener) -> None:
        """Tell `listener` of the term that we lead, if any, and of every one from now on."""
        with self._changed:
            self._listeners += (listener,)
            if isinstance(self._newest, Elected):
                self._deliver(self._newest, (listener,))

    def use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run coroutine functions there."""
        self._loop = loop

    def require_loop(self, *more: Listener) -> None:
        """Raise RuntimeError if a listener is a coroutine function and there is no event loop to run it on."""
        name = next(filter(None, (listener.needs_loop for listener in (*self._listeners, *more))), None)
        if name is not None and self._loop is None:
            raise RuntimeError(
                f"the listener {name} is a coroutine function, and there is no event loop to run it on: "
                "use `async with elector`, or an ordinary function"
            )

    def put(self, message: Announcement) -> None:
        """Take a message to be delivered; never blocks."""
        if isinstance(message, Observed):
            return
        with self._changed:
            self._newest = message
            if self._listeners:
                self._deliver(message, self._listeners)

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

    def cancel(self) -> None:
        """Cancel the coroutine that is still awaited, if any: nobody waits for it any longer."""
        awaited = self._awaited
        if awaited is not None:
            awaited.cancel()

    def _deliver(self, message: Elected | Lost, listeners: tuple[Listener, ...]) -> None:
        self._queue.append((message, listeners))
        self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="listeners", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            message, listeners = delivery
            for listener in listeners:
                if isinstance(message, Elected):
                    self._tell_elected(listener, message.lease)
                elif listener.on_lost is not None:
                    self._call(listener.on_lost, message.lease, message.reason)

    def _next(self) -> tuple[Elected | Lost, tuple[Listener, ...]] | None:
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

    def _call(self, function: Callable[..., object], lease: Lease, *arguments: object) -> bool:
        try:
            answer = function(lease, *arguments)
            if inspect.iscoroutine(answer):
                self._await(answer)
        # sys.exit() would end this thread and nothing else, and with it every later call.
        except BaseException as error:
            self._events.emit(
                "listener_failed", listener=_name(function), term=lease.term, error=f"{type(error).__name__}: {error}"
            )
            return False
        return True

    def _await(self, coroutine: Coroutine[Any, Any, object]) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            coroutine.close()
            raise RuntimeError("it returned a coroutine, and there is no event loop: use `async with elector`")
        awaited = self._awaited = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            awaited.result()
        finally:
            self._awaited = None


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
