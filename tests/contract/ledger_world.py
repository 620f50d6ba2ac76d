"""A ledger with a leader, for the tests of what both ledgers promise."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from scheduler_service import schedule as schedules
from scheduler_service.database import Database
from scheduler_service.ledger import JobState, Ledger, Settlement, open_ledger
from scheduler_service.model import Attempt, Decision, JobSpec, Kind, Lease, Outcome, Reason, Run, State
from scheduler_service.tables import database_time, job_state, leader_lease

LOCK = 7
ME, OTHER = "me-1", "other-2"
MINUTE = timedelta(minutes=1)


def specs(*job_ids: str, **changes: Any) -> list[JobSpec]:
    every = schedules.every(MINUTE)
    return [JobSpec(**{"id": job_id, "run": "jobs:main", "schedule": every, **changes}) for job_id in job_ids]


class World:
    """One ledger, with a leader."""

    def __init__(self, database: Database, lock_id: int = LOCK) -> None:
        self.database = database
        self.lock_id = lock_id
        self.ledger: Ledger = open_ledger(database, lock_id)
        self.lease = self.elect(ME, 1)

    def execute(self, statement: Any) -> Any:
        with self.database.connect() as connection:
            result = connection.execute(statement)
            return result.fetchall() if result.returns_rows else None

    def now(self) -> datetime:
        return self.execute(select(database_time()))[0][0]

    def elect(self, leader_id: str, term: int) -> Lease:
        now = self.now()
        self.execute(delete(leader_lease))
        self.execute(
            insert(leader_lease).values(
                id=self.lock_id,
                leader_id=leader_id,
                term=term,
                created_at=now,
                expires_at=now + timedelta(hours=1),
                lease_seconds=3600,
            )
        )
        return Lease(self.lock_id, leader_id, term, now, float("inf"))

    def adopt(self, *job_ids: str, back: timedelta = timedelta(hours=1), **changes: Any) -> dict[str, JobState]:
        """Adopt jobs that were last settled `back` ago."""
        adopted = self.ledger.adopt(self.lease, specs(*job_ids, **changes))
        assert adopted is not None
        since = self.now() - back
        self.execute(
            update(job_state)
            .where(job_state.c.job_id.in_(adopted.added))
            .values(settled_until=since, accountable_from=since)
        )
        return {state.job_id: state for state in self.ledger.job_states(job_ids)}

    def settlement(self, state: JobState, *states: State, until: datetime | None = None, **changes: Any) -> Settlement:
        decisions = tuple(
            Decision(
                state.settled_until + (number + 1) * timedelta(seconds=1),
                state.settled_until + (number + 1) * timedelta(seconds=1),
                Kind.SCHEDULED,
                decided,
                Reason.QUEUED if decided is State.WAITING else Reason.COALESCED,
            )
            for number, decided in enumerate(states)
        )
        default = state.settled_until + 10 * MINUTE
        known = {"decisions": decisions, **changes}
        return Settlement(state, until or default, state.schedule, state.timezone, state.enabled, **known)

    def waiting_runs(self, job_id: str = "a", count: int = 1, **changes: Any) -> tuple[Run, ...]:
        """Decide `count` ticks of a job to run, and read them back."""
        state = self.adopt(job_id, **changes)[job_id]
        settled = self.ledger.settle(self.lease, [self.settlement(state, *[State.WAITING] * count)])
        assert settled == {job_id}
        return self.ledger.poll(100).runs

    def started(self, job_id: str = "a") -> Attempt:
        (waiting,) = self.waiting_runs(job_id)
        begun = self.ledger.start(self.lease, "claim", [(waiting, 1)], 1.0)
        assert begun is not None
        return begun[0]

    def row(self, table: Any, **where: Any) -> Any:
        (found,) = self.execute(select(table).where(*(table.c[name] == value for name, value in where.items())))
        return found


def outcome(state: State = State.SUCCEEDED, **changes: Any) -> Outcome:
    return Outcome(**{"state": state, "seconds": 1.5, **changes})
