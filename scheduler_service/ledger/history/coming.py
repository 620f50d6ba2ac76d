"""The coming ticks of thousands of jobs, for people to look at.

To read a schedule and to find its next tick takes a fraction of a millisecond, which thousands of jobs make
seconds.  A tick that was found stays the next one until it has passed, so it is kept; and one question spends
no more than a little time on those that are not known yet.  The others are computed after its answer, beside
everything else and slowly, so that whoever asks again a little later has them all.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from scheduler_service.ledger.history.listing import Scheduled
from scheduler_service.ledger.history.values import JobRow
from scheduler_service.schedule import Schedule, ScheduleError, parse

MOST_KEPT = 100_000  # schedules
WORK_SECONDS, REST_SECONDS = 0.005, 0.01  # in turn, after an answer: the replica has better to do


@dataclass(frozen=True, slots=True)
class ComingTick:
    """A tick that comes, unless the job is edited, paused or disabled before."""

    job_id: str
    scheduled_at: datetime
    timezone: str | None  # of its cron; None: it has no zone of its own


@dataclass(frozen=True, slots=True)
class _Found:
    after: datetime
    tick: datetime | None

    def answers(self, moment: datetime) -> bool:
        return self.after <= moment and (self.tick is None or moment < self.tick)


class Coming:
    """What comes next, remembered.  Any thread may ask."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, datetime | None], _Found] = {}  # by schedule, zone and end of a pause
        self._lock = threading.Lock()
        self._after: threading.Thread | None = None  # computes what an answer left out

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
        again a little later: they are computed meanwhile.
        """
        queue: list[tuple[datetime, str, Scheduled]] = []
        unknown = []
        found = self._found
        for job in jobs:
            pause = job.pause(now)
            known = found.get((job.canonical, job.timezone, pause))
            if known is None or not known.answers(pause or now):
                unknown.append(job)
            elif known.tick is not None:
                queue.append((known.tick, job.job_id, job))
        while unknown and not until():
            job = unknown.pop()
            tick = self._tick(job.canonical, job.timezone, now, job.pause(now))
            if tick is not None:
                queue.append((tick, job.job_id, job))
        if unknown:
            self._compute_after(unknown, now)
        return _merged(queue, count), len(unknown)

    def _compute_after(self, jobs: list[Scheduled], now: datetime) -> None:
        with self._lock:
            if self._after is None or not self._after.is_alive():
                self._after = threading.Thread(target=self._compute, args=(jobs, now), name="coming", daemon=True)
                self._after.start()

    def _compute(self, jobs: list[Scheduled], now: datetime) -> None:
        rest_at = time.monotonic() + WORK_SECONDS
        for job in jobs:
            self._tick(job.canonical, job.timezone, now, job.pause(now))
            if time.monotonic() >= rest_at:
                time.sleep(REST_SECONDS)
                rest_at = time.monotonic() + WORK_SECONDS

    def _tick(self, canonical: str, timezone: str, now: datetime, pause: datetime | None = None) -> datetime | None:
        key, moment = (canonical, timezone, pause), pause or now
        found = self._found.get(key)
        if found is None or not found.answers(moment):
            if len(self._found) >= MOST_KEPT:
                self._found = {}
            try:
                tick = parse(canonical, timezone).after(moment)
            except ScheduleError:  # another replica's, of a later version or with other time zone data
                tick = None
            found = self._found[key] = _Found(moment, tick)
        return found.tick


def _merged(queue: list[tuple[datetime, str, Scheduled]], count: int) -> list[ComingTick]:
    """Return the first ticks of jobs of which each next one is given."""
    queue = heapq.nsmallest(count, queue)  # no other can be among them
    ticks: list[ComingTick] = []
    schedules: dict[tuple[str, str], Schedule] = {}
    while queue and len(ticks) < count:
        moment, job_id, job = queue[0]
        key = job.canonical, job.timezone
        schedule = schedules.get(key) or schedules.setdefault(key, parse(*key))
        ticks.append(ComingTick(job_id, moment, job.timezone if schedule.has_zone else None))
        following = schedule.after(moment)
        if following is None:
            heapq.heappop(queue)
        else:
            heapq.heapreplace(queue, (following, job_id, job))
    return ticks
