"""Delay ticks by a hash, so that a thousand jobs at midnight do not start at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import pairwise

from scheduler_service.clock import EPOCH
from scheduler_service.schedule.schedule import Schedule
from scheduler_service.schedule.zones import stretches

MICROSECOND = timedelta(microseconds=1)
LOOK_AHEAD = timedelta(days=3660)
LOOK_AHEAD_COUNT = 500
AROUND_CHANGE = timedelta(hours=4)


def due_at(job_id: str, scheduled_at: datetime, jitter: timedelta) -> datetime:
    """Return when the tick `scheduled_at` of a job is due: later by less than `jitter`, UTC.

    The delay is whole microseconds and depends on the job and the tick alone, so every replica agrees.
    """
    if jitter < timedelta(0):
        raise ValueError(f"jitter must not be negative, got {jitter}")
    scheduled_at = scheduled_at.astimezone(UTC)
    if not jitter:
        return scheduled_at
    key = f"{job_id}\n{(scheduled_at - EPOCH) // MICROSECOND}".encode()
    chance = int.from_bytes(blake2b(key, digest_size=8).digest())
    return scheduled_at + MICROSECOND * (chance % (jitter // MICROSECOND))


def shortest_gap(schedule: Schedule, start: datetime) -> timedelta | None:
    """Return the least distance of two ticks in a look-ahead from `start`; None with fewer than two ticks.

    It looks at the next 500 ticks or ten years, and at the changes of clocks of the next year, where a
    tick made up for a time in the gap may come close to the one after it.
    """
    ticks = schedule.between(start, start + LOOK_AHEAD, LOOK_AHEAD_COUNT)
    runs = [ticks]
    for year in (start.year, start.year + 1):
        for stretch in stretches(schedule.timezone, year)[1:]:
            change = stretch.start.replace(tzinfo=UTC)
            runs.append(schedule.between(max(start, change - AROUND_CHANGE), change + AROUND_CHANGE, LOOK_AHEAD_COUNT))
    return min((later - earlier for run in runs for earlier, later in pairwise(run)), default=None)
