"""Two clocks: our own for deadlines, the database's for schedules.

A deadline is counted on the boot clock: it never steps, and it goes on while the machine
is suspended, so a replica that slept does not wake up believing an old answer.  Schedule
time is the database's.  Replicas' wall clocks may disagree by hours; none of them decides
anything (I10).
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONG_AGO = datetime.min.replace(tzinfo=UTC)  # of a job that is due, but not at a moment of its own
DRIFT = 200e-6  # how far two healthy quartz clocks part, in seconds a second
STEP_SECONDS = 1.0  # clocks that are steered part by less between two answers


class Clock(Protocol):
    """A clock that only goes forward; its zero means nothing."""

    def monotonic(self) -> float:
        """Return seconds."""


class BootClock:
    """CLOCK_BOOTTIME where the system has it: monotonic, and suspended time counts."""

    def __init__(self) -> None:
        self._id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic(self) -> float:
        """Return the seconds since the machine was started."""
        return time.clock_gettime(self._id)


class DatabaseTime:
    """What the database's clock says, estimated from answers that carried its time.

    Each answer bounds the difference between the two clocks: the time was read after the
    question left and before the answer arrived.  Bounds that agree are intersected and so
    grow sharper; one that contradicts them means that the database's clock was stepped, and
    replaces them.  Any thread may ask or tell.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bounds: tuple[float, float, float] | None = None  # low, high, when
        self.forget()

    def forget(self) -> None:
        """Begin anew in a forked child, but for what the answers told: somebody may have held the lock."""
        self._lock = threading.Lock()

    def observe(self, sent: float, received: float, told: datetime) -> float:
        """Learn from one answer: boot-clock seconds around it, and the time it carried.

        Return by how many seconds the database's clock was stepped since the last one, 0 if it was not.
        """
        told_seconds = (told - EPOCH).total_seconds()
        low, high = told_seconds - received, told_seconds - sent
        stepped = 0.0
        with self._lock:
            if self._bounds is not None:
                slack = DRIFT * max(0.0, received - self._bounds[2])
                old_low, old_high = self._bounds[0] - slack, self._bounds[1] + slack
                if old_low <= high and low <= old_high:
                    low, high = max(low, old_low), min(high, old_high)
                else:
                    stepped = low - old_high if low > old_high else high - old_low  # at least
            self._bounds = (low, high, received)
        return stepped if abs(stepped) >= STEP_SECONDS else 0.0

    @property
    def known(self) -> bool:
        """Whether the database has told its time yet."""
        return self._bounds is not None

    def now(self) -> datetime:
        """Return the database's time as far as we know it; RuntimeError before any answer."""
        bounds = self._bounds
        if bounds is None:
            raise RuntimeError("the database has not told its time yet")
        return EPOCH + timedelta(seconds=self._clock.monotonic() + (bounds[0] + bounds[1]) / 2)

    def ahead_of_wall(self) -> timedelta:
        """Return how far the database's clock is ahead of this machine's wall clock."""
        return self.now() - datetime.now(UTC)
