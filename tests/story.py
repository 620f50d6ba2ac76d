"""A ledger with a story in it, for tests of what people read."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from scheduler_service.database import Database
from scheduler_service.ledger.history import History
from scheduler_service.tables import job_state, leader_lease, leader_term, replica, run, run_attempt, run_output

LOCK_ID = 7


class Story:
    """Writes rows as replicas would have, around the database's time `now`."""

    def __init__(self, database: Database, url: str) -> None:
        self.database = database
        self.url = url
        self.history = History(database, LOCK_ID)
        self.now = self.history.now()
        self.minute = self.now.replace(second=0, microsecond=0)

    def ago(self, **amount: float) -> datetime:
        return self.now - timedelta(**amount)

    def insert(self, table: Any, **values: Any) -> Any:
        with self.database.connect() as connection:
            return connection.execute(table.insert().values(**values)).inserted_primary_key[0]

    def term(self, term: int, leader_id: str, acquired_at: datetime, ended_at: datetime | None = None) -> None:
        reason = "released" if ended_at is not None else None
        values = {"leader_id": leader_id, "acquired_at": acquired_at, "ended_at": ended_at, "end_reason": reason}
        self.insert(leader_term, lock_id=LOCK_ID, term=term, **values)

    def lease(self, term: int, leader_id: str, left: timedelta) -> None:
        self.insert(
            leader_lease,
            id=LOCK_ID,
            leader_id=leader_id,
            term=term,
            created_at=self.ago(minutes=5),
            expires_at=self.now + left,
            lease_seconds=3600.0,
        )

    def replica(self, instance_id: str, config_hash: str = "abc", seen_at: datetime | None = None) -> None:
        self.insert(
            replica,
            instance_id=instance_id,
            lock_id=LOCK_ID,
            host="db-1",
            pid=4711,
            version="0.1.0",
            config_hash=config_hash,
            config_loaded_at=self.ago(hours=1),
            started_at=self.ago(hours=1),
            seen_at=self.now if seen_at is None else seen_at,
        )

    def job(self, job_id: str = "report", schedule: str = "* * * * *", timezone: str = "UTC", **values: Any) -> None:
        row = {
            "enabled": True,
            "accountable_from": self.ago(days=1),
            "settled_until": self.now,
            "present_at": self.now,
            **values,
        }
        self.insert(job_state, lock_id=LOCK_ID, job_id=job_id, schedule=schedule, timezone=timezone, **row)

    def run(self, scheduled_at: datetime, state: str, reason: str | None = None, **values: Any) -> int:
        row: dict[str, Any] = {
            "job_id": "report",
            "due_at": scheduled_at,
            "kind": "scheduled",
            "decided_at": scheduled_at + timedelta(milliseconds=10),
            "decided_by": "first",
            **values,
        }
        run_id: int = self.insert(run, lock_id=LOCK_ID, scheduled_at=scheduled_at, state=state, reason=reason, **row)
        return run_id

    def attempt(self, run_id: int, started_at: datetime, state: str, seconds: float | None = 1.5, **values: Any) -> int:
        finished = started_at + timedelta(seconds=seconds) if seconds is not None else None
        row = {"attempt": 1, "term": 3, "instance_id": "first", "finished_at": finished, **values}
        attempt_id: int = self.insert(run_attempt, run_id=run_id, started_at=started_at, state=state, **row)
        with self.database.connect() as connection:
            connection.execute(run.update().where(run.c.id == run_id).values(attempt=row["attempt"]))
        return attempt_id

    def output(self, attempt_id: int, text: str, *, truncated: bool = False) -> None:
        self.insert(run_output, attempt_id=attempt_id, text=text, truncated=truncated)

    @property
    def place(self) -> list[str]:
        """The options that name this ledger."""
        return ["--database", self.url, "--lock-id", str(LOCK_ID)]
