"""What the reads answer: rows as values.  Moments are aware UTC and the database's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from scheduler_service.model import Kind, Reason, State
from scheduler_service.schedule import Schedule, ScheduleError, parse

STRANGER_SECONDS = 10  # in which a replica that leads has signed in
REPLACES = ", which replaces it"  # so ends `cancel_requested_by` where no person asked, but a newer tick


@dataclass(frozen=True, slots=True)
class Leader:
    """The replica that holds the lease, and until when if it does not renew it."""

    instance_id: str
    term: int
    acquired_at: datetime
    expires_at: datetime
    crash_detection: bool  # whether another replica would notice at once that it died


@dataclass(frozen=True, slots=True)
class TermRow:
    """One leadership of the past or the present; no `ended_at` until somebody has noted its end.

    The leader does when it gives the lease back, the next one when it takes over, cleanup when it finds it run out.
    """

    term: int
    leader_id: str
    acquired_at: datetime
    ended_at: datetime | None
    end_reason: str | None


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """A replica as it signed in last."""

    instance_id: str
    host: str
    pid: int
    version: str
    config_hash: str
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Pause:
    """Since when a job is paused, and until when if that is known."""

    at: datetime
    until: datetime | None
    by: str | None
    reason: str | None

    def over(self, now: datetime) -> bool:
        """Return whether it has ended at `now`; the row keeps it until a leader has settled it."""
        return self.until is not None and self.until <= now

    def holds(self, moment: datetime) -> bool:
        """Return whether a tick at `moment` falls into the pause."""
        return moment > self.at and (self.until is None or moment <= self.until)


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest row of a job that is not still to start."""

    id: int
    scheduled_at: datetime
    until: datetime | None
    state: State
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the leader stored it."""

    job_id: str
    canonical: str
    timezone: str
    enabled: bool
    accountable_from: datetime
    settled_until: datetime
    present_at: datetime  # when a leader last had it in its configuration
    pause: Pause | None = None  # perhaps over already, see `paused`
    running_count: int = 0
    stuck_count: int = 0  # runs that are over but whose code goes on and holds its slot
    last: LastRun | None = None

    @property
    def schedule(self) -> Schedule:
        """The schedule under which it is settled.  Raises ScheduleError for one that cannot be read here.

        Another replica wrote it, perhaps of a later version or with other time zone data.
        """
        return parse(self.canonical, self.timezone)

    def zone(self, of_service: str) -> str:
        """The zone in which people mean the job's times: that of its cron, or else the service's."""
        try:
            return self.timezone if self.schedule.has_zone else of_service
        except ScheduleError:
            return self.timezone

    def paused(self, now: datetime) -> Pause | None:
        """Return the pause that holds at `now`."""
        return None if self.pause is None or self.pause.over(now) else self.pause

    def next_tick(self, now: datetime) -> datetime | None:
        """Return the next tick that may run, or None if none comes: disabled, paused without end, or over.

        Of a schedule that cannot be read here none is known.
        """
        if not self.enabled or (self.pause is not None and self.pause.until is None):
            return None
        after = now if self.pause is None or self.pause.until is None else max(now, self.pause.until)
        try:
            return self.schedule.after(after)
        except ScheduleError:
            return None


@dataclass(frozen=True, slots=True)
class Standing:
    """How the service stands at `now`."""

    now: datetime
    lock_id: int
    leader: Leader | None
    last_term: TermRow | None  # the newest leadership, also when nobody leads any more
    replicas: tuple[ReplicaRow, ...]
    jobs: tuple[JobRow, ...]

    def live(self, replica: ReplicaRow, lost_after_seconds: float) -> bool:
        """Return whether `replica` was seen lately enough not to be taken for dead."""
        return (self.now - replica.seen_at).total_seconds() <= lost_after_seconds

    def stranger(self) -> str | None:
        """Say that the leader has not signed in as replicas do; None if it has, or leads too short to have done so."""
        leader = self.leader
        if leader is None or (self.now - leader.acquired_at).total_seconds() <= STRANGER_SECONDS:
            return None
        if any(replica.instance_id == leader.instance_id for replica in self.replicas):
            return None
        return (
            f"{leader.instance_id} leads and has not signed in: it is another program that uses lock_id "
            f"{self.lock_id}, and no job runs, or a replica that may not write"
        )

    def drifted(self, lost_after_seconds: float) -> tuple[ReplicaRow, ...]:
        """Return the live replicas whose configuration is not the leader's; without a leader, not the newest one's."""
        live = [replica for replica in self.replicas if self.live(replica, lost_after_seconds)]
        leads = [replica for replica in live if self.leader and replica.instance_id == self.leader.instance_id]
        model = leads or sorted(live, key=lambda replica: replica.started_at)[-1:]
        return tuple(replica for replica in live if replica.config_hash != model[0].config_hash)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of the ledger, with its newest attempt if it has one."""

    id: int
    job_id: str
    scheduled_at: datetime
    until: datetime | None  # the last tick of a range
    due_at: datetime
    kind: Kind
    state: State
    reason: Reason | None
    decided_at: datetime
    decided_by: str | None
    attempt: int  # how often it was started
    requested_by: str | None = None  # of a triggered run
    request_key: str | None = None
    arguments: str | None = None  # JSON
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str | None = None
    term: int | None = None
    instance_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    error: str | None = None
    peak_memory_bytes: int | None = None

    @property
    def replaced_by(self) -> str | None:
        """Which tick took its place (overlap 'replace'), for a person; None if no tick asked for its end."""
        by = self.cancel_requested_by or ""
        return by.removesuffix(REPLACES) if by.endswith(REPLACES) else None

    @property
    def is_open(self) -> bool:
        """Whether it still waits or runs."""
        return self.state in (State.WAITING, State.RUNNING)

    @property
    def delay_seconds(self) -> float | None:
        """How long after it was due it began; None while it waits to be tried again, or never was."""
        if self.started_at is None or self.started_at < self.due_at:  # that start was of the attempt before
            return None
        return (self.started_at - self.due_at).total_seconds()

    @property
    def duration_seconds(self) -> float | None:
        """How long the newest attempt took; None while it runs."""
        return seconds_between(self.started_at, self.finished_at)


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One start of a run, and what is kept of its output."""

    id: int
    attempt: int
    term: int
    instance_id: str
    started_at: datetime
    finished_at: datetime | None
    state: State
    error: str | None
    exit_code: int | None
    result: str | None
    peak_memory_bytes: int | None
    output: str | None
    output_truncated: bool

    @property
    def duration_seconds(self) -> float | None:
        """How long it took; None while it runs."""
        return seconds_between(self.started_at, self.finished_at)


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from `start` to `end`, if both are known."""
    return None if start is None or end is None else (end - start).total_seconds()
