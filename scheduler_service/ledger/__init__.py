"""The ledger: what was decided for each tick, what was started, and how it ended.

    recall     the jobs as the former leader left them
    adopt      make the job table agree with the leader's configuration
    survey     the database's time, and the open runs of some jobs
    settle     decide all ticks of some jobs up to a moment: one fenced statement (I4, I5)
    poll       runs that may start now, and pauses that are new or over
    start      make attempts of waiting runs: one fenced statement (I3, I7)
    finish     close attempts; needs no lease, for a run's right to end is its own row
    sign_in    the replica's sign of life
    mark_lost  close what a vanished replica left open: fenced

A statement that is fenced (its term is over) answers None; that is an outcome, not an error.
Every method raises StoreUnavailable when the database did not answer: what became of the
statement is then unknown, and each can be sent again without harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from scheduler_service.database import Database
from scheduler_service.model import Attempt, Decision, JobSpec, Lease, Outcome, Reason, Run

StartsLimits = Mapping[str, int]  # by job, for jobs with `on_crash: rerun`

ABSENT_AFTER = timedelta(minutes=10)  # a job that was out of the configuration for longer owes nothing for it
BUSY_ROWS = 25  # of the 50 that pruning looks at of each job, as some of them may go on or wait

# What `cancel_requested_by` holds where an adoption asked for the end of a run: words for a person, as a name is.
DISABLES = "the configuration that disables the job"
DROPS = "the configuration that no longer has the job"


@dataclass(frozen=True, slots=True)
class JobState:
    """What the ledger knows of one job."""

    job_id: str
    schedule: str  # canonical
    timezone: str
    enabled: bool
    accountable_from: datetime
    settled_until: datetime
    paused_at: datetime | None = None
    paused_until: datetime | None = None
    paused_by: str | None = None
    pause_reason: str | None = None
    resumed_by: str | None = None
    running_limit: int | None = None  # by which polls go


@dataclass(frozen=True, slots=True)
class Adoption:
    """The job table after it was made to agree with a configuration."""

    states: tuple[JobState, ...]  # of all jobs in the configuration
    added: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()  # enabled again, or back after a long absence
    cancelled: Mapping[str, int] = field(default_factory=dict)  # by job: how many of its runs waited, and never will


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that waits or runs, or whose code goes on after its end; and when its replica was seen last."""

    run: Run
    holder_seen_at: datetime | None = None
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """The database's time, and the open runs at that time."""

    now: datetime
    open_runs: tuple[OpenRun, ...]


