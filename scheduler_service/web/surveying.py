"""What takes a look at every job: asked for by pages, done beside them, and never all the time.

A look may take a tenth of a second with ten thousand jobs, so pages take the last one, and wait only a moment
for the first.  Looks follow each other at a distance of twenty times what they take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler_service.clock import Clock
from scheduler_service.database import StoreUnavailable
from scheduler_service.ledger.history.pages import Failing, Owing, Pages
from scheduler_service.model import JobSpec
from scheduler_service.schedule import ScheduleError, parse

SHARE = 20  # of the time is spent on looking at most, as one in so many
LEAST_SECONDS = 0.5
WAIT_SECONDS = 0.15  # of a page, for a look
STEP = 500  # jobs whose ticks are computed in one look
COMPUTE_SECONDS = 0.05  # and for how long
UNKNOWN_GRACE_SECONDS = 120.0  # of a job that is not in this replica's configuration


@dataclass(frozen=True, slots=True)
class Late:
    """A job and the tick that no leader has decided, although it came long ago."""

    job_id: str
    tick: datetime
    settled_until: datetime


@dataclass(frozen=True, slots=True)
class Survey:
    """What the last look found."""

    failing: tuple[Failing, ...] = ()
    late: tuple[Late, ...] = ()


class Surveyor:
    """Looks at all jobs now and then.  Any thread may ask."""

    def __init__(self, pages: Pages, spec_of: Callable[[str], JobSpec | None], clock: Clock) -> None:
        self._pages = pages
        self._clock = clock
        self._lateness = _Lateness(spec_of, clock)
        self._survey = Survey()
        self._lock = threading.Lock()
        self._done: threading.Event | None = None  # of the look that is under way
        self._next_at = clock.monotonic()

    def survey(self) -> Survey:
        """Return what was found last, and look again if that was long ago."""
        with self._lock:
            done = self._done
            if done is None and self._clock.monotonic() >= self._next_at:
                self._done = done = threading.Event()
                threading.Thread(target=self._look, args=(done,), name="survey", daemon=True).start()
        if done is not None:
            done.wait(WAIT_SECONDS)
        return self._survey

    def _look(self, done: threading.Event) -> None:
        began = self._clock.monotonic()
        try:
            self._survey = Survey(self._pages.failing(), self._lateness.look(self._pages))
        except StoreUnavailable:
            pass  # the page that asked says so itself
        finally:
            now = self._clock.monotonic()
            with self._lock:
                self._done = None
                self._next_at = now + max(LEAST_SECONDS, SHARE * (now - began))
            done.set()


class _Lateness:
    """Goes through the jobs, a few at each look, and remembers the first tick that each owes.

    Jobs that were settled since the last look come first: they are few, and all others owe what they owed.
    """

    def __init__(self, spec_of: Callable[[str], JobSpec | None], clock: Clock) -> None:
        self._spec_of = spec_of
        self._clock = clock
        self._owed: dict[str, tuple[Owing, datetime | None]] = {}
        self._after = ""  # where the round through all jobs stands
        self._looked_at: datetime | None = None

    def look(self, pages: Pages) -> tuple[Late, ...]:
        now = pages.now()
        if self._looked_at is not None:
            self._compute(pages.owing(settled_from=self._looked_at - timedelta(seconds=5), limit=STEP))
        self._looked_at = now
        some = pages.owing(after=self._after, limit=STEP)
        done = self._compute(some)
        finished = done == len(some) < STEP
        if finished or done:
            self._after = "" if finished else some[done - 1].job_id
        overdue = [
            (tick, owing.job_id)
            for owing, tick in self._owed.values()
            if tick is not None and self._too_late(owing.job_id, tick, now)
        ]
        suspects = [job_id for _, job_id in sorted(overdue)[:STEP]]
        if not suspects:
            return ()
        # What was remembered may be over by now: settled, paused, disabled, gone.
        still = {one.job_id: one for one in pages.owing(only=suspects, limit=STEP)}
        self._compute(tuple(still.values()))
        for job_id in suspects:
            if job_id not in still:
                del self._owed[job_id]
        # Not those for which there was no time: what is remembered of them holds no longer.
        found = (self._owed[job_id] for job_id, job in still.items() if self._owed[job_id][0] == job)
        late = [
            Late(owing.job_id, tick, owing.settled_until)
            for owing, tick in found
            if tick is not None and self._too_late(owing.job_id, tick, now)
        ]
        return tuple(sorted(late, key=lambda one: one.tick))

    def _compute(self, jobs: Sequence[Owing]) -> int:
        """Find the first tick that each owes; return for how many there was time."""
        deadline = self._clock.monotonic() + COMPUTE_SECONDS
        for number, job in enumerate(jobs):
            known = self._owed.get(job.job_id)
            if known is not None and known[0] == job:
                continue
            if self._clock.monotonic() > deadline:
                return number
            self._owed[job.job_id] = job, _first_owed(job)
        return len(jobs)

    def _too_late(self, job_id: str, tick: datetime | None, now: datetime) -> bool:
        if tick is None or tick > now:  # nearly all of them: the rest costs more
            return False
        spec = self._spec_of(job_id)
        grace = UNKNOWN_GRACE_SECONDS
        if spec is not None:
            grace = 2 * spec.misfire_grace.total_seconds() + spec.jitter.total_seconds()
        return (now - tick).total_seconds() > grace


def _first_owed(job: Owing) -> datetime | None:
    try:
        return parse(job.canonical, job.timezone).after(job.settled_until)
    except ScheduleError:  # of a later version, or a zone that this replica does not know
        return None
