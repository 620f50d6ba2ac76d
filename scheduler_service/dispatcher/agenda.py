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
        self._timers: dict[str, Due] = {}  # whose timer has gone off: they come first, for the others may be many
        self._others: dict[str, Due] = {}

    def __len__(self) -> int:
        return len(self._timers) + len(self._others)

    def add(self, job_id: str, moment: datetime) -> None:
        """Let a job be due at least up to `moment`, now.

        One that waits for its turn keeps its place: where more come due than can be settled, others wait behind it.
        """
        with self._changed:
            due = self._others if moment == LONG_AGO and job_id not in self._timers else self._timers
            known = due.get(job_id)
            due[job_id] = Due(moment if known is None else max(moment, known.moment))
            if due is self._timers:
                self._others.pop(job_id, None)

    def add_all(self, job_ids: Iterable[str]) -> None:
        """Let jobs be due up to now, unless they are due already."""
        with self._changed:
            for job_id in job_ids:
                if job_id not in self._timers:
                    self._others.setdefault(job_id, Due(LONG_AGO))

    def clear(self) -> None:
        """Forget everything."""
        with self._changed:
            self._timers, self._others = {}, {}

    def take(self, most: int) -> Mapping[str, Due]:
        """Return what is ready, at most so many; they stay due until they are `done`."""
        now = self._clock.monotonic()
        with self._changed:
            due = itertools.chain(self._timers.items(), self._others.items())
            return dict(itertools.islice(((job_id, one) for job_id, one in due if one.retry_at <= now), most))

    def done(self, job_id: str, moment: datetime) -> None:
        """Note that a job is settled up to `moment`."""
        with self._changed:
            for due in (self._timers, self._others):
                if job_id in due and due[job_id].moment <= moment:
                    del due[job_id]

    def retry(self, job_id: str, seconds: float) -> None:
        """Leave a job alone for a while, if it is due."""
        with self._changed:
            for due in (self._timers, self._others):
                if job_id in due:
                    due[job_id] = replace(due[job_id], retry_at=self._clock.monotonic() + seconds)

    @property
    def ready(self) -> bool:
        """Whether something can be taken now."""
        now = self._clock.monotonic()
        with self._changed:
            return any(one.retry_at <= now for one in self._all())

    def next_at(self) -> float | None:
        """Return when the first of the jobs is ready, on the boot clock, 0 for now; None if none is due."""
        with self._changed:
            if any(one.retry_at == 0.0 for one in self._all()):  # nearly always the first that is looked at
                return 0.0
            return min((one.retry_at for one in self._all()), default=None)

    def _all(self) -> Iterable[Due]:
        return itertools.chain(self._timers.values(), self._others.values())
