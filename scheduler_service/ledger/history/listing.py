"""The ledger in pages: answers that stay small however long the history and however many the jobs.

A page begins after the last row of the page before, not after a number of rows, so what is inserted
meanwhile moves nothing: no row comes twice, and none that was there is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from scheduler_service.database import Database
from scheduler_service.ledger.history.rows import job_row, run_row, runs
from scheduler_service.ledger.history.values import JobRow, Leader, RunRow, TermRow
from scheduler_service.model import Kind, State
from scheduler_service.tables import UtcMicroseconds, job_state, leader_term, run

SETTLES_WITHIN = timedelta(seconds=30)  # a new leader has settled every job of its configuration by then

TICK_KINDS = (Kind.SCHEDULED, Kind.CATCH_UP, Kind.RANGE)
TROUBLED = (State.FAILED, State.TIMED_OUT, State.LOST, State.MISSED)  # a newest run that ended so needs a look

# In the order of the index of theirs.
UNUSUAL = (State.FAILED, State.TIMED_OUT, State.CANCELLED, State.LOST, State.MISSED, State.SKIPPED)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which rows of the ledger are asked for; None: all."""

    job_id: str | None = None
    state: State | None = None
    kinds: Sequence[Kind] | None = None
    since: datetime | None = None  # a range counts as since its last tick
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a page of runs ended."""

    scheduled_at: datetime
    id: int


class Scheduled(NamedTuple):
    """An enabled job, and when it runs."""

    job_id: str
    canonical: str
    timezone: str
    paused_until: datetime | None  # no tick up to then runs

    def pause(self, now: datetime) -> datetime | None:
        """Return until when it is paused; None if it is not."""
        return self.paused_until if self.paused_until is not None and self.paused_until > now else None


@dataclass(frozen=True, slots=True)
class JobCounts:
    """How many jobs there are, and how many of them are so."""

    all: int
    enabled: int
    paused: int
    running: int
    stuck: int


class Listing:
    """The reads of one election's ledger that come in pages."""

    def __init__(self, database: Database, lock_id: int) -> None:
        self._database = database
        self._lock_id = lock_id

    def run_page(self, chosen: Chosen, *, after: RunPlace | None = None, limit: int) -> tuple[RunRow, ...]:
        """Read at most `limit` rows, the newest tick first, beginning after a place."""
        with self._database.connect() as connection:
            rows = self._runs_in(connection, self._begun(chosen, after, limit))
            # Asked in one question, the database would walk through the whole history.
            if chosen.since is not None and len(rows) < limit and _may_reach(chosen):
                rows += self._runs_in(connection, self._reaching(chosen, chosen.since, after, limit - len(rows)))
        return tuple(rows)

    def _begun(self, chosen: Chosen, after: RunPlace | None, limit: int) -> Select[Any]:
        """Return a query for the ids of rows that begin within what is asked for."""
        conditions = self._conditions(chosen, after)
        if chosen.since is not None:
            conditions.append(run.c.scheduled_at >= chosen.since)
        return _newest(conditions, limit)

    def _reaching(self, chosen: Chosen, since: datetime, after: RunPlace | None, limit: int) -> Select[Any]:
        """Return the same for ranges that begin before `since` and reach it: of each job one at most."""
        ranges = replace(chosen, kinds=(Kind.RANGE,))
        reaches = [run.c.scheduled_at < since, run.c.until >= since]
        if chosen.job_id is None:
            return _newest([*self._conditions(ranges, after), *reaches], limit)
        former = self._conditions(replace(ranges, state=None), after)
        newest = _newest([*former, run.c.scheduled_at < since], 1).subquery("newest")
        return _newest([*self._conditions(ranges, after), *reaches, run.c.id.in_(select(newest.c.id))], limit)

    def _runs_in(self, connection: Connection, chosen: Select[Any]) -> list[RunRow]:
        """Read the rows with these ids: what belongs to them is looked up for a page, not for all it is chosen from."""
        page = chosen.subquery("page")
        query = runs().where(run.c.id.in_(select(page.c.id))).order_by(run.c.scheduled_at.desc(), run.c.id.desc())
        return [run_row(row) for row in connection.execute(query)]

    def job_page(
        self, leader: Leader | None, *, after: str = "", limit: int, attention: bool = False, now: datetime
    ) -> tuple[JobRow, ...]:
        """Read at most `limit` jobs whose ids come after `after`; with `attention` only those that need a look.

        That is a job whose newest finished run went wrong, or whose code goes on after its end.
        """
        with self._database.connect() as connection:
            wanted = [self._present(connection, leader, now), job_state.c.job_id > after]
            if attention:
                wanted.append(_needs_attention())
            return self._jobs_where(connection, and_(*wanted), limit)

    def job_counts(self, leader: Leader | None, now: datetime) -> JobCounts:
        """Count the jobs that are configured."""
        with self._database.connect() as connection:
            counted = connection.execute(
                select(
                    func.count(),
                    func.sum(case((job_state.c.enabled, 1), else_=0)),
                    func.sum(case((is_paused(now), 1), else_=0)),
                ).where(self._present(connection, leader, now))
            ).one()
            running, stuck = self._at_work(connection)
        return JobCounts(counted[0], int(counted[1] or 0), int(counted[2] or 0), len(running), len(stuck))

    def schedules(self, leader: Leader | None, now: datetime) -> list[Scheduled]:
        """Read when all enabled jobs run, without what they did: there may be thousands."""
        names = ("job_id", "schedule", "timezone", "paused_at", "paused_until")
        with self._database.connect() as connection:
            query = select(*(job_state.c[name] for name in names)).where(
                self._present(connection, leader, now), job_state.c.enabled
            )
            rows = connection.execute(query).all()
        # A pause that is over, or will be, lets ticks pass from its end on.
        return [
            Scheduled(job_id, schedule, zone, None if paused_at is None else paused_until)
            for job_id, schedule, zone, paused_at, paused_until in rows
            if paused_at is None or paused_until is not None
        ]

    def term_page(self, *, before: int | None = None, limit: int) -> tuple[TermRow, ...]:
        """Read at most `limit` leaderships, the newest first, beginning before a term."""
        query = select(leader_term).where(leader_term.c.lock_id == self._lock_id)
        if before is not None:
            query = query.where(leader_term.c.term < before)
        query = query.order_by(leader_term.c.term.desc()).limit(limit)
        with self._database.connect() as connection:
            return tuple(
                TermRow(row["term"], row["leader_id"], row["acquired_at"], row["ended_at"], row["end_reason"])
                for row in connection.execute(query).mappings()
            )

    def _conditions(self, chosen: Chosen, after: RunPlace | None) -> list[ColumnElement[bool]]:
        conditions = [run.c.lock_id == self._lock_id]
        if chosen.job_id is not None:
            conditions.append(run.c.job_id == chosen.job_id)
        # As constants, and with the words of the indexes of what is rare: SQLite knows these by their words alone,
        # and PostgreSQL's plan for any parameter would do without them.
        if chosen.state is not None:
            conditions.append(run.c.state == _constant(chosen.state))
        if chosen.state in UNUSUAL:
            conditions.append(run.c.state.in_([_constant(state) for state in UNUSUAL]))
        if chosen.kinds is not None:
            conditions.append(run.c.kind.in_([_constant(kind) for kind in chosen.kinds]))
            if Kind.SCHEDULED not in chosen.kinds:
                conditions.append(run.c.kind != _constant(Kind.SCHEDULED))
        if chosen.until is not None:
            conditions.append(run.c.scheduled_at <= chosen.until)
        if after is not None:
            place = (literal(after.scheduled_at, UtcMicroseconds), literal(after.id))
            conditions.append(tuple_(run.c.scheduled_at, run.c.id) < tuple_(*place))
        return conditions

    def _present(self, connection: Connection, leader: Leader | None, now: datetime) -> ColumnElement[bool]:
        """Leave out what is no longer configured: all that is was noted with one moment, and by this leader."""
        mine = job_state.c.lock_id == self._lock_id
        newest = connection.execute(select(func.max(job_state.c.present_at)).where(mine)).scalar()
        if newest is None:
            return mine
        return and_(mine, job_state.c.present_at >= noted_since(newest, leader, now))

    def _jobs_where(self, connection: Connection, condition: ColumnElement[bool], limit: int) -> tuple[JobRow, ...]:
        page = select(job_state).where(condition).order_by(job_state.c.job_id).limit(limit).subquery("job")
        newest = (
            select(func.max(run.c.id))
            .where(run.c.lock_id == page.c.lock_id, run.c.job_id == page.c.job_id, run.c.state != State.WAITING.value)
            .correlate(page)
            .scalar_subquery()
        )
        query = (
            select(page, run.c.id, run.c.scheduled_at, run.c.until, run.c.state, run.c.reason)
            .select_from(page.outerjoin(run, run.c.id == newest))
            .order_by(page.c.job_id)
        )
        rows = connection.execute(query).mappings().all()
        running, stuck = self._at_work(connection)
        return tuple(job_row(row, running, stuck) for row in rows)

    def _at_work(self, connection: Connection) -> tuple[dict[str, int], dict[str, int]]:
        """Count by job what runs, and what is over while its code goes on."""
        found = []
        for condition in (
            run.c.state == State.RUNNING.value,
            and_(run.c.slot_held, run.c.state != State.RUNNING.value),
        ):
            query = select(run.c.job_id, func.count()).where(run.c.lock_id == self._lock_id, condition)
            found.append({row[0]: int(row[1]) for row in connection.execute(query.group_by(run.c.job_id))})
        return found[0], found[1]


