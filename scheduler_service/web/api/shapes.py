"""The shapes of what the API takes and gives, for its OpenAPI document.

Answers are made by `ledger.history.documents`, whose keys are a promise; these say the same, and a test holds
one to the other.  Moments are ISO 8601 in UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from scheduler_service.ledger.requests import TEXT_LIMIT
from scheduler_service.model import Kind, Reason, State

BY_LIMIT = 100  # characters of a name, to which we add how it came


class Shape(BaseModel):
    """An answer; keys may be added in later versions."""


class LeaderShape(Shape):
    """Who leads, and until when if the lease is not renewed."""

    instance_id: str
    term: int
    acquired_at: datetime
    expires_at: datetime
    crash_detection: bool = Field(description="Whether another replica would notice at once that it died.")


class ReplicaShape(Shape):
    """A replica as it signed in last."""

    instance_id: str
    role: str = Field(description="leader or standby")
    host: str
    pid: int
    version: str
    config_hash: str
    seen_at: datetime


class KnownReplica(ReplicaShape):
    """A replica, and what the others make of it."""

    started_at: datetime
    live: bool = Field(description="Whether it was seen lately enough not to be taken for dead.")
    drifted: bool = Field(description="Whether it is live, and its configuration is not the leader's.")


class JobCountsShape(Shape):
    """How many jobs are configured, and how many of them are so."""

    all: int
    enabled: int
    paused: int
    running: int
    stuck: int


class Status(Shape):
    """How the service stands."""

    now: datetime = Field(description="The database's time.")
    version: str
    lock_id: int
    answered_by: str = Field(description="The replica that answered.")
    leader: LeaderShape | None
    config_drift: bool
    replicas: list[ReplicaShape]
    job_counts: JobCountsShape


class Replicas(Shape):
    """All replicas that signed in and were not forgotten since."""

    replicas: list[KnownReplica]


class PauseShape(Shape):
    """Since when a job is paused, and until when if that is known."""

    at: datetime
    until: datetime | None
    by: str | None
    reason: str | None


class LastRunShape(Shape):
    """The newest row of a job that is not still to start."""

    id: int
    scheduled_at: datetime
    state: State
    reason: Reason | None


class Job(Shape):
    """A job as the leader stored it."""

    job: str
    schedule: str
    timezone: str
    enabled: bool
    paused: PauseShape | None
    next: datetime | None = Field(description="The next tick that may run.")
    running: int
    stuck: int = Field(description="Runs that are over but whose code goes on and holds its slot.")
    last: LastRunShape | None


class JobDetails(Job):
    """A job, and up to when its ticks are decided."""

    accountable_from: datetime
    settled_until: datetime
    present_at: datetime = Field(description="When a leader last had it in its configuration.")


class Jobs(Shape):
    """Some jobs in order of their ids."""

    now: datetime
    jobs: list[Job]
    after: str | None = Field(description="What to send as `after` for those that follow; null: none do.")


class Run(Shape):
    """A row of the ledger: what a tick or a trigger led to."""

    id: int
    job: str
    scheduled_at: datetime
    until: datetime | None = Field(description="The last tick of a range.")
    due_at: datetime
    kind: Kind
    state: State
    reason: Reason | None
    decided_at: datetime
    decided_by: str | None
    attempt: int = Field(description="How often it was started.")
    term: int | None
    instance_id: str | None
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    error: str | None
    delay_seconds: float | None = Field(
        description="From due_at to started_at; null while it waits to be tried again, or never was."
    )
    duration_seconds: float | None = Field(description="Of a lost run: until it was given up.")
    requested_by: str | None
    request_key: str | None
    arguments: list[Any] | dict[str, Any] | None
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None
    peak_memory_bytes: int | None


class Attempt(Shape):
    """One start of a run, and what is kept of its output."""

    id: int = Field(description="The fence: it grows with every start of any job.")
    attempt: int
    state: State
    term: int
    instance_id: str
    started_at: datetime
    finished_at: datetime | None
    duration_seconds: float | None
    exit_code: int | None
    error: str | None
    result: str | None
    peak_memory_bytes: int | None
    output: str | None
    output_truncated: bool


class RunDetails(Run):
    """A run with all its attempts, oldest first."""

    attempts: list[Attempt]
    output: str | None = Field(description="The newest attempt's.")


class Runs(Shape):
    """Some runs, the newest tick first."""

    runs: list[Run]
    after: str | None = Field(description="What to send as `after` for those that follow; null: none do.")


class Ticks(Shape):
    """A job's coming ticks, and what was decided for those that came."""

    job: str
    timezone: str
    next: list[datetime]
    decided: list[Run]
    after: str | None = Field(description="What to send as `after` for earlier ones; null: there are none.")


