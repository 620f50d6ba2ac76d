"""Acts at moments, one after another on one thread."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable

Act = Callable[[], None]
GLANCE_SECONDS = 0.05


class Agenda:
    """What is to be done when, in seconds from `begin`; acts may add others."""

    def __init__(self) -> None:
        self._began = 0.0
        self._forgotten = False
        self._acts: list[tuple[float, int, Act]] = []
        self._numbers = itertools.count()

    def begin(self, moment: float) -> None:
        """Count from this moment of the monotonic clock."""
        self._began = moment

    def at(self, seconds: float, act: Act) -> None:
        """Do this at that moment, or as soon as the acts before it are done."""
        heapq.heappush(self._acts, (seconds, next(self._numbers), act))

    def later(self, seconds: float, act: Act) -> None:
        """Do this so long from now."""
        self.at(time.monotonic() - self._began + seconds, act)

    def work_off(self, look: Act) -> None:
        """Do everything; `look` meanwhile, again and again, and let it end all by raising."""
        while self._acts and not self._forgotten:
            look()
            left = self._acts[0][0] - (time.monotonic() - self._began)
            if left > 0:
                time.sleep(min(left, GLANCE_SECONDS))
                continue
            heapq.heappop(self._acts)[2]()

    def forget(self) -> None:
        """Let nothing more begin; any thread may say so."""
        self._forgotten = True
