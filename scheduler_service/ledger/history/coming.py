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

from scheduler_service.ledger.history.values import JobRow
from scheduler_service.schedule import Schedule

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
        found = self._known(job, now)
        return self._find(job, now) if found is None else found.tick

    def first(
        self, jobs: Iterable[JobRow], now: datetime, count: int, until: Callable[[], bool]
    ) -> tuple[list[ComingTick], int]:
        """Return the next `count` ticks of all jobs together, and how many jobs are not among them.

        These are left out because they were not known, and `until()` said that there was no more time for them; ask
        again, and more is known.
        """
        queue: list[tuple[datetime, str]] = []
        by_id, unknown = {}, []
        for job in jobs:
            by_id[job.job_id] = job
            known = None if job.pause is not None else self._known(job, now)
            if known is None:
                unknown.append(job)
            elif known.tick is not None:
                queue.append((known.tick, job.job_id))
        while unknown and not until():
            job = unknown.pop()
            tick = self.next_tick(job, now)
            if tick is not None:
                queue.append((tick, job.job_id))
        heapq.heapify(queue)
        ticks: list[ComingTick] = []
        schedules: dict[str, Schedule] = {}
        while queue and len(ticks) < count:
            moment, job_id = heapq.heappop(queue)
            ticks.append(ComingTick(job_id, moment, by_id[job_id].timezone))
            if job_id not in schedules:
                schedules[job_id] = by_id[job_id].schedule
            following = schedules[job_id].after(moment)
            if following is not None:
                heapq.heappush(queue, (following, job_id))
        return ticks, len(unknown)

    def _known(self, job: JobRow, now: datetime) -> _Found | None:
        found = self._found.get((job.canonical, job.timezone))
        return found if found is not None and found.answers(now) else None

    def _find(self, job: JobRow, now: datetime) -> datetime | None:
        if len(self._found) >= MOST_KEPT:
            self._found = {}
        tick = job.schedule.after(now)
        self._found[job.canonical, job.timezone] = _Found(now, tick)
        return tick
