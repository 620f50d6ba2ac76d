"""Which jobs do not fare well: a look at every job, asked for by pages, done beside them, and never all the time.

A look may take a tenth of a second with ten thousand jobs, so pages take the last one, and wait only a moment
for the first.  Looks follow each other at a distance of twenty times what they take.
"""

from __future__ import annotations

import threading

from scheduler_service.clock import Clock
from scheduler_service.database import StoreUnavailable
from scheduler_service.ledger.history.pages import Failing, Pages

SHARE = 20  # of the time is spent on looking at most, as one in so many
LEAST_SECONDS = 0.5
WAIT_SECONDS = 0.15  # of a page, for a look


class Surveyor:
    """Looks at all jobs now and then.  Any thread may ask."""

    def __init__(self, pages: Pages, clock: Clock) -> None:
        self._pages = pages
        self._clock = clock
        self._failing: tuple[Failing, ...] = ()
        self._lock = threading.Lock()
        self._done: threading.Event | None = None  # of the look that is under way
        self._next_at = clock.monotonic()

    def failing(self) -> tuple[Failing, ...]:
        """Return what was found last, and look again if that was long ago."""
        with self._lock:
            done = self._done
            if done is None and self._clock.monotonic() >= self._next_at:
                self._done = done = threading.Event()
                threading.Thread(target=self._look, args=(done,), name="survey", daemon=True).start()
        if done is not None:
            done.wait(WAIT_SECONDS)
        return self._failing

    def _look(self, done: threading.Event) -> None:
        began = self._clock.monotonic()
        try:
            self._failing = self._pages.failing()
        except StoreUnavailable:
            pass  # the page that asked says so itself
        finally:
            now = self._clock.monotonic()
            with self._lock:
                self._done = None
                self._next_at = now + max(LEAST_SECONDS, SHARE * (now - began))
            done.set()