class Why(Shape):
    """What was decided for one tick, by whom, and why."""

    job: str
    scheduled_at: datetime
    decision: str = Field(
        description=(
            "The state of its row; where there is none: not_a_tick, future, not_settled, not_accountable, "
            "not_recorded, unreadable."
        )
    )
    reason: Reason | None
    decided_at: datetime | None
    decided_by: str | None
    run: int | None
    explanation: str
    previous: datetime | None
    next: datetime | None


class Term(Shape):
    """One leadership."""

    term: int
    instance_id: str
    acquired_at: datetime
    ended_at: datetime | None = Field(
        description="When the lease was given back, taken over, or ran out; null as long as nobody has noted an end."
    )
    end_reason: str | None


class Leadership(Shape):
    """Who led, the newest term first."""

    terms: list[Term]
    after: int | None = Field(description="What to send as `after` for earlier ones; null: there are none.")


class ComingTickShape(Shape):
    """A tick that comes."""

    job: str
    scheduled_at: datetime
    local: datetime
    timezone: str


class NextTicks(Shape):
    """The coming ticks of all jobs, soonest first."""

    now: datetime
    ticks: list[ComingTickShape]
    pending: int = Field(
        description="Jobs that this replica has not computed yet, so that their ticks are missing here: ask again."
    )


class Request(BaseModel):
    """What is asked for; a key that is not known is refused, lest a misspelt one is passed over in silence."""

    model_config = ConfigDict(extra="forbid")

    by: str | None = Field(None, max_length=BY_LIMIT, description="Who asks, for people to read.")


class TriggerRequest(Request):
    """A run, now."""

    arguments: list[Any] | dict[str, Any] | None = Field(
        None, description="A list takes the place of the job's args, an object is merged over its kwargs."
    )
    key: str | None = Field(
        None, max_length=TEXT_LIMIT, description="The same key is the same run, however often it is asked for."
    )

    @field_validator("arguments", mode="before")
    @classmethod
    def _list_or_map(cls, given: object) -> object:
        # In one sentence: pydantic would say of each of the two what it is not.
        if given is not None and not isinstance(given, list | dict):
            raise PydanticCustomError("list_or_map", "give a JSON list or a JSON map")
        return given


class PauseRequest(Request):
    """No run from now on."""

    until: str | None = Field(
        None,
        max_length=TEXT_LIMIT,
        description=(
            "Until then, instead of until it is resumed: ISO 8601; without an offset in the job's zone, or the "
            "service's without cron."
        ),
        examples=["2026-12-01T08:00:00Z"],
    )
    reason: str | None = Field(None, max_length=TEXT_LIMIT, description="Why, for others to read.")


class Triggered(Shape):
    """The run that was asked for."""

    job: str
    run: int
    new: bool = Field(description="Whether it was asked for just now, not before with the same key.")
    paused: bool = Field(description="The job is paused: the run waits until it is resumed.")


class Paused(Shape):
    """The job is paused."""

    job: str
    paused: PauseShape


class Resumed(Shape):
    """The job is not paused; `resumed` says whether it was."""

    job: str
    paused: None
    resumed: bool
    ended: PauseShape | None = Field(description="The pause that ended just now; `until` is when.")


class Cancelled(Shape):
    """What became of the run."""

    run: int
    job: str
    state: State = Field(description="cancelled, or running: it is asked to stop, and not tried again.")
    cancel_requested_at: datetime | None
    cancel_requested_by: str | None


class AskedLeader(Shape):
    """Who is to hand over."""

    instance_id: str
    term: int


class Resigning(Shape):
    """The leader is asked to hand over."""

    asked: AskedLeader


class InvalidPart(Shape):
    """A part of the request that is wrong."""

    where: str
    message: str


class ProblemShape(Shape):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="A URN that scripts can compare, or about:blank.")
    title: str
    status: int
    detail: str = Field(description="What is wrong, and what to do.")
    instance: str = Field(description="The path that was asked for.")
    errors: Annotated[list[InvalidPart] | None, Field(description="Of an invalid request.")] = None
