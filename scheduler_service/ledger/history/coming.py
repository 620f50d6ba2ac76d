"""The coming ticks of thousands of jobs, for people to look at.

To read a schedule and to find its next tick takes a fraction of a millisecond, which thousands of jobs make
seconds.  A tick that was found stays the next one until it has passed, so it is kept; and one question spends
no more than a little time on those that are not known yet.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from scheduler_service.ledger.history.listing import Scheduled
from scheduler_service.ledger.history.values import JobRow
from scheduler_service.schedule import Schedule, parse

MOST_KEPT = 100_000  # schedules


@dataclass(frozen=True, slots=True)
class ComingTick:
    """A tick that comes, unless the job is edited, paused or disabled before."""

    job_id: str
    scheduled_at: datetime
    timezone: str


@dataclass(frozen=True, slots=True)
class _Found:
    after: datetime
    tick: datetime | None

    def answers(self, moment: datetime) -> bool:
        return self.after <= moment and (self.tick is None or moment < self.tick)


class Coming:
    """What comes next, remembered.  Any thread may ask."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Found] = {}

    def next_tick(self, job: JobRow, now: datetime) -> datetime | None:
        """Return what `job.next_tick(now)` does."""
        if not job.enabled or job.paused(now) is not None:
            return job.next_tick(now)
        return self._tick(job.canonical, job.timezone, now)

    def first(
        self, jobs: Iterable[Scheduled], now: datetime, count: int, until: Callable[[], bool]
    ) -> tuple[list[ComingTick], int]:
        """Return the next `count` ticks of all jobs together, and how many jobs are not among them.

        These are left out because they were not known, and `until()` said that there was no more time for them; ask
        again, and more is known.
        """
        queue: list[tuple[datetime, str, Scheduled]] = []
        unknown = []
        found = self._found
        for job in jobs:
            known = found.get((job.canonical, job.timezone))
            if known is None or not known.answers(now) or job.paused_until is not None:
                unknown.append(job)
            elif known.tick is not None:
                queue.append((known.tick, job.job_id, job))
        while unknown and not until():
            job = unknown.pop()
            if job.paused_until is not None and job.paused_until > now:
                tick = job.after(job.paused_until)
            else:
                tick = self._tick(job.canonical, job.timezone, now)
            if tick is not None:
                queue.append((tick, job.job_id, job))
        return _merged(queue, count), len(unknown)

    def _tick(self, canonical: str, timezone: str, now: datetime) -> datetime | None:
        found = self._found.get((canonical, timezone))
        if found is None or not found.answers(now):
            if len(self._found) >= MOST_KEPT:
                self._found = {}
            found = _Found(now, parse(canonical, timezone).after(now))
            self._found[canonical, timezone] = found
        return found.tick


def _merged(queue: list[tuple[datetime, str, Scheduled]], count: int) -> list[ComingTick]:
    """Return the first ticks of jobs of which each next one is given."""
    queue = heapq.nsmallest(count, queue)  # no other can be among them
    ticks: list[ComingTick] = []
    schedules: dict[tuple[str, str], Schedule] = {}
    while queue and len(ticks) < count:
        moment, job_id, job = queue[0]
        ticks.append(ComingTick(job_id, moment, job.timezone))
        key = job.canonical, job.timezone
        schedule = schedules.get(key) or schedules.setdefault(key, parse(*key))
        following = schedule.after(moment)
        if following is None:
            heapq.heappop(queue)
        else:
            heapq.heapreplace(queue, (following, job_id, job))
    return ticks
