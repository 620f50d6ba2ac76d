"""The questions to the database, the same for both kinds of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, literal, not_, or_, select

from scheduler_service.ledger.history.listing import TICK_KINDS, Chosen, Listing, noted_since
from scheduler_service.ledger.history.rows import attempt_row, attempts_of_runs, job_row, run_row, runs
from scheduler_service.ledger.history.values import (
    AttemptRow,
    JobRow,
    Leader,
    ReplicaRow,
    RunRow,
    Standing,
    TermRow,
)
from scheduler_service.model import Kind, State
from scheduler_service.tables import (
    database_time,
    job_state,
    leader_lease,
    leader_term,
    replica,
    run,
    run_attempt,
)

MOST_RUNS = 10_000  # at once


class History(Listing):
    """The reads of one election's ledger."""

    def now(self) -> datetime:
        """Read the database's time."""
        with self._database.connect() as connection:
            return _now(connection)

    def standing(self, *, with_jobs: bool = True) -> Standing:
        """Read who leads, which replicas there are, and how the jobs stand.

        Jobs that the leader no longer has in its configuration are left out.  Thousands of jobs take a while:
        `with_jobs=False` leaves all of them out.
        """
        with self._database.connect() as connection:
            now = _now(connection)
            leader = self._leader(connection, now)
            terms = self._terms(connection, leader_term.c.term == self._newest_term())
            return Standing(
                now=now,
                lock_id=self._lock_id,
                leader=leader,
                last_term=terms[0] if terms else None,
                replicas=self._replicas(connection),
                jobs=_present(self._jobs(connection), leader, now) if with_jobs else (),
            )

    def runs(
        self,
        *,
        job_id: str | None = None,
        state: State | None = None,
        since: datetime | None = None,
        limit: int = 50,
    ) -> tuple[RunRow, ...]:
        """Read the newest `limit` rows, the newest tick first; a range counts as since its last tick."""
        return self.run_page(Chosen(job_id=job_id, state=state, since=since), limit=min(limit, MOST_RUNS))

    def run(self, run_id: int) -> tuple[RunRow, tuple[AttemptRow, ...]] | None:
        """Read one row and all its attempts, oldest first; None if there is no such row."""
        query = runs().where(run.c.lock_id == self._lock_id, run.c.id == run_id)
        attempts = (
            attempts_of_runs().where(run_attempt.c.run_id == run_id).order_by(run_attempt.c.attempt, run_attempt.c.id)
        )
        with self._database.connect() as connection:
            found = connection.execute(query).first()
            if found is None:
                return None
            rows = connection.execute(attempts).mappings().all()
        return run_row(found), tuple(attempt_row(row) for row in rows)

    def everything(self) -> tuple[tuple[RunRow, tuple[AttemptRow, ...]], ...]:
        """Read every row with its attempts, the oldest tick first: for a ledger that fits into memory."""
        query = runs().where(run.c.lock_id == self._lock_id).order_by(run.c.scheduled_at, run.c.id)
        attempts: dict[int, list[AttemptRow]] = {}
        with self._database.connect() as connection:
            for row in connection.execute(attempts_of_runs().order_by(run_attempt.c.run_id)).mappings():
                attempts.setdefault(row["run_id"], []).append(attempt_row(row))
            rows = [run_row(row) for row in connection.execute(query)]
        return tuple(
            (row, tuple(sorted(attempts.get(row.id, ()), key=lambda one: (one.attempt, one.id)))) for row in rows
        )

    def job_ids(self) -> tuple[str, ...]:
        """Read the ids of all jobs that the ledger has ever known, in order."""
        query = select(job_state.c.job_id).where(job_state.c.lock_id == self._lock_id).order_by(job_state.c.job_id)
        with self._database.connect() as connection:
            return tuple(connection.execute(query).scalars())

    def job(self, job_id: str) -> JobRow | None:
        """Read one job; None if no leader ever had it."""
        with self._database.connect() as connection:
            jobs = self._jobs(connection, job_id)
        return jobs[0] if jobs else None

    def left_at(self, job_id: str) -> datetime | None:
        """Read when a leader last had a job that is not configured any more; None if it is, or never was."""
        with self._database.connect() as connection:
            now = _now(connection)
            query = select(job_state.c.present_at).where(
                job_state.c.job_id == job_id, not_(self._present(connection, self._leader(connection, now), now))
            )
            found: datetime | None = connection.execute(query.where(job_state.c.lock_id == self._lock_id)).scalar()
        return found

    def leader(self) -> Leader | None:
        """Read who leads; None if nobody does."""
        with self._database.connect() as connection:
            return self._leader(connection, _now(connection))

    def now_and_leader(self) -> tuple[datetime, Leader | None]:
        """Read the database's time, and who leads then."""
        with self._database.connect() as connection:
            now = _now(connection)
            return now, self._leader(connection, now)

    def row_at(self, job_id: str, moment: datetime) -> RunRow | None:
        """Read the row whose tick is `moment`, or the range that reaches over it."""
        query = (
            runs()
            .where(
                run.c.lock_id == self._lock_id,
                run.c.job_id == job_id,
                run.c.kind.in_([kind.value for kind in TICK_KINDS]),
                run.c.scheduled_at <= moment,
            )
            .order_by(run.c.scheduled_at.desc())
            .limit(1)
        )
        with self._database.connect() as connection:
            found = connection.execute(query).first()
        row = run_row(found) if found is not None else None
        return row if row is not None and moment <= (row.until or row.scheduled_at) else None

    def run_after(self, job_id: str, moment: datetime, limit: datetime) -> RunRow | None:
        """Read the first row in (moment, limit] that was to run: what earlier ticks were folded into."""
        decided_against = (State.MISSED.value, State.SKIPPED.value)
        return self._neighbour(
            job_id,
            and_(
                run.c.kind != Kind.MANUAL.value,
                run.c.scheduled_at > moment,
                run.c.scheduled_at <= limit,
                run.c.state.not_in(decided_against),
            ),
            run.c.scheduled_at,
        )

    def run_at_work(self, job_id: str, moment: datetime) -> RunRow | None:
        """Read the newest earlier run that had begun, or was to begin, before `moment` and was not over yet."""
        began = and_(run_attempt.c.started_at <= moment, func.coalesce(run_attempt.c.finished_at, moment) >= moment)
        waiting = and_(run.c.state == State.WAITING.value, run.c.decided_at <= moment)
        return self._neighbour(
            job_id, and_(run.c.scheduled_at < moment, or_(began, waiting)), run.c.scheduled_at.desc()
        )

    def terms_around(self, moment: datetime) -> tuple[TermRow | None, TermRow | None]:
        """Read the last leadership that began by `moment`, and the first that began after it."""
        mine = leader_term.c.lock_id == self._lock_id
        before = select(func.max(leader_term.c.term)).where(mine, leader_term.c.acquired_at <= moment)
        after = select(func.min(leader_term.c.term)).where(mine, leader_term.c.acquired_at > moment)
        with self._database.connect() as connection:
            earlier = self._terms(connection, leader_term.c.term == before.scalar_subquery())
            later = self._terms(connection, leader_term.c.term == after.scalar_subquery())
        return (earlier[0] if earlier else None), (later[0] if later else None)

    def _neighbour(self, job_id: str, condition: ColumnElement[bool], order: Any) -> RunRow | None:
        query = runs().where(run.c.lock_id == self._lock_id, run.c.job_id == job_id, condition).order_by(order).limit(1)
        with self._database.connect() as connection:
            found = connection.execute(query).first()
        return run_row(found) if found is not None else None

    def _leader(self, connection: Connection, now: datetime) -> Leader | None:
        armed: ColumnElement[bool] = literal(False)
        if self._database.dialect == "postgresql":
            # A guard of an earlier incarnation of the server is gone with it.
            guarded = leader_lease.c.guard_boot == func.pg_postmaster_start_time()
            armed = and_(leader_lease.c.guard_pid.is_not(None), guarded)
        query = (
            select(
                leader_lease.c.leader_id,
                leader_lease.c.term,
                func.coalesce(leader_term.c.acquired_at, leader_lease.c.created_at).label("acquired_at"),
                leader_lease.c.expires_at,
                leader_lease.c.lease_seconds,
                armed.label("armed"),
            )
            .outerjoin(
                leader_term, and_(leader_term.c.lock_id == leader_lease.c.id, leader_term.c.term == leader_lease.c.term)
            )
            .where(leader_lease.c.id == self._lock_id)
        )
        row = connection.execute(query).mappings().first()
        # An expiry further away than the lease is long stands for a clock that was set back: it has expired.
        if row is None or not now < row["expires_at"] <= now + timedelta(seconds=row["lease_seconds"] + 1):
            return None
        return Leader(row["leader_id"], row["term"], row["acquired_at"], row["expires_at"], bool(row["armed"]))

    def _newest_term(self) -> Any:
        return select(func.max(leader_term.c.term)).where(leader_term.c.lock_id == self._lock_id).scalar_subquery()

    def _terms(self, connection: Connection, condition: ColumnElement[bool]) -> list[TermRow]:
        query = select(leader_term).where(leader_term.c.lock_id == self._lock_id, condition)
        return [
            TermRow(row["term"], row["leader_id"], row["acquired_at"], row["ended_at"], row["end_reason"])
            for row in connection.execute(query).mappings()
        ]

    def _replicas(self, connection: Connection) -> tuple[ReplicaRow, ...]:
        names = ("instance_id", "host", "pid", "version", "config_hash", "started_at", "seen_at")
        query = (
            select(*(replica.c[name] for name in names))
            .where(replica.c.lock_id == self._lock_id)
            .order_by(replica.c.started_at, replica.c.instance_id)
        )
        return tuple(ReplicaRow(**row) for row in connection.execute(query).mappings())

    def _jobs(self, connection: Connection, job_id: str | None = None) -> list[JobRow]:
        newest = (
            select(func.max(run.c.id))
            .where(
                run.c.lock_id == job_state.c.lock_id,
                run.c.job_id == job_state.c.job_id,
                run.c.state != State.WAITING.value,
            )
            .correlate(job_state)
            .scalar_subquery()
        )
        query = (
            select(job_state, run.c.id, run.c.scheduled_at, run.c.until, run.c.state, run.c.reason)
            .outerjoin(run, run.c.id == newest)
            .where(job_state.c.lock_id == self._lock_id)
            .order_by(job_state.c.job_id)
        )
        counts = (
            select(run.c.job_id, func.count())
            .where(run.c.lock_id == self._lock_id, run.c.state == State.RUNNING.value)
            .group_by(run.c.job_id)
        )
        held = (
            select(run.c.job_id, func.count())
            .where(run.c.lock_id == self._lock_id, run.c.slot_held, run.c.state != State.RUNNING.value)
            .group_by(run.c.job_id)
        )
        if job_id is not None:
            query = query.where(job_state.c.job_id == job_id)
            counts, held = (one.where(run.c.job_id == job_id) for one in (counts, held))
        running = {row[0]: int(row[1]) for row in connection.execute(counts)}
        stuck = {row[0]: int(row[1]) for row in connection.execute(held)}
        return [job_row(row, running, stuck) for row in connection.execute(query).mappings()]


def _now(connection: Connection) -> datetime:
    now: datetime = connection.execute(select(database_time())).scalar_one()
    return now


def _present(jobs: Sequence[JobRow], leader: Leader | None, now: datetime) -> tuple[JobRow, ...]:
    """Leave out what is no longer configured."""
    if not jobs:
        return ()
    since = noted_since(max(job.present_at for job in jobs), leader, now)
    return tuple(job for job in jobs if job.present_at >= since)
