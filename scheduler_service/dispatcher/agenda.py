"""The jobs that are due to be settled.

    add, add_all --> due --retry--> due, but not before a moment
                      |  take: those that are ready, timers first
                      `--done: settled as far as was asked for--> gone

A job stands in it once.  It leaves when it was settled up to the moment for which it was woken: a timer that
went off early tries again, and loses no tick.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from scheduler_service.clock import Clock

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """A job to be settled: at least up to `moment`, not before `retry_at` on the boot clock."""

    moment: datetime
    retry_at: float = 0.0


class Agenda:
    """What is due.  Any thread may use it; `changed` guards it, and is the dispatcher's."""

    def __init__(self, changed: threading.Condition, clock: Clock) -> None:
        self._changed = changed
        self._clock = clock
        self._due: dict[str, Due] = {}

    def __len__(self) -> int:
        return len(self._due)

    def add(self, job_id: str, moment: datetime) -> None:
        """Let a job be due at least up to `moment`, now."""
        with self._changed:
            known = self._due.get(job_id)
            self._due[job_id] = Due(moment if known is None else max(moment, known.moment))

    def add_all(self, job_ids: Iterable[str]) -> None:
        """Let jobs be due up to now, unless they are due already."""
        with self._changed:
            for job_id in job_ids:
                self._due.setdefault(job_id, Due(LONG_AGO))

    def clear(self) -> None:
        """Forget everything."""
        with self._changed:
            self._due = {}

    def take(self, most: int) -> Mapping[str, Due]:
        """Return what is ready, at most so many; they stay due until they are `done`."""
        now = self._clock.monotonic()
        # Timers first: the sweep over all jobs may be long.
        timers: dict[str, Due] = {}
        others: dict[str, Due] = {}
        with self._changed:
            for job_id, one in self._due.items():
                if one.retry_at > now:
                    continue
                if one.moment != LONG_AGO:
                    timers[job_id] = one
                elif len(others) < most:
                    others[job_id] = one
                if len(timers) == most:  # of thousands, no more are looked at
                    break
        return dict(itertools.islice({**timers, **others}.items(), most))

    def done(self, job_id: str, moment: datetime) -> None:
        """Note that a job is settled up to `moment`."""
        with self._changed:
            known = self._due.get(job_id)
            if known is not None and known.moment <= moment:
                del self._due[job_id]

    def retry(self, job_id: str, seconds: float) -> None:
        """Leave a job alone for a while, if it is due."""
        with self._changed:
            known = self._due.get(job_id)
            if known is not None:
                self._due[job_id] = replace(known, retry_at=self._clock.monotonic() + seconds)

    @property
    def ready(self) -> bool:
        """Whether something can be taken now."""
        now = self._clock.monotonic()
        with self._changed:
            return any(one.retry_at <= now for one in self._due.values())

    def next_at(self) -> float | None:
        """Return when the first of the jobs is ready, on the boot clock; None if none is due."""
        with self._changed:
            return min((one.retry_at for one in self._due.values()), default=None)
