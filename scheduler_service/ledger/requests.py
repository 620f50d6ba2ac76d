"""What people ask of the service, from any machine that reaches the database.

    trigger    a run of a job, now
    pause      no run of a job, from now on
    resume     the end of a pause
    cancel     the end of a run
    resign     another leader

Each is one statement that commits itself.  None needs a lease, and none waits for a replica: the replicas
find what was asked within about a second.  Moments are the database's.  What can become of a request is a
value; StoreUnavailable means that the database did not answer and that what became of it is unknown: a
trigger that has a key, and all the others, can be sent again without harm.

A request only ever adds what a leader or a worker obeys.  It does not decide ticks: `settled_until` stays,
and a pause that is over stays in the row until a leader has settled what it covered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    and_,
    case,
    func,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.leases import Resignation, request_resignation
from scheduler_service.model import Kind, Reason, State
from scheduler_service.tables import database_time, job_state, run

TEXT_LIMIT = 200  # characters of a name, a key or a reason
ARGUMENTS_LIMIT = 100_000  # characters of JSON

_KEY_ATTEMPTS = 5  # a run may be pruned between the conflict with its key and the look at it


@dataclass(frozen=True, slots=True)
class NoSuchJob:
    """No leader ever had this job; `known` are those that one had."""

    job_id: str
    known: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotConfigured:
    """The job left the configuration; a leader last had it at `present_at`."""

    job_id: str
    present_at: datetime


@dataclass(frozen=True, slots=True)
class Triggered:
    """A run that was asked for: just now, or before with the same key."""

    run_id: int
    new: bool
    paused: bool = False  # the job is paused: the run waits until it is resumed


@dataclass(frozen=True, slots=True)
class KeyTaken:
    """The key belongs to a run of another job."""

    key: str
    run_id: int
    job_id: str


@dataclass(frozen=True, slots=True)
class Paused:
    """The job is paused."""

    job_id: str
    at: datetime
    until: datetime | None
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class NotSettled:
    """The last pause is over and no leader has settled it yet: a new one would swallow the time between."""

    job_id: str
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class NotInFuture:
    """A pause cannot end before it begins."""

    now: datetime


@dataclass(frozen=True, slots=True)
class Resumed:
    """The pause that began at `since` ended at `at`; `by` and `reason` are the pause's."""

    job_id: str
    since: datetime
    at: datetime
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class NotPaused:
    """There is no pause to end."""

    job_id: str


@dataclass(frozen=True, slots=True)
class CancelledRun:
    """The run waited and will not start."""

    run_id: int
    job_id: str
    at: datetime
    by: str | None


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The run goes on and is asked to stop; who asked first is kept."""

    run_id: int
    job_id: str
    at: datetime
    by: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The run had ended before, or never was to start; who asked for its end, and when, if somebody did."""

    run_id: int
    job_id: str
    state: State
    at: datetime | None
    by: str | None


@dataclass(frozen=True, slots=True)
class NoSuchRun:
    """There is no such run in this election."""

    run_id: int


@dataclass(frozen=True, slots=True)
class _Job:
    now: datetime
    paused_until: datetime | None
    paused: bool


