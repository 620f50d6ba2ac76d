"""Simulated time: a queue of events, and threads of which one runs at a time.

An hour costs as much as its events.  An action that waits (`sleep`) keeps its stack in a thread of its own
while others act; no two threads ever run at once, so the same chance gives the same world again.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any


class _Over(BaseException):
    """The world has ended; unwind."""


class Timeline:
    """A queue of events."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None] | threading.Lock]] = []
        self._order = itertools.count()
        self._blocking: set[int] = set()  # events that may call `sleep`, by their order
        self._idle: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._idle_count = 0
        self._threads: list[threading.Thread] = []
        self._finished = threading.Event()
        self._over = False
        self.failure: BaseException | None = None
        self.switches = 0

    def at(self, when: float, action: Callable[[], None], *, blocking: bool = False) -> None:
        """Call `action` at `when`; `blocking` if it may sleep."""
        order = next(self._order)
        if blocking:
            self._blocking.add(order)
        heapq.heappush(self._events, (max(when, self.now), order, action))

    def run(self, until: float) -> None:
        """Live until then, and raise what broke."""
        heapq.heappush(self._events, (until, next(self._order), self._end))
        self._hand_over()
        self._finished.wait()
        self._over = True
        for _, _, what in self._events:
            if not callable(what):
                what.release()
        for _ in self._threads:
            self._idle.put(False)
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def sleep(self, until: float) -> None:
        """Let others live until then."""
        gate = threading.Lock()
        gate.acquire()
        heapq.heappush(self._events, (until, next(self._order), gate))
        while True:
            when, order, what = self._events[0]
            if what is gate:
                heapq.heappop(self._events)
                self.now = when
                return
            if not callable(what) or order in self._blocking or what == self._end:
                break
            self._next()()
        self.switches += 1
        self._hand_over()
        gate.acquire()
        if self._over:
            raise _Over

    def _next(self) -> Any:
        self.now, order, what = heapq.heappop(self._events)
        self._blocking.discard(order)
        return what

    def _end(self) -> None:
        self._over = True

    def _hand_over(self) -> None:
        """Let another thread go on with the events."""
        if self._idle_count:
            self._idle_count -= 1
        else:
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._idle.put(True)

    def _work(self) -> None:
        while self._idle.get():
            try:
                self._live()
            except _Over:
                return
            except BaseException as error:
                self.failure = error
                self._finished.set()
                return

    def _live(self) -> None:
        while not self._over:
            what = self._next()
            if callable(what):
                what()
            else:
                self._idle_count += 1
                what.release()
                return
        self._finished.set()
