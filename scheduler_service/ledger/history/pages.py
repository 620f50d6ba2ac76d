"""What the status page reads: one screenful at a time, however many jobs and runs there are.

    Pages.failing    which jobs do not fare well
    Pages.overview   leader, replicas, terms, one page of jobs with their newest rows, what stands out among all
    Pages.recent     the newest rows of one job, page by page
    Pages.marks      a few values that differ as soon as an overview would


Each query has an index and a limit, but for those that count or look for jobs: the rows of that table are few
beside the runs'.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select, true

from scheduler_service.ledger.history.listing import TROUBLED, is_paused
from scheduler_service.ledger.history.reading import History
from scheduler_service.ledger.history.rows import job_row, run_row, runs
from scheduler_service.ledger.history.values import JobRow, Leader, RunRow, Standing, TermRow
from scheduler_service.model import State
from scheduler_service.tables import database_time, job_state, leader_term, run, run_attempt

JOBS_SHOWN = 50  # of one page
RUNS_SHOWN = 20  # of each job on it
TERMS_SHOWN = 24
CONCERNS_SHOWN = 12  # of each kind; how many there are is counted
WAITS_UNUSUALLY = timedelta(seconds=60)  # after it was due, although no run of its job goes on
MARKED = 500  # rows of each kind whose changes are noticed

_BAD = tuple(state.value for state in TROUBLED)
_OPEN = (State.WAITING.value, State.RUNNING.value)


class Show(StrEnum):
    """Which jobs to show."""

    ALL = "all"
    FAILING = "failing"
    RUNNING = "running"
    PAUSED = "paused"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The jobs that a person looks for: those whose id contains `text`, and those named besides."""

    show: Show = Show.ALL
    text: str = ""
    named: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()  # the jobs that do not fare well, for `show`
    page: int = 1  # from 1


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs and open runs there are."""

    jobs: int = 0
    paused: int = 0
    disabled: int = 0
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Some:
    """A few rows, and how many there are in all."""

    rows: tuple[RunRow, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Failing:
    """A job that does not fare well, and the run that says so."""

    job_id: str
    run_id: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that the first page shows."""

    standing: Standing  # its jobs are those of the page
    terms: tuple[TermRow, ...]  # the newest first
    counts: Counts
    wanted: Wanted
    found_count: int  # jobs that match
    recent: Mapping[str, tuple[RunRow, ...]]  # of the jobs of the page, oldest first
    failing: Some  # the newest rows of jobs that do not fare well
    stuck: Some  # runs that are over and still hold their slot
    waiting: Some  # due since long
    paused: tuple[JobRow, ...]


@dataclass(frozen=True, slots=True)
class Marks:
    """What an overview depends on.  `beat` changes all the time, `change` when something happens."""

    now: datetime
    leader: Leader | None
    seen: Mapping[str, datetime]
    change: tuple[Any, ...]


