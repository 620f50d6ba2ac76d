"""The values that travel between the parts: leases, ticks, runs, attempts, jobs and their policies.

All of them are immutable and are handed from thread to thread whole.  Datetimes are aware UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema

from scheduler_service.schedule import Schedule


class State(StrEnum):
    """Where a run stands; attempts have the same states but `waiting`, `missed` and `skipped`."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    MISSED = "missed"
    SKIPPED = "skipped"


class Reason(StrEnum):
    """Why a run waits, was missed or was skipped."""

    QUEUED = "queued"
    RETRY = "retry"
    RERUN = "rerun"
    REQUESTED = "requested"
    POLICY = "policy"
    WINDOW = "window"
    LIMIT = "limit"
    COALESCED = "coalesced"
    OVERLAP = "overlap"
    QUEUE_LIMIT = "queue_limit"
    PAUSED = "paused"


class Kind(StrEnum):
    """What a row of the ledger stands for."""

    SCHEDULED = "scheduled"
    CATCH_UP = "catch_up"
    MANUAL = "manual"
    RANGE = "range"


class CatchUp(StrEnum):
    """Which missed ticks run after all."""

    NONE = "none"
    LATEST = "latest"
    ALL = "all"


class Overlap(StrEnum):
    """What to do when a tick comes due while the job still runs."""

    SKIP = "skip"
    QUEUE = "queue"
    ALLOW = "allow"
    REPLACE = "replace"


class OnCrash(StrEnum):
    """What becomes of a run whose replica died."""

    FAIL = "fail"
    RERUN = "rerun"


# Starts of a run with `on_crash: rerun` and no `retry`: a job that takes its replica down with it must not take
# down one after the other for ever.
RERUN_STARTS = 10


class OnLeadershipLost(StrEnum):
    """What becomes of a run when its replica no longer leads."""

    FINISH = "finish"
    CANCEL = "cancel"


class Isolation(StrEnum):
    """Where a callable runs."""

    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead, as this replica holds it.  The token of a term is (term, leader_id)."""

    lock_id: int
    leader_id: str
    term: int
    acquired_at: datetime
    trusted_until: float  # boot-clock seconds; never the lease's expiry, always earlier
    armed: bool = False  # the crash detector watches this term

    def trusted(self, now: float) -> bool:
        """Return whether we still believe this lease at `now`, in boot-clock seconds."""
        return now < self.trusted_until


class Discreet(BaseModel):
    """A frozen value that shows `***` for what came from variables or files: it may be a secret."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, populate_by_name=True, hide_input_in_errors=True
    )

    hidden: SkipJsonSchema[frozenset[str]] = Field(frozenset(), exclude=True, repr=False)  # names of such fields

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Give pydantic what it shows."""
        return [(name, "***" if name in self.hidden else value) for name, value in super().__repr_args__()]

    @model_serializer(mode="wrap")
    def _masked(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        shown: dict[str, Any] = handler(self)
        if info.mode_is_json():
            for name, field in type(self).model_fields.items():
                for key in (name, field.alias):
                    if key in shown and name in self.hidden:
                        shown[key] = "***"
        return shown


class Retry(BaseModel):
    """How often and how soon a failed run is started again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int = 1
    delay: timedelta = timedelta(seconds=10)
    factor: float = 2.0
    max_delay: timedelta = timedelta(minutes=10)
    on: tuple[str, ...] = ("error", "timeout")  # `for` in YAML


class JobSpec(Discreet):
    """One job as the configuration names it, parsed and checked."""

    id: str
    schedule: Schedule  # with its zone, starts_at and ends_at
    run: str | None = None  # module:function
    command: str | tuple[str, ...] | None = None  # a string goes to /bin/sh -c
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    env: Mapping[str, str] = {}
    working_directory: Path | None = None
    jitter: timedelta = timedelta(0)
    misfire_grace: timedelta = timedelta(seconds=60)
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_window: timedelta = timedelta(days=1)
    catch_up_limit: int = 10
    overlap: Overlap = Overlap.SKIP
    queue_limit: int = 10
    max_running: int | None = None  # see running_limit
    timeout: timedelta | None = None
    kill_after: timedelta = timedelta(seconds=10)
    retry: Retry = Retry()
    on_crash: OnCrash = OnCrash.FAIL
    on_leadership_lost: OnLeadershipLost = OnLeadershipLost.FINISH
    isolation: Isolation = Isolation.THREAD
    enabled: bool = True
    description: str = ""
    tags: tuple[str, ...] = ()

    @field_serializer("schedule", when_used="json")
    def _written(self, schedule: Schedule) -> str:
        return schedule.canonical

    @property
    def running_limit(self) -> int | None:
        """How many runs of this job may go on at once; None for any number."""
        if self.max_running is not None:
            return self.max_running
        return None if self.overlap is Overlap.ALLOW else 1

    @property
    def starts_limit(self) -> int:
        """How often one run is started at most, whatever becomes of it."""
        if self.retry.attempts == 1 and self.on_crash is OnCrash.RERUN:
            return RERUN_STARTS
        return self.retry.attempts


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for one tick, or for consecutive ticks of one job up to `until`.

    `state` is `waiting` (it shall run), `missed` or `skipped`; a range is never waiting.
    """

    scheduled_at: datetime
    due_at: datetime
    kind: Kind
    state: State
    reason: Reason
    until: datetime | None = None  # the last tick of a range


@dataclass(frozen=True, slots=True)
class Run:
    """A run that shall start: what the ledger says about it."""

    id: int
    job_id: str
    scheduled_at: datetime
    due_at: datetime
    kind: Kind
    state: State
    attempt: int = 0  # how often it was started already
    instance_id: str | None = None  # who runs it
    arguments: str | None = None  # of a triggered run, JSON: a list by position, a map by name


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a run, open in the ledger under our name.  Its id is the fence: it only grows."""

    id: int
    run_id: int
    attempt: int
    job_id: str
    scheduled_at: datetime
    due_at: datetime
    kind: Kind
    term: int
    instance_id: str
    started_at: datetime
    sent: float  # boot-clock seconds before the start was sent
    arguments: str | None = None  # instead of the job's own, as in Run


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, as the runner saw it."""

    state: State  # succeeded, failed, timed_out or cancelled
    seconds: float  # how long it took, on the boot clock
    error: str | None = None  # for a person: exception with traceback, or what the command did
    exit_code: int | None = None
    result: str | None = None  # repr of what a callable returned, shortened
    output: str = ""  # the last `output_limit` bytes, decoded
    truncated: bool = False
    returned: bool = True  # False: a thread that timed out and goes on holds its slot
    retry_seconds: float | None = None  # start it again so long after it ended; None: it is over for good
    peak_memory_bytes: int | None = None  # of a process of its own
