"""How much the workers may take: as many runs as there are workers, or many that are over at once.

A run takes a worker's place, which is AHEAD of the room; one of a job whose last run was over at once takes 1 of
it, until it goes on for longer than that.  A job that has not run yet is taken for one like the last of its kind:
a new leader knows none, and may have thousands to start.  Whoever uses it holds the workers' lock, but for `weight`.
"""

from __future__ import annotations

from scheduler_service.clock import Clock

QUICK_SECONDS = 0.05  # a job whose last run took no longer is quick,
AHEAD = 5  # and so many runs of quick jobs take the place of another: more gains little, and a crash takes them along


class Room:
    """What was taken and goes on, or waits for a worker."""

    def __init__(self, threads: int, clock: Clock) -> None:
        self._most = AHEAD * threads
        self._clock = clock
        self._quick: dict[str, bool] = {}  # by job: whether its last run was over at once
        self._strangers_quick = False  # whether the first run of the last job that was new was
        self._taken = 0
        self._begun: dict[int, float] = {}  # quick runs that go on, by attempt: since when, on the boot clock
        self.waiting_count = 0  # of what was taken, and no worker has begun

    def weight(self, job_id: str) -> int:
        """Return how much a run of this job takes."""
        return 1 if self._quick.get(job_id, self._strangers_quick) else AHEAD

    def note(self, job_id: str, seconds: float | None) -> None:
        """Learn how long a run took; None if it has not returned."""
        quick = seconds is not None and seconds <= QUICK_SECONDS
        if job_id not in self._quick:
            self._strangers_quick = quick
        self._quick[job_id] = quick

    def note_late(self) -> None:
        """Learn that something that was taken ahead had to be given back."""
        self._strangers_quick = False

    def has(self, weight: int) -> bool:
        """Whether so much can be taken; by the weights alone, so that what was free when it was asked for still is."""
        return self._taken + weight <= self._most

    def take(self, weight: int) -> None:
        """Note that a run of this weight was taken."""
        self._taken += weight
        self.waiting_count += 1

    def begin(self, attempt_id: int, weight: int) -> bool:
        """Note that a run waits for a worker no more; return whether nothing was free before and something is now.

        That is the last of those that waited: whoever starts more is not told of each of a batch.
        """
        before = self.free()
        self.waiting_count -= 1
        if weight < AHEAD:
            self._begun[attempt_id] = self._clock.monotonic()
        return before == 0 and self.free() > 0

    def end(self, attempt_id: int, weight: int) -> None:
        """Note that a run has left its place."""
        self._begun.pop(attempt_id, None)
        self._taken -= weight

    def free(self) -> int:
        """Return how much is free; nothing while less than half is and something waits for a worker."""
        overdue = self._clock.monotonic() - QUICK_SECONDS
        slow_count = sum(since < overdue for since in self._begun.values())
        free = max(0, self._most - self._taken - slow_count * (AHEAD - 1))
        return 0 if self.waiting_count and 2 * free < self._most else free
