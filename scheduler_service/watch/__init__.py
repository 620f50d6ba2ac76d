"""Watch the whole service from each replica: whether the leader does its work, and how the jobs fare.

    jobs whose next tick has come due --sample--> settled: looked at again after their next tick
                                          `-----> not settled: looked at again in the next sample
                                                    `--over twice its grace, and 10 s, under one leader--> leader_idle

A leader that is alive and renews its lease, but settles nothing, is a silent failure: nobody takes over, and
nothing runs.  So every replica asks the ledger how far each job is settled, soon after it came due.  The work
grows with the ticks, not with the jobs, and what one sample does is bounded; the oldest come first.

What is owed counts from the moment at which this leader was seen, with the database answering: a new leader, or
one that could not reach the database, has its time.  A job that waits for a run of a vanished replica is not
settled until that run counts as lost, and is not held against the leader while that may take.

It runs on a thread of its own: a sample that takes long must not make a sign of life late.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from scheduler_service import schedule as schedules
from scheduler_service.clock import EPOCH, Clock
from scheduler_service.database import StoreUnavailable
from scheduler_service.events import Events, Outage
from scheduler_service.ledger import Survey
from scheduler_service.ledger.sampling import JobProgress, Record, Sample
from scheduler_service.model import JobSpec, Lease, Overlap
from scheduler_service.rush import Rush
from scheduler_service.schedule import Schedule, ScheduleError, due_at
from scheduler_service.silence import holder_in_doubt, missed_after
from scheduler_service.watch.fortunes import Fortune, Fortunes

SAMPLE_SECONDS = 8.0
RUSH_SECONDS = 4.0  # a sample waits so long until what is due has been started
SOON_SECONDS = 0.5  # when one sample could not hold everything
BATCH_JOBS = 1000  # looked at in one sample
BATCH_RECORDS = 100  # jobs whose past is read in one step, which may take longer
REPEAT_SECONDS = 60.0
GRACES = 2  # so many times a job's misfire_grace a leader may be late
LEAST_GRANTED = timedelta(seconds=10)  # and at least so long: with no grace at all it decides no sooner than it can
LOSSES = 4  # so many times `lost_after` a vanished replica's run may hold its job up beyond that
STRANGE_AGAIN = timedelta(seconds=5)  # when to look again at a job that the leader does not have, or not yet
TICKLESS_AGAIN = timedelta(minutes=1)  # and at one without a next tick


class Leadership(Protocol):
    """Who says who leads."""

    @property
    def instance_id(self) -> str:
        """Our own name."""

    def current(self) -> Lease | None:
        """Return our own lease, or None."""

    def observed(self) -> tuple[str, int] | None:
        """Return the name and the term of another that leads, as far as we know; None if nobody does."""


class Samples(Protocol):
    """Who asks the ledger."""

    def attempts(self) -> tuple[int, frozenset[int]]:
        """Read the newest attempt, and those that are open."""

    def records(self, job_ids: Sequence[str]) -> tuple[Record, ...]:
        """Read how some jobs have done so far."""

    def sample(self, job_ids: Sequence[str], newest_attempt: int, open_attempts: frozenset[int]) -> Sample:
        """Read how the service stands."""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A tick that is due and not decided."""

    job_id: str
    scheduled_at: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Idle:
    """A leader that does not do its work."""

    leader: str
    term: int
    oldest: Unsettled


@dataclass(frozen=True, slots=True)
class Seen:
    """The service as this replica saw it last."""

    now: datetime  # the database's
    at: float  # the same moment on the boot clock
    waiting_count: int
    due_count: int
    running_count: int
    replica_count: int
    oldest: Unsettled | None
    idle: Idle | None
    late: tuple[Unsettled, ...]  # what this leader should have settled long ago, the oldest first
    paused: frozenset[str]
    fortunes: Mapping[str, Fortune] = field(repr=False)