@dataclass(frozen=True, slots=True)
class Poll:
    """What the ledger has for a leader to do."""

    runs: tuple[Run, ...]  # may start now, oldest due first; but what is caught up on lets others pass for ten minutes
    pauses: tuple[str, ...] = ()  # jobs whose pause began a moment ago
    pauses_over: tuple[str, ...] = ()  # jobs whose pause is over and not settled


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is decided for one job: its ticks in (state.settled_until, until].

    `schedule`, `timezone` and `enabled` are what holds from then on.  `replaced` runs make room for a newer
    tick: one that waits is cancelled, one that runs is asked to stop.
    """

    state: JobState
    until: datetime
    schedule: str
    timezone: str
    enabled: bool
    decisions: tuple[Decision, ...] = ()
    withdrawn: tuple[tuple[int, Reason], ...] = ()  # waiting runs that never began and shall not: id, why missed
    replaced: tuple[tuple[int, str], ...] = ()  # id, and what replaces it, for a person
    resumed: bool = False  # the pause is over and settled

    def applied(self) -> JobState:
        """Return the job's state after this was written."""
        old = self.state
        pause = (
            (None,) * 5
            if self.resumed
            else (
                old.paused_at,
                old.paused_until,
                old.paused_by,
                old.pause_reason,
                old.resumed_by,
            )
        )
        return JobState(
            old.job_id,
            self.schedule,
            self.timezone,
            self.enabled,
            old.accountable_from,
            self.until,
            *pause,
            old.running_limit,
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt and how it ended."""

    attempt: Attempt
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Replica:
    """What a replica tells of itself when it signs in."""

    instance_id: str
    host: str
    pid: int
    version: str
    config_hash: str


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that is open in the ledger."""

    attempt_id: int
    started_at: datetime
    claim_id: str
    cancelled_by: str | None = None  # who asked for it to stop


@dataclass(frozen=True, slots=True)
class Peer:
    """Another replica as its rows show it; `seen_at` is None when it has no row."""

    instance_id: str
    seen_at: datetime | None
    open_count: int  # attempts that it runs, and slots that it holds
    config_hash: str | None = None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The answer to a sign of life."""

    now: datetime
    held: tuple[Held, ...]  # our own open attempts
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """An attempt that was closed because its replica is gone."""

    attempt_id: int
    run_id: int
    attempt: int
    job_id: str
    scheduled_at: datetime
    rerun: bool = False  # its run waits to be started again


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed."""

    count: int
    busy: tuple[str, ...]  # jobs that gave so many rows that they are likely to have more


class Ledger(Protocol):
    """The verbs of one election's ledger; the implementations differ in how they are made atomic."""

    def rehearse(self) -> None:
        """Say once what a leader says first, for a term that never was, so that nothing is written.

        The first time is the slowest, here and in the server, and would come just after an election.
        """

    def adopt(self, lease: Lease, specs: Sequence[JobSpec]) -> Adoption | None:
        """Add new jobs, make returned ones accountable from now, and cancel what waits in vain.

        That is: the runs of jobs that are disabled, but for those that a person asked for, and of jobs that have been
        out of the configuration for longer than ABSENT_AFTER, as long as this leader leads at least.
        """

    def recall(self, limit: int) -> tuple[tuple[JobState, ...], Survey]:
        """Read at most `limit` jobs that an adoption would leave as they are, those settled last first; survey them.

        They are enabled, and were not out of the configuration for longer than ABSENT_AFTER.
        """

    def job_states(self, job_ids: Sequence[str]) -> tuple[JobState, ...]:
        """Read the state of some jobs."""

    def survey(self, job_ids: Sequence[str]) -> Survey:
        """Read the time and the open runs of some jobs, oldest tick first."""

    def settle(self, lease: Lease, settlements: Sequence[Settlement]) -> frozenset[str] | None:
        """Write decisions; return the jobs that were settled.

        A job that is not among them was changed from elsewhere: read it again and compute anew.
        """

    def poll(self, limit: int, without: Sequence[str] = (), among: Sequence[str] | None = None) -> Poll:
        """Read what there is to do: at most `limit` runs, of the jobs `among` if they are given, none of `without`."""

    def start(
        self, lease: Lease, claim_id: str, runs: Sequence[tuple[Run, int | None]], sent: float
    ) -> list[Attempt] | None:
        """Make attempts of runs; those that cannot start now are left waiting, as those of a paused job are.

        With each run comes how many of its job may go on at once, None for any number.
        """

    def claimed(self, claim_id: str, runs: Sequence[Run], sent: float) -> list[Attempt]:
        """Read the open attempts that carry `claim_id`: what a start did whose reply was lost."""

    def unstart(self, instance_id: str, attempt_ids: Sequence[int]) -> int:
        """Delete attempts that certainly never began; their runs wait again."""

    def finish(self, finished: Sequence[Finished]) -> None:
        """Close attempts, and their runs where the attempt is the newest; a run to be tried again waits.

        An attempt that is closed already stays as it is; if its code has returned meanwhile, its slot is free.
        """

    def still_open(self, attempt_id: int) -> bool:
        """Return whether the attempt is open."""

    def lost_among(self, attempt_ids: Sequence[int]) -> frozenset[int]:
        """Return those of the attempts that were marked lost."""

    def sign_in(self, replica: Replica) -> SignedIn:
        """Write the sign of life; read our open attempts and the other replicas."""

    def sign_out(self, instance_id: str, starts_limits: StartsLimits) -> None:
        """Close what is still open under this name as lost, free its slots and remove its row."""

    def mark_lost(
        self, lease: Lease, instance_id: str, seen_at: datetime | None, starts_limits: StartsLimits
    ) -> list[LostAttempt] | None:
        """Close what a replica left open, if its sign of life is still the one that was watched.

        Runs of the jobs in `starts_limits` wait to be started again, unless they were started so often already.
        """

    def job_ids(self) -> list[str]:
        """Read the ids of all jobs that the ledger knows, those that are gone too."""

    def prune(
        self, lease: Lease, job_ids: Sequence[str], keep_for: timedelta, keep_runs: int, limit: int
    ) -> Pruned | None:
        """Remove closed rows of some jobs that are too old or too many: a few of each, at most `limit` in all.

        If that is too little for all, the first jobs get their turn.
        """


def open_ledger(database: Database, lock_id: int) -> Ledger:
    """Return the ledger of election `lock_id`."""
    # Each of the two needs the values above.
    if database.dialect == "postgresql":
        from scheduler_service.ledger.postgresql import PostgresLedger  # noqa: PLC0415

        return PostgresLedger(database, lock_id)
    from scheduler_service.ledger.sqlite import SqliteLedger  # noqa: PLC0415

    return SqliteLedger(database, lock_id)


__all__ = [
    "ABSENT_AFTER",
    "BUSY_ROWS",
    "DISABLES",
    "DROPS",
    "Adoption",
    "Finished",
    "Held",
    "JobState",
    "Ledger",
    "LostAttempt",
    "OpenRun",
    "Peer",
    "Poll",
    "Pruned",
    "Replica",
    "Settlement",
    "SignedIn",
    "StartsLimits",
    "Survey",
    "open_ledger",
]
