"""How the jobs fare: when each succeeded last, and whether it should have succeeded again.

unread --recall--> known --learn: a run ended--> known
                         --expect_success: its next ticks are known--> known, with when it is overdue
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice

from scheduler_service.ledger.sampling import Record, Sample
from scheduler_service.model import JobSpec, State

LAST_TICKS = 3  # a job that had so many ticks since its last success should have succeeded again
FAILURES = frozenset({State.FAILED, State.TIMED_OUT, State.LOST})


@dataclass(frozen=True, slots=True)
class Fortune:
    """How a job has done: moments of the database."""

    counted_from: datetime  # its last success; for a job without one, when it was first accounted for
    failures_in_a_row: int = 0
    expected_from: datetime | None = None  # a success, or a pause, after which it is expected to succeed
    overdue_at: datetime | None = None  # by this moment

    def overdue_seconds(self, now: datetime) -> float:
        """Return for how long it should have succeeded again; 0 if it need not have."""
        if self.overdue_at is None or self.expected_from is None or self.expected_from < self.counted_from:
            return 0.0  # it has succeeded meanwhile
        return max(0.0, (now - self.overdue_at).total_seconds())


class Fortunes:
    """The fortunes of all jobs, by id.  For one thread."""

    def __init__(self) -> None:
        self._known: dict[str, Fortune] = {}
        self._unread: dict[str, None] = {}  # jobs whose past is not known yet, each once and in order
        self._excused: set[str] = set()  # jobs from which success is expected anew, from the next look on

    def configure(self, job_ids: Collection[str]) -> None:
        """Know these jobs and no others; in the order in which their past shall be read."""
        for job_id in self._known.keys() - set(job_ids):
            del self._known[job_id]
        self._excused &= set(job_ids)
        self._unread = {job_id: None for job_id in job_ids if job_id not in self._known}

    def excuse(self, job_id: str) -> None:
        """Expect a job's success from the next look on, whatever was before."""
        self._excused.add(job_id)

    def reconsider(self, job_id: str, *, excused: bool) -> None:
        """Work out anew when a job that was edited should have succeeded; if `excused`, from the next look on."""
        if excused:
            self._excused.add(job_id)
        if (fortune := self._known.get(job_id)) is not None:
            self._known[job_id] = replace(fortune, overdue_at=None)

    def unread(self, most: int) -> Sequence[str]:
        """Return jobs whose past is to be read next, at most so many."""
        return tuple(islice(self._unread, most))

    def known(self) -> Mapping[str, Fortune]:
        """Return the fortunes as they are now."""
        return dict(self._known)

    def recall(self, read: Sequence[str], records: Iterable[Record]) -> None:
        """Learn the past of jobs that were read from the ledger."""
        for job_id in read:
            self._unread.pop(job_id, None)
        for one in records:
            counted_from = one.accountable_from if one.succeeded_at is None else one.succeeded_at
            # What came before it was enabled again, or in a pause that is over, is not held against it.
            expected_from = max(moment for moment in (counted_from, one.accountable_from, one.paused_at) if moment)
            fortune = Fortune(counted_from, int(one.failed_count), expected_from)
            self._known.setdefault(one.job_id, fortune)

    def learn(self, sample: Sample) -> None:
        """Take note of the runs that have ended."""
        for one in sample.ended:
            fortune = self._known.get(one.job_id)
            if fortune is None:  # its past is not read yet, and will tell of this too
                continue
            if one.state is State.SUCCEEDED:
                self._known[one.job_id] = replace(fortune, counted_from=one.finished_at, failures_in_a_row=0)
            elif one.state in FAILURES:
                self._known[one.job_id] = replace(fortune, failures_in_a_row=fortune.failures_in_a_row + 1)

    def expect_success(self, spec: JobSpec, sample: Sample) -> None:
        """Note when the job should have succeeded again; anew only once that moment has come, for it takes a while."""
        fortune = self._known.get(spec.id)
        if fortune is None:
            self._unread[spec.id] = None  # no leader knew it when its past was read
            return
        expected_from = fortune.counted_from if fortune.expected_from is None else fortune.expected_from
        if spec.id in sample.paused or spec.id in self._excused:
            expected_from = sample.now
            self._excused.discard(spec.id)
        elif fortune.overdue_at is not None and sample.now < fortune.overdue_at:
            return
        expected_from = max(expected_from, fortune.counted_from)
        if fortune.overdue_at is not None and expected_from == fortune.expected_from:
            return
        tick: datetime | None = expected_from
        for _ in range(LAST_TICKS):
            tick = None if tick is None else spec.schedule.after(tick)
        allowed = spec.jitter + spec.misfire_grace + (spec.timeout or timedelta(0))
        overdue_at = None if tick is None else tick + allowed
        self._known[spec.id] = replace(fortune, expected_from=expected_from, overdue_at=overdue_at)
