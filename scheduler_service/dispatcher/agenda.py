"""The jobs that are due to be settled.

    add, add_all --> due --retry--> due, but not before a moment
                      |  take: those that are ready, timers first, of these what comes due often
                      `--done: settled as far as was asked for--> gone

A job stands in it once.  It leaves when it was settled up to the moment for which it was woken: a timer that
went off early tries again, and loses no tick.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from scheduler_service.clock import LONG_AGO, Clock

MOST_PATIENCE = timedelta(minutes=1)  # so much later than due a job may be settled because others are more urgent


@dataclass(frozen=True, slots=True)
class Due:
    """A job to be settled: at least up to `moment`, due since `since`, not before `retry_at` on the boot clock."""

    moment: datetime
    since: datetime
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

        One that waits for its turn keeps its place: where more come due than can be settled, it is not put behind them.
        """
        with self._changed:
            due = self._others if moment == LONG_AGO and job_id not in self._timers else self._timers
            known = due.get(job_id)
            due[job_id] = Due(moment, moment) if known is None else Due(max(moment, known.moment), known.since)
            if due is self._timers:
                self._others.pop(job_id, None)

    def add_all(self, job_ids: Iterable[str]) -> None:
        """Let jobs be due up to now, unless they are due already."""
        with self._changed:
            for job_id in job_ids:
                if job_id not in self._timers:
                    self._others.setdefault(job_id, Due(LONG_AGO, LONG_AGO))

    def clear(self) -> None:
        """Forget everything."""
        with self._changed:
            self._timers, self._others = {}, {}

    def take(self, most: int, settled_until: Callable[[str], datetime | None]) -> Mapping[str, Due]:
        """Return what is ready, at most so many; they stay due until they are `done`.

        Of more timers than that, those come first whose next tick may come due first: as long after this one as this
        one came after the last, which is what `settled_until` tells, or a minute.
        """
        now = self._clock.monotonic()
        with self._changed:
            timers = [(job_id, one) for job_id, one in self._timers.items() if one.retry_at <= now]
            others = ((job_id, one) for job_id, one in self._others.items() if one.retry_at <= now)
            chosen = list(itertools.islice(others, max(0, most - len(timers))))
        if len(timers) > most:
            timers = heapq.nsmallest(most, timers, key=lambda timer: _deadline(timer[1], settled_until(timer[0])))
        return dict(itertools.chain(timers, chosen))

    def done(self, job_id: str, moment: datetime) -> None:
        """Note that a job is settled up to `moment`."""
        with self._changed:
            for due in (self._timers, self._others):
                if job_id in due:
                    if due[job_id].moment <= moment:
                        del due[job_id]
                    else:  # it came due again meanwhile
                        due[job_id] = replace(due[job_id], since=due[job_id].moment)

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

    def ready_among(self, job_ids: Collection[str]) -> bool:
        """Whether one of these jobs can be taken now."""
        now = self._clock.monotonic()
        with self._changed:
            due = itertools.chain(self._others.items(), self._timers.items())
            return bool(job_ids) and any(job_id in job_ids and one.retry_at <= now for job_id, one in due)

    def next_at(self) -> float | None:
        """Return when the first of the jobs is ready, on the boot clock, 0 for now; None if none is due."""
        with self._changed:
            if any(one.retry_at == 0.0 for one in self._all()):  # nearly always the first that is looked at
                return 0.0
            return min((one.retry_at for one in self._all()), default=None)

    def _all(self) -> Iterable[Due]:
        return itertools.chain(self._timers.values(), self._others.values())


def _deadline(due: Due, settled_until: datetime | None) -> datetime:
    """Return until when a job should be settled; one that is not known can wait."""
    if settled_until is None or settled_until > due.since:  # the database's clock was set back: nothing is due yet
        return due.since + MOST_PATIENCE
    return due.since + min(due.since - settled_until, MOST_PATIENCE)