class Requests:
    """The requests to one election.  `by` is who asks, for people to read."""

    def __init__(self, database: Database, lock_id: int) -> None:
        self._database = database
        self._lock_id = lock_id

    def trigger(
        self, job_id: str, *, by: str, arguments: str | None = None, key: str | None = None
    ) -> Triggered | KeyTaken | NoSuchJob | NotConfigured:
        """Ask for a run of `job_id`, whatever its schedule says, and also while it is disabled.

        `arguments` is JSON: a list takes the place of the job's args by position, an object is merged over its
        kwargs.  The same `key` is the same run, however often and from wherever it is asked for.
        """
        with self._database.connect() as connection:
            job = self._find(connection, job_id)
            if not isinstance(job, _Job):
                return job
            for _ in range(_KEY_ATTEMPTS):
                run_id = self._insert(connection, job_id, by, arguments, key)
                if run_id is not None:
                    return Triggered(run_id, new=True, paused=job.paused)
                known = connection.execute(
                    select(run.c.id, run.c.job_id).where(run.c.lock_id == self._lock_id, run.c.request_key == key)
                ).first()
                if known is not None and known.job_id != job_id:
                    return KeyTaken(key or "", known.id, known.job_id)
                if known is not None:
                    return Triggered(known.id, new=False, paused=job.paused)
        raise StoreUnavailable(f"the run with the key {key!r} comes and goes: rows are being removed just now")

    def pause(
        self, job_id: str, *, by: str, until: datetime | None = None, reason: str | None = None
    ) -> Paused | NotSettled | NotInFuture | NoSuchJob | NotConfigured:
        """Pause a job from now on, or change until when and why it is paused; what runs goes on."""
        with self._database.connect() as connection:
            job = self._find(connection, job_id)
            if not isinstance(job, _Job):
                return job
            if until is not None and until <= job.now:
                return NotInFuture(job.now)
            # No leader settles the pause of a job that is disabled, and there is nothing to swallow.
            owes_nothing = job_state.c.enabled.is_(False)
            paused = connection.execute(
                update(job_state)
                .where(self._is(job_id), or_(job_state.c.paused_at.is_(None), _lasts(), owes_nothing))
                .values(
                    paused_at=case(
                        (_lasts(), func.coalesce(job_state.c.paused_at, database_time())), else_=database_time()
                    ),
                    paused_until=until,
                    paused_by=by,
                    pause_reason=reason,
                )
                .returning(job_state.c.paused_at)
            ).scalar()
            if paused is not None:
                return Paused(job_id, paused, until, by, reason)
            job = self._find(connection, job_id)
            if not isinstance(job, _Job):
                return job
            return NotSettled(job_id, job.paused_until or job.now)

    def resume(self, job_id: str, *, by: str) -> Resumed | NotPaused | NoSuchJob:
        """End the pause of a job, also of one that is not configured any more."""
        with self._database.connect() as connection:
            row = connection.execute(
                update(job_state)
                .where(self._is(job_id), job_state.c.paused_at.is_not(None), _lasts())
                .values(paused_until=database_time(), resumed_by=by)
                .returning(
                    job_state.c.paused_at, job_state.c.paused_until, job_state.c.paused_by, job_state.c.pause_reason
                )
            ).first()
            if row is not None:
                return Resumed(job_id, *row)
            job = self._find(connection, job_id)
            return job if isinstance(job, NoSuchJob) else NotPaused(job_id)

    def cancel(self, run_id: int, *, by: str) -> CancelledRun | StopRequested | Ended | NoSuchRun:
        """Keep a run that waits from starting; ask one that goes on to stop, and never to be tried again."""
        waits = run.c.state == State.WAITING.value
        mine = and_(run.c.lock_id == self._lock_id, run.c.id == run_id)
        answered = (run.c.job_id, run.c.state, run.c.cancel_requested_at, run.c.cancel_requested_by)
        asked = (
            update(run)
            .where(mine, run.c.state.in_([State.WAITING.value, State.RUNNING.value]))
            .values(
                state=case((waits, State.CANCELLED.value), else_=run.c.state),
                reason=case((waits, null()), else_=run.c.reason),
                cancel_requested_at=func.coalesce(run.c.cancel_requested_at, database_time()),
                # The first who asked, even where that was before names were kept.
                cancel_requested_by=case((run.c.cancel_requested_at.is_(None), by), else_=run.c.cancel_requested_by),
            )
            .returning(*answered)
        )
        with self._database.connect() as connection:
            row = connection.execute(asked).first()
            if row is None:
                closed = connection.execute(select(*answered).where(mine)).first()
                if closed is None:
                    return NoSuchRun(run_id)
                job_id, state, at, asker = closed
                return Ended(run_id, job_id, State(state), at, asker)
        job_id, state, at, asker = row
        kind = StopRequested if state == State.RUNNING else CancelledRun
        return kind(run_id, job_id, at, asker)

    def resign(self, *, by: str) -> Resignation | None:
        """Ask who leads now to hand over; None if nobody leads."""
        return request_resignation(self._database, self._lock_id, by)

    def _find(self, connection: Connection, job_id: str) -> _Job | NoSuchJob | NotConfigured:
        mine = job_state.c.lock_id == self._lock_id
        newest = select(func.max(job_state.c.present_at)).where(mine).scalar_subquery()
        row = connection.execute(
            select(
                database_time().label("now"),
                newest.label("newest"),
                job_state.c.present_at,
                job_state.c.paused_at,
                job_state.c.paused_until,
            ).where(self._is(job_id))
        ).first()
        if row is None:
            known = select(job_state.c.job_id).where(mine).order_by(job_state.c.job_id)
            return NoSuchJob(job_id, tuple(connection.execute(known).scalars()))
        if row.present_at < row.newest:  # a leader notes all jobs of its configuration with one moment
            return NotConfigured(job_id, row.present_at)
        lasts = row.paused_until is None or row.paused_until > row.now
        return _Job(row.now, row.paused_until, paused=row.paused_at is not None and lasts)

    def _insert(
        self, connection: Connection, job_id: str, by: str, arguments: str | None, key: str | None
    ) -> int | None:
        """Insert a run; None if there is one with this key."""
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        # One moment for all columns: asked for in each, the clock would give each another.
        moment = select(database_time().label("now")).subquery("moment")
        values: dict[str, ColumnElement[object]] = {
            "lock_id": literal(self._lock_id, BigInteger),
            "job_id": job_state.c.job_id,
            "scheduled_at": moment.c.now,
            "due_at": moment.c.now,
            "decided_at": moment.c.now,
            "kind": literal(Kind.MANUAL.value, Text),
            "state": literal(State.WAITING.value, Text),
            "reason": literal(Reason.REQUESTED.value, Text),
            "requested_by": literal(by, Text),
            "request_key": literal(key, Text),
            "arguments": literal(arguments, Text),
        }
        rows = select(*values.values()).select_from(job_state.join(moment, true())).where(self._is(job_id))
        # `exclusive` stays false: only the leader's configuration knows, and it says so when it starts the run.
        run_id: int | None = connection.execute(
            insert(run)
            .from_select(list(values), rows)
            .on_conflict_do_nothing(index_elements=[run.c.lock_id, run.c.request_key])
            .returning(run.c.id)
        ).scalar()
        return run_id

    def _is(self, job_id: str) -> ColumnElement[bool]:
        return and_(job_state.c.lock_id == self._lock_id, job_state.c.job_id == job_id)


def _lasts() -> ColumnElement[bool]:
    return or_(job_state.c.paused_until.is_(None), job_state.c.paused_until > database_time())


def arguments_problem(arguments: object) -> str | None:
    """Return what keeps `arguments`, read from JSON, from being those of a run, or None."""
    try:
        json.dumps(arguments, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "hold half of a surrogate pair, as \\ud800 is: no text can have that"
    return None


def text_problem(text: str) -> str | None:
    """Return what keeps `text` from being a name, a key or a reason, or None."""
    if not text.strip():
        return "is empty"
    if len(text) > TEXT_LIMIT:
        return f"has {len(text)} characters; {TEXT_LIMIT} are kept at most"
    if not text.isprintable():
        return "has characters that cannot be shown, such as a line break"
    return None