class Pages(History):
    """The reads of the status page."""

    def failing(self) -> tuple[Failing, ...]:
        """Read which jobs do not fare well: their newest run that ended, ended badly.  Looks at every job."""
        with self._database.connect() as connection:
            now = connection.execute(select(database_time())).scalar_one()
            present = self._present(connection, self._leader(connection, now), now)
            ended = select(run.c.id, run.c.state).where(
                run.c.lock_id == job_state.c.lock_id,
                run.c.job_id == job_state.c.job_id,
                # A skipped tick says nothing of how the job fares: it keeps what its last run said.
                run.c.state.not_in((*_OPEN, State.SKIPPED.value)),
            )
            ended = ended.order_by(run.c.id.desc()).limit(1)
            if self._database.dialect == "postgresql":
                newest = ended.lateral("newest")
                query = select(job_state.c.job_id, newest.c.id).join(newest, true())
                query = query.where(newest.c.state.in_(_BAD))
            else:
                newest_id = ended.with_only_columns(run.c.id).correlate(job_state).scalar_subquery()
                query = select(job_state.c.job_id, run.c.id).join(run, run.c.id == newest_id)
                query = query.where(run.c.state.in_(_BAD))
            query = query.where(present, job_state.c.enabled)
            found = [Failing(*row) for row in connection.execute(query)]
        return tuple(sorted(found, key=lambda one: one.run_id, reverse=True))

    def overview(self, wanted: Wanted, failing: Sequence[Failing] = ()) -> Overview:
        """Read the first page; `failing` is what `failing` answered lately."""
        with self._database.connect() as connection:
            now = connection.execute(select(database_time())).scalar_one()
            leader = self._leader(connection, now)
            terms = self._newest_terms(connection, TERMS_SHOWN)
            present = self._present(connection, leader, now)
            matching = and_(present, self._matches(wanted, now))
            found_count = _count(connection, select(job_state.c.job_id).where(matching))
            jobs, recent = self._page(connection, matching, wanted.page)
            return Overview(
                standing=Standing(
                    now=now,
                    lock_id=self._lock_id,
                    leader=leader,
                    last_term=terms[0] if terms else None,
                    replicas=self._replicas(connection),
                    jobs=jobs,
                ),
                terms=terms,
                counts=self._counts(connection, present, now),
                wanted=wanted,
                found_count=found_count,
                recent=recent,
                failing=self._these(connection, [one.run_id for one in failing]),
                stuck=self._some(
                    connection, and_(run.c.slot_held, run.c.state != State.RUNNING.value), order=run.c.job_id
                ),
                waiting=self._some(connection, self._waits_unusually(now, present), order=run.c.due_at),
                paused=self._paused_jobs(connection, present, now),
            )

    def recent(self, job_id: str, *, limit: int = 100, before: int | None = None) -> tuple[RunRow, ...]:
        """Read the newest rows of one job, the newest first; with `before`, those decided before that row."""
        query = runs().where(run.c.lock_id == self._lock_id, run.c.job_id == job_id)
        if before is not None:
            query = query.where(run.c.id < before)
        with self._database.connect() as connection:
            return tuple(run_row(row) for row in connection.execute(query.order_by(run.c.id.desc()).limit(limit)))

    def people(self) -> Standing:
        """Read who leads and which replicas there are, and no job."""
        with self._database.connect() as connection:
            now = connection.execute(select(database_time())).scalar_one()
            terms = self._newest_terms(connection, 1)
            leader = self._leader(connection, now)
            return Standing(
                now, self._lock_id, leader, terms[0] if terms else None, self._replicas(connection), jobs=()
            )

    def marks(self, lost_after_seconds: float) -> Marks:
        """Read what tells whether anything happened."""
        open_runs = (
            select(run.c.id, run.c.state, run.c.attempt, run.c.cancel_requested_at)
            .where(run.c.lock_id == self._lock_id, run.c.state.in_(_OPEN))
            .order_by(run.c.id)
            .limit(MARKED)
        )
        paused = (
            select(job_state.c.job_id, job_state.c.paused_at, job_state.c.paused_until, job_state.c.pause_reason)
            .where(job_state.c.lock_id == self._lock_id, is_paused(database_time()))
            .limit(MARKED)
        )
        adopted = select(func.count(), func.max(job_state.c.present_at)).where(job_state.c.lock_id == self._lock_id)
        with self._database.connect() as connection:
            now = connection.execute(select(database_time())).scalar_one()
            leader = self._leader(connection, now)
            replicas = self._replicas(connection)
            change = (
                leader and (leader.instance_id, leader.term),
                self._newest_terms(connection, 1),
                tuple(
                    (one.instance_id, one.config_hash, (now - one.seen_at).total_seconds() <= lost_after_seconds)
                    for one in replicas
                ),
                connection.execute(select(func.max(run.c.id))).scalar(),
                connection.execute(select(func.max(run_attempt.c.id))).scalar(),
                tuple(tuple(row) for row in connection.execute(open_runs)),
                tuple(sorted(tuple(map(str, row)) for row in connection.execute(paused))),
                tuple(connection.execute(adopted).one()),
            )
        return Marks(now, leader, {one.instance_id: one.seen_at for one in replicas}, change)

    # --- leadership

    def _newest_terms(self, connection: Connection, limit: int) -> tuple[TermRow, ...]:
        query = select(leader_term).where(leader_term.c.lock_id == self._lock_id)
        query = query.order_by(leader_term.c.term.desc()).limit(limit)
        return tuple(
            TermRow(row["term"], row["leader_id"], row["acquired_at"], row["ended_at"], row["end_reason"])
            for row in connection.execute(query).mappings()
        )

    # --- jobs

    def _matches(self, wanted: Wanted, now: datetime) -> ColumnElement[bool]:
        found: ColumnElement[bool] = true()
        if wanted.text:
            found = job_state.c.job_id.icontains(wanted.text, autoescape=True)
            found = or_(found, job_state.c.job_id.in_(wanted.named)) if wanted.named else found
        at_work = exists().where(
            run.c.lock_id == job_state.c.lock_id,
            run.c.job_id == job_state.c.job_id,
            or_(run.c.state == State.RUNNING.value, run.c.slot_held),
        )
        chosen: Mapping[Show, ColumnElement[bool]] = {
            Show.ALL: true(),
            Show.FAILING: job_state.c.job_id.in_(wanted.failing),
            Show.RUNNING: at_work,
            Show.PAUSED: is_paused(now),
            Show.DISABLED: job_state.c.enabled.is_(False),
        }
        return and_(found, chosen[wanted.show])

    def _page(
        self, connection: Connection, matching: ColumnElement[bool], page: int
    ) -> tuple[tuple[JobRow, ...], Mapping[str, tuple[RunRow, ...]]]:
        query = (
            select(job_state)
            .where(matching)
            .order_by(job_state.c.job_id)
            .limit(JOBS_SHOWN)
            .offset((page - 1) * JOBS_SHOWN)
        )
        found = connection.execute(query).mappings().all()
        job_ids = [row["job_id"] for row in found]
        recent = self._recent_of(connection, job_ids)
        running = self._counted(connection, job_ids, run.c.state == State.RUNNING.value)
        stuck = self._counted(connection, job_ids, and_(run.c.slot_held, run.c.state != State.RUNNING.value))
        jobs = tuple(job_row({**row, **_NO_RUN}, running, stuck) for row in found)  # type: ignore[arg-type]
        return jobs, recent

    def _recent_of(self, connection: Connection, job_ids: Sequence[str]) -> Mapping[str, tuple[RunRow, ...]]:
        newest = select(run.c.id).where(run.c.lock_id == self._lock_id).order_by(run.c.id.desc()).limit(RUNS_SHOWN)
        found: dict[str, list[RunRow]] = defaultdict(list)
        if self._database.dialect == "postgresql":
            each = newest.where(run.c.job_id == job_state.c.job_id).lateral("newest")
            ids = (
                select(each.c.id)
                .select_from(job_state)
                .join(each, true())
                .where(job_state.c.lock_id == self._lock_id, job_state.c.job_id.in_(job_ids))
            )
            queries: list[Select[Any]] = [runs().where(run.c.id.in_(ids))] if job_ids else []
        else:  # SQLite has no lateral joins, and no round trips either
            queries = [runs().where(run.c.id.in_(newest.where(run.c.job_id == job_id))) for job_id in job_ids]
        for query in queries:
            for row in map(run_row, connection.execute(query.order_by(run.c.id))):
                found[row.job_id].append(row)
        return {job_id: tuple(rows) for job_id, rows in found.items()}

    def _counted(
        self, connection: Connection, job_ids: Sequence[str], condition: ColumnElement[bool]
    ) -> Mapping[str, int]:
        query = (
            select(run.c.job_id, func.count())
            .where(run.c.lock_id == self._lock_id, run.c.job_id.in_(job_ids), condition)
            .group_by(run.c.job_id)
        )
        return {row[0]: int(row[1]) for row in connection.execute(query)} if job_ids else {}

    # --- what stands out

    def _counts(self, connection: Connection, present: ColumnElement[bool], now: datetime) -> Counts:
        def counted(condition: ColumnElement[bool]) -> Any:
            return func.count().filter(condition)

        jobs, paused, disabled = connection.execute(
            select(func.count(), counted(is_paused(now)), counted(job_state.c.enabled.is_(False))).where(present)
        ).one()
        open_runs = (
            select(run.c.state, func.count())
            .where(run.c.lock_id == self._lock_id, run.c.state.in_(_OPEN))
            .group_by(run.c.state)
        )
        states: dict[str, int] = {row[0]: row[1] for row in connection.execute(open_runs)}
        return Counts(jobs, paused, disabled, states.get(State.RUNNING.value, 0), states.get(State.WAITING.value, 0))

    def _waits_unusually(self, now: datetime, present: ColumnElement[bool]) -> ColumnElement[bool]:
        other = run.alias("other")
        goes_on = exists().where(
            other.c.lock_id == run.c.lock_id,
            other.c.job_id == run.c.job_id,
            or_(other.c.state == State.RUNNING.value, other.c.slot_held),
        )
        held = exists().where(
            job_state.c.lock_id == run.c.lock_id,
            job_state.c.job_id == run.c.job_id,
            # Or was lately, or its job is not in the leader's configuration.
            or_(is_paused(now - WAITS_UNUSUALLY), ~present),
        )
        overdue = and_(run.c.state == State.WAITING.value, run.c.due_at < now - WAITS_UNUSUALLY)
        return and_(overdue, ~goes_on, ~held)

    def _some(self, connection: Connection, condition: ColumnElement[bool], order: Any) -> Some:
        mine = and_(run.c.lock_id == self._lock_id, condition)
        return self._these(connection, connection.execute(select(run.c.id).where(mine).order_by(order)).scalars().all())

    def _these(self, connection: Connection, ids: Sequence[int]) -> Some:
        shown = ids[:CONCERNS_SHOWN]
        if not shown:
            return Some()
        rows = {row.id: row for row in map(run_row, connection.execute(runs().where(run.c.id.in_(shown))))}
        return Some(tuple(rows[one] for one in shown if one in rows), len(ids))

    def _paused_jobs(self, connection: Connection, present: ColumnElement[bool], now: datetime) -> tuple[JobRow, ...]:
        query = (
            select(job_state)
            .where(present, is_paused(now))
            .order_by(job_state.c.paused_at.desc())
            .limit(CONCERNS_SHOWN)
        )
        rows = connection.execute(query).mappings()
        return tuple(job_row({**row, **_NO_RUN}, {}, {}) for row in rows)  # type: ignore[arg-type]


# A job that is read without its newest run: the page has the rows themselves.
_NO_RUN: Mapping[str, Any] = {"id": None, "scheduled_at": None, "until": None, "state": None, "reason": None}


def _count(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(select(func.count()).select_from(query.subquery())).scalar_one())