def is_paused(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the condition that a job is paused; a pause that is over stays with a job that is settled no more."""
    lasts = or_(job_state.c.paused_until.is_(None), job_state.c.paused_until > now)
    return and_(job_state.c.paused_at.is_not(None), lasts)


def noted_since(newest: datetime, leader: Leader | None, now: datetime) -> datetime:
    """Return since when the jobs were noted that are configured; `newest` is the last such moment of any job.

    They all were noted with one moment, and by this leader.  One whose configuration is empty noted none.
    """
    if leader is not None and now - leader.acquired_at > SETTLES_WITHIN:
        return max(newest, leader.acquired_at)
    return newest


def _newest(conditions: Sequence[ColumnElement[bool]], limit: int) -> Select[Any]:
    query = select(run.c.id).where(*conditions).order_by(run.c.scheduled_at.desc(), run.c.id.desc())
    return query.limit(limit)


def _may_reach(chosen: Chosen) -> bool:
    """Return whether a range can be what is asked for: none of them was ever started."""
    return (chosen.kinds is None or Kind.RANGE in chosen.kinds) and chosen.state in (None, State.MISSED, State.SKIPPED)


def _constant(value: State | Kind) -> BindParameter[str]:
    return bindparam(None, value.value, Text, literal_execute=True)


def _needs_attention() -> ColumnElement[bool]:
    mine = and_(run.c.lock_id == job_state.c.lock_id, run.c.job_id == job_state.c.job_id)
    newest_end = (
        select(run.c.state)
        .where(mine, run.c.state.not_in([State.WAITING.value, State.RUNNING.value]))
        .order_by(run.c.id.desc())
        .limit(1)
        .correlate(job_state)
        .scalar_subquery()
    )
    goes_on = exists().where(mine, run.c.slot_held, run.c.state != State.RUNNING.value).correlate(job_state)
    return or_(newest_end.in_([state.value for state in TROUBLED]), goes_on)
