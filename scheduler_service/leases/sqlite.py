"""The lease on SQLite: one writer at a time, no session to watch, no socket to wait on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import TextClause, text

from scheduler_service.database import Database, OwnConnection, StoreUnavailable
from scheduler_service.leases.store import CLEANUP_SECONDS, Acquired, Observation, Renewal
from scheduler_service.tables import DATABASE_TIME, from_microseconds

_NOW = DATABASE_TIME["sqlite"]

# A clock that was set back must not leave a lease standing for an hour.
_EXPIRED = f"(expires_at <= {_NOW} or expires_at > {_NOW} + cast(round(lease_seconds * 1000000) as integer))"


def _text(statement: str) -> TextClause:
    return text(statement.format(now=_NOW, expired=_EXPIRED))


_OBSERVE = _text("""
select leader_id, term, case when {expired} then 0.0 else (expires_at - {now}) / 1e6 end as remaining_seconds,
       {now} as database_time, {expired} as expired
  from leader_lease where id = :id""")

_LAST_TERM = text("select coalesce(max(term), 0) from leader_term where lock_id = :id")

_REPLACE = _text("""
insert into leader_lease (id, leader_id, term, expires_at, created_at, lease_seconds)
values (:id, :me, :term, {now} + :lease, {now}, :lease_seconds)
on conflict (id) do update
   set leader_id = excluded.leader_id, term = excluded.term, expires_at = excluded.expires_at,
       created_at = excluded.created_at, lease_seconds = excluded.lease_seconds,
       guard_pid = null, guard_boot = null, resign_term = null, resign_by = null
returning created_at""")

_NOTE = _text("""
insert into leader_term (lock_id, term, leader_id, acquired_at) values (:id, :term, :me, :acquired_at)""")

_END = _text("""
update leader_term set ended_at = :ended_at, end_reason = :reason
 where lock_id = :id and term <= :term and ended_at is null""")

_RENEW = _text("""
update leader_lease set expires_at = {now} + :lease, created_at = min(created_at, {now})
 where id = :id and term = :term and leader_id = :me and expires_at > {now}
returning coalesce(resign_term = term, 0) as resign_requested, resign_by, {now} as database_time""")

_RELEASE = _text("""
delete from leader_lease where id = :id and term = :term and leader_id = :me returning term, {now} as ended_at""")

_CLEANUP = _text("""
delete from leader_lease where id = :id and expires_at < {now} - :after returning term, expires_at as ended_at""")


class SqliteLeaseStore:
    """The lease of one election in an SQLite file, on a connection of its own."""

    unguarded_reason: str | None = None

    def __init__(self, database: Database, lock_id: int, lease_seconds: float, attempt_seconds: float) -> None:
        self._database = database
        self._lock_id = lock_id
        self._lease_seconds = lease_seconds
        self._lease = round(lease_seconds * 1_000_000)
        self._attempt_seconds = attempt_seconds
        self._connection: OwnConnection | None = None

    def observe(self) -> Observation | None:
        """Read the row."""
        with self._session() as connection:
            row = connection.execute(_OBSERVE, {"id": self._lock_id}).one_or_none()
        if row is None:
            return None
        told = from_microseconds(row.database_time)
        return Observation(row.leader_id, row.term, False, row.remaining_seconds, told)

    def acquire(self, leader_id: str) -> Acquired | None:
        """Insert or replace the row."""
        with self._session() as connection, _writing(connection):
            former = connection.execute(_OBSERVE, {"id": self._lock_id}).one_or_none()
            if former is not None and former.leader_id != leader_id and not former.expired:
                return None
            last_term: int = connection.execute(_LAST_TERM, {"id": self._lock_id}).scalar_one()
            row_term = former.term if former is not None else 0
            reason = "row_deleted" if former is None else "expired"
            if former is not None and former.leader_id == leader_id:
                reason = "replaced_by_itself"
            token = {"id": self._lock_id, "me": leader_id, "term": max(last_term, row_term) + 1}
            lease = {"lease": self._lease, "lease_seconds": self._lease_seconds}
            acquired: int = connection.execute(_REPLACE, {**token, **lease}).scalar_one()
            ended = {"id": self._lock_id, "term": token["term"], "ended_at": acquired, "reason": reason}
            connection.execute(_END, ended)
            connection.execute(_NOTE, {**token, "acquired_at": acquired})
        acquired_at = from_microseconds(acquired)
        return Acquired(max(last_term, row_term) + 1, acquired_at, False, acquired_at)

    def renew(self, term: int, leader_id: str) -> Renewal | None:
        """Put the expiry off."""
        parameters = {"id": self._lock_id, "term": term, "me": leader_id, "lease": self._lease}
        with self._session() as connection:
            row = connection.execute(_RENEW, parameters).one_or_none()
        if row is None:
            return None
        return Renewal(False, bool(row.resign_requested), from_microseconds(row.database_time), row.resign_by)

    def release(self, term: int, leader_id: str, reason: str) -> bool:
        """Delete the row; the others find it gone when they look next."""
        return self._remove(_RELEASE, {"id": self._lock_id, "term": term, "me": leader_id}, reason) > 0

    def cleanup(self) -> int:
        """Delete the row if it expired a while ago."""
        after = round(CLEANUP_SECONDS * 1_000_000)
        return self._remove(_CLEANUP, {"id": self._lock_id, "after": after}, "expired")

    def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def fileno(self) -> int | None:
        """There is nothing to wait on."""
        return None

    def _remove(self, statement: TextClause, parameters: dict[str, Any], reason: str) -> int:
        with self._session() as connection, _writing(connection):
            rows = connection.execute(statement, parameters).all()
            for row in rows:
                ended = {"id": self._lock_id, "term": row.term, "ended_at": row.ended_at, "reason": reason}
                connection.execute(_END, ended)
        return len(rows)

    @contextlib.contextmanager
    def _session(self) -> Iterator[OwnConnection]:
        if self._connection is None or self._connection.broken:
            self._connection = self._database.own_connection(name="elector", seconds=self._attempt_seconds)
        try:
            yield self._connection
        except StoreUnavailable:
            self.close()
            raise


@contextlib.contextmanager
def _writing(connection: OwnConnection) -> Iterator[None]:
    # An error closes the connection, which rolls the transaction back.
    connection.execute(text("begin immediate"))
    yield
    connection.execute(text("commit"))