class Watch:
    """Takes a sample every few seconds.  `seen`, `configure` and `stop` are for any thread."""

    def __init__(
        self,
        *,
        samples: Samples,
        survey: Callable[[Sequence[str]], Survey],
        leadership: Leadership,
        events: Events,
        clock: Clock,
        specs: Iterable[JobSpec],
        lost_after_seconds: float,
        sign_in_seconds: float,
        rush: Rush | None = None,
    ) -> None:
        self._rush = Rush() if rush is None else rush
        self._samples = samples
        self._survey = survey
        self._leadership = leadership
        self._events = events
        self._clock = clock
        self._held_for = timedelta(seconds=LOSSES * lost_after_seconds)
        self._unseen_after = missed_after(sign_in_seconds)
        self._outage = Outage(events, "watch", clock)
        self._woken = threading.Event()
        self._stopping = False
        self._configured: tuple[JobSpec, ...] | None = tuple(specs)
        self._seen: Seen | None = None
        # From here on only the watching thread writes.
        self._specs: Mapping[str, JobSpec] = {}
        self._turns: list[tuple[datetime, str]] = []  # a heap: when to look at which job, in the database's time
        self._turn_of: dict[str, datetime] = {}  # what of the heap still holds
        self._unsettled: dict[str, Unsettled] = {}
        self._fortunes = Fortunes()
        self._newest_attempt: int | None = None
        self._open_attempts: frozenset[int] = frozenset()
        self._leader: tuple[str, int] | None = None
        self._owes_since = 0.0  # boot clock
        self._late: tuple[Unsettled, ...] = ()
        self._idle: Idle | None = None
        self._idle_since = self._told_at = 0.0

    # --- from other threads

    @property
    def seen(self) -> Seen | None:
        """What was seen last; None before the first answer."""
        return self._seen

    def configure(self, specs: Iterable[JobSpec]) -> None:
        """Watch these jobs from now on."""
        self._configured = tuple(specs)

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping = True
        self._woken.set()

    # --- the thread

    def run(self) -> None:
        """Step until `stop`."""
        while not self._stopping:
            self._woken.wait(self.step())
            self._rush.wait(RUSH_SECONDS)

    def step(self) -> float:
        """Take a sample; return the seconds until the next."""
        self._adopt()
        try:
            more = self._look()
        except StoreUnavailable as error:
            self._leader = None  # while the database is away, a leader can settle nothing
            self._outage.failed(error)
            return SAMPLE_SECONDS
        self._outage.over()
        return SOON_SECONDS if more else SAMPLE_SECONDS

    def _adopt(self) -> None:
        configured, self._configured = self._configured, None
        if configured is None:
            return
        former, self._specs = self._specs, {spec.id: spec for spec in configured if spec.enabled}
        for known in (self._turn_of, self._unsettled):
            for job_id in known.keys() - self._specs.keys():
                del known[job_id]
        for spec in self._specs.values():
            known_spec = former.get(spec.id)
            if known_spec == spec:
                continue
            self._take_turn(spec.id, EPOCH)
            self._fortunes.reconsider(spec.id, excused=known_spec is not None and known_spec.schedule != spec.schedule)
        self._fortunes.configure(self._specs)

    def _look(self) -> bool:
        """Take a sample and judge it; return whether there is more to be read."""
        if self._newest_attempt is None:
            self._newest_attempt, self._open_attempts = self._samples.attempts()
        unread = self._fortunes.unread(BATCH_RECORDS)
        records = self._samples.records(unread) if unread else ()
        turns = self._next_turns()
        try:
            sample = self._samples.sample(tuple(turns), self._newest_attempt, self._open_attempts)
        except StoreUnavailable:
            for job_id, moment in turns.items():
                self._take_turn(job_id, moment)
            raise
        self._newest_attempt, self._open_attempts = sample.newest_attempt, sample.open_attempts
        self._fortunes.learn(sample)
        self._fortunes.recall(unread, records)
        progress = {one.job_id: one for one in sample.jobs}
        for job_id in turns:
            self._judge_job(self._specs[job_id], progress.get(job_id), sample)
        self._judge_leader(sample)
        self._seen = Seen(
            now=sample.now,
            at=self._clock.monotonic(),
            waiting_count=sample.waiting_count,
            due_count=sample.due_count,
            running_count=sample.running_count,
            replica_count=sample.replica_count,
            oldest=self._oldest(self._unsettled.values()),
            idle=self._idle,
            late=self._late,
            paused=sample.paused & self._specs.keys(),
            fortunes=self._fortunes.known(),
        )
        return bool(self._fortunes.unread(1)) or sample.more

    # --- which jobs to look at

    def _take_turn(self, job_id: str, moment: datetime) -> None:
        self._turn_of[job_id] = moment
        heapq.heappush(self._turns, (moment, job_id))

    def _next_turns(self) -> dict[str, datetime]:
        """Return the jobs whose turn has come, and since when; those that have waited longest first."""
        now = EPOCH if self._seen is None else self._now(self._seen)
        turns: dict[str, datetime] = {}
        while self._turns and self._turns[0][0] <= now and len(turns) < BATCH_JOBS:
            moment, job_id = heapq.heappop(self._turns)
            if self._turn_of.get(job_id) == moment:  # else it was given another
                turns[job_id] = self._turn_of.pop(job_id)
        return turns

    def _now(self, seen: Seen) -> datetime:
        return seen.now + timedelta(seconds=self._clock.monotonic() - seen.at)

    # --- what became of jobs

    def _judge_job(self, spec: JobSpec, progress: JobProgress | None, sample: Sample) -> None:
        self._unsettled.pop(spec.id, None)
        if progress is None or not progress.enabled or not progress.configured:
            self._fortunes.excuse(spec.id)
            self._take_turn(spec.id, sample.now + STRANGE_AGAIN)
            return
        schedule = _written(spec, progress)
        tick = None if schedule is None else schedule.after(progress.settled_until)
        if tick is None:
            self._take_turn(spec.id, sample.now + TICKLESS_AGAIN)
        else:
            due = due_at(spec.id, tick, spec.jitter)
            if due <= sample.now:
                self._unsettled[spec.id] = Unsettled(spec.id, tick, due)
            self._take_turn(spec.id, due)
        self._fortunes.expect_success(spec, sample)

    # --- what the leader does

    def _judge_leader(self, sample: Sample) -> None:
        lease, now = self._leadership.current(), self._clock.monotonic()
        leader = self._leadership.observed() if lease is None else (lease.leader_id, lease.term)
        if leader != self._leader:
            self._leader, self._owes_since, self._late, self._idle = leader, now, (), None
        if leader is None:
            return
        owed_for = timedelta(seconds=now - self._owes_since)
        late = [
            one
            for one in self._unsettled.values()
            if min(owed_for, sample.now - one.due_at) > _granted(self._specs[one.job_id])
        ]
        self._late = tuple(sorted(self._not_held(late, sample, owed_for), key=_age))
        if self._late:
            self._tell_idle(Idle(*leader, self._late[0]), sample)
        elif self._idle is not None:
            self._idle = None
            self._events.emit("leader_active", leader=leader[0], term=leader[1], idle_seconds=now - self._idle_since)

    def _not_held(self, late: list[Unsettled], sample: Sample, owed_for: timedelta) -> list[Unsettled]:
        """Leave out the jobs that wait for a run of a replica which may have vanished."""
        late = sorted(late, key=lambda one: one.due_at)[:BATCH_JOBS]
        excusable = [one.job_id for one in late if self._specs[one.job_id].overlap is Overlap.SKIP]
        if not excusable:
            return late
        survey = self._survey(excusable)
        leader = "" if self._leader is None else self._leader[0]
        held = {
            one.run.job_id
            for one in survey.open_runs
            if holder_in_doubt([one], leader, survey.now - self._unseen_after) is not None
        }
        return [
            one
            for one in late
            if one.job_id not in held
            or min(owed_for, sample.now - one.due_at) > _granted(self._specs[one.job_id]) + self._held_for
        ]

    def _tell_idle(self, idle: Idle, sample: Sample) -> None:
        now = self._clock.monotonic()
        if self._idle is None:
            self._idle_since = now
        if self._idle is None or now - self._told_at >= REPEAT_SECONDS:
            self._told_at = now
            self._events.emit(
                "leader_idle",
                leader=idle.leader,
                term=idle.term,
                job=idle.oldest.job_id,
                scheduled_at=idle.oldest.scheduled_at,
                age_seconds=(sample.now - idle.oldest.due_at).total_seconds(),
            )
        self._idle = idle

    @staticmethod
    def _oldest(unsettled: Iterable[Unsettled]) -> Unsettled | None:
        return min(unsettled, key=_age, default=None)


def _granted(spec: JobSpec) -> timedelta:
    """Return how late a leader at work may be with a tick."""
    return max(LEAST_GRANTED, GRACES * spec.misfire_grace)


def _age(one: Unsettled) -> tuple[datetime, str]:
    return one.due_at, one.job_id


def _written(spec: JobSpec, progress: JobProgress) -> Schedule | None:
    """Return the schedule under which the ledger holds the job; None if it cannot be read."""
    if (progress.schedule, progress.timezone) == (spec.schedule.canonical, spec.schedule.timezone):
        return spec.schedule
    try:
        return schedules.parse(progress.schedule, progress.timezone)
    except ScheduleError:
        return None
