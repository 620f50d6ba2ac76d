"""The lease on PostgreSQL.

The lease is the truth.  On top of it a session advisory lock, whose key is made of lock id and term, tells
that the leader's *session* is gone; it only ever permits to take over early and is never needed to lead.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import TextClause, text

from scheduler_service.database import Database, OwnConnection, StoreUnavailable
from scheduler_service.leases.store import CLEANUP_SECONDS, Acquired, Observation, Renewal

# What every statement that a leader writes as leader does first (I4).  A mere EXISTS lets a stale write
# through; FOR SHARE holds renewals up; KEY SHARE is enough because `term` is a key column of a unique index.
FENCE = """
select term from {prefix}leader_lease
 where id = :id and term = :term and leader_id = :me and expires_at > clock_timestamp() for key share"""

# A clock that was set back must not leave a lease standing for an hour.
_EXPIRED = (
    "(l.expires_at <= clock_timestamp() or l.expires_at > clock_timestamp() + make_interval(secs => l.lease_seconds))"
)

_OBSERVE = """
select l.leader_id, l.term, l.guard_pid is not null and l.guard_boot = pg_postmaster_start_time() as armed,
       case when {expired} then 0
            else extract(epoch from l.expires_at - clock_timestamp())::float8 end as remaining_seconds,
       clock_timestamp() as database_time
  from {prefix}leader_lease l where l.id = :id"""

# The new term is armed in the same statement: a client killed in between would leave a lease that nobody
# could take over early.  CASE fixes the order of evaluation; AND and OR would not.
_ACQUIRE = """
with former as (
  select l.leader_id, {expired} as expired from {prefix}leader_lease l where l.id = :id),
won as (
  insert into {prefix}leader_lease as l
         (id, leader_id, term, expires_at, created_at, lease_seconds, guard_pid, guard_boot)
  select :id, :me,
         greatest(nextval(:sequence), 1 + coalesce((select max(term) from {prefix}leader_term where lock_id = :id), 0)),
         clock_timestamp() + make_interval(secs => :lease), clock_timestamp(), :lease,
         case when :direct then pg_backend_pid() end, case when :direct then pg_postmaster_start_time() end
  on conflict (id) do update
     set leader_id = excluded.leader_id, term = greatest(l.term + 1, excluded.term),
         expires_at = excluded.expires_at, created_at = excluded.created_at,
         lease_seconds = excluded.lease_seconds, guard_pid = excluded.guard_pid,
         guard_boot = excluded.guard_boot, resign_term = null, resign_by = null
   where case
           when l.leader_id = excluded.leader_id then true
           when {expired} then true
           when l.guard_pid is null or l.guard_boot is distinct from pg_postmaster_start_time() then false
           else pg_try_advisory_xact_lock_shared(:class, (l.term % 2147483647)::int)
         end
  returning l.id, l.term, l.leader_id, l.created_at,
            case when :direct then pg_try_advisory_lock(:class, (l.term % 2147483647)::int) else false end as armed),
noted as (
  insert into {prefix}leader_term (lock_id, term, leader_id, acquired_at)
  select id, term, leader_id, created_at from won),
ended as (
  update {prefix}leader_term t
     set ended_at = clock_timestamp(),
         end_reason = coalesce((select case when former.leader_id = :me then 'replaced_by_itself'
                                            when former.expired then 'expired' else 'session_gone' end from former),
                               'row_deleted')
    from won where t.lock_id = won.id and t.term < won.term and t.ended_at is null)
select term, created_at, armed, clock_timestamp() as database_time, pg_notify(:channel, :id || ' ' || term) from won"""

_RENEW = """
update {prefix}leader_lease
   set expires_at = clock_timestamp() + make_interval(secs => :lease),
       created_at = least(created_at, clock_timestamp())
 where id = :id and term = :term and leader_id = :me and expires_at > clock_timestamp()
returning resign_term is not distinct from term as resign_requested, resign_by, clock_timestamp() as database_time,
          true as armed"""

# On a session that does not hold the lock of this term: take it, or say that nobody holds it.  Else the row
# would go on naming a session that has ended, and the healthy leader would be taken over.
_RENEW_AND_ARM = """
with tried as materialized (
  select case when :direct then pg_try_advisory_lock(:class, (cast(:term as bigint) % 2147483647)::int) else false
         end as locked)
update {prefix}leader_lease
   set expires_at = clock_timestamp() + make_interval(secs => :lease),
       created_at = least(created_at, clock_timestamp()),
       guard_pid = case when tried.locked then pg_backend_pid() end,
       guard_boot = case when tried.locked then pg_postmaster_start_time() end
  from tried
 where id = :id and term = :term and leader_id = :me and expires_at > clock_timestamp()
returning resign_term is not distinct from term as resign_requested, resign_by, clock_timestamp() as database_time,
          tried.locked as armed"""

_DISARM = """
update {prefix}leader_lease set guard_pid = null, guard_boot = null
 where id = :id and term = :term and leader_id = :me"""

_RELEASE = """
with gone as (
  delete from {prefix}leader_lease where id = :id and term = :term and leader_id = :me returning id, term),
noted as (
  update {prefix}leader_term t set ended_at = clock_timestamp(), end_reason = :reason
    from gone where t.lock_id = gone.id and t.term = gone.term)
select pg_notify(:channel, gone.id || ' ' || gone.term) from gone"""

_CLEANUP = """
with gone as (
  delete from {prefix}leader_lease where id = :id and expires_at < clock_timestamp() - make_interval(secs => :after)
  returning id, term, expires_at),
noted as (
  update {prefix}leader_term t set ended_at = gone.expires_at, end_reason = 'expired'
    from gone where t.lock_id = gone.id and t.term = gone.term and t.ended_at is null)
select count(*) from gone"""

_UNLOCK_ALL = text("select pg_advisory_unlock_all()")

# SQLSTATE of a statement that ran out of time: the session is well, and its end would let others take over.
_RAN_OUT_OF_TIME = {"55P03", "57014"}

_SELF_TESTS = 3  # a session


def election_key(schema: str, lock_id: int) -> int:
    """Return the number, a signed int4, under which this election locks on its server."""
    digest = hashlib.blake2b(f"{schema}/{lock_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big", signed=True)


def election_channel(schema: str, lock_id: int) -> str:
    """Return the channel on which those who take part in this election are woken."""
    return f"scheduler_lease_{election_key(schema, lock_id) & 0xFFFFFFFF:08x}"


class _Session:
    """A connection and what we know of it."""

    def __init__(self, connection: OwnConnection) -> None:
        self.connection = connection
        self.lockable: bool | None = None  # None: not tried yet
        self.tests_left = _SELF_TESTS
        self.armed_term: int | None = None


class PostgresLeaseStore:
    """The lease of one election on PostgreSQL, on a connection of its own."""

    def __init__(
        self, database: Database, lock_id: int, lease_seconds: float, attempt_seconds: float, *, guarded: bool
    ) -> None:
        self._database = database
        self._lock_id = lock_id
        self._lease_seconds = lease_seconds
        self._attempt_seconds = attempt_seconds
        self._guarded = guarded
        self._class = election_key(database.schema, lock_id)
        self._channel = election_channel(database.schema, lock_id)
        self._session: _Session | None = None
        self._unguarded_reason: str | None = None
        self._observe = self._text(_OBSERVE)
        self._acquire = self._text(_ACQUIRE)
        self._renew = self._text(_RENEW)
        self._renew_and_arm = self._text(_RENEW_AND_ARM)
        self._disarm = self._text(_DISARM)
        self._release = self._text(_RELEASE)
        self._cleanup = self._text(_CLEANUP)

    @property
    def unguarded_reason(self) -> str | None:
        """Why others cannot notice the end of this session, though they should."""
        return self._unguarded_reason

    def observe(self) -> Observation | None:
        """Read the row; again when a change of it was told meanwhile, for we may have read before it."""
        for _ in range(3):
            row = self._execute(self._observe, {"id": self._lock_id}).one_or_none()
            session = self._live()
            self._lockable(session)  # before it is needed: it takes a second session
            if not self._told(session):
                break
        if row is None:
            return None
        return Observation(row.leader_id, row.term, row.armed, row.remaining_seconds, row.database_time)

    def acquire(self, leader_id: str) -> Acquired | None:
        """Insert or replace the row, arm the new term, and tell the others, so that they watch it."""
        session = self._live()
        parameters = {
            "id": self._lock_id,
            "me": leader_id,
            "lease": self._lease_seconds,
            "class": self._class,
            "direct": self._lockable(session),
            "sequence": f"{self._database.prefix}leader_term_seq",
            "channel": self._channel,
        }
        row = self._execute(self._acquire, parameters).one_or_none()
        if row is None:
            return None
        if row.armed:
            session.armed_term = row.term
        elif parameters["direct"]:  # somebody else's key
            self._execute(self._disarm, {"id": self._lock_id, "term": row.term, "me": leader_id})
        return Acquired(row.term, row.created_at, row.armed, row.database_time)

    def renew(self, term: int, leader_id: str) -> Renewal | None:
        """Put the expiry off; again when a word came in meanwhile, for it may ask us to resign."""
        for _ in range(3):
            renewal = self._renew_once(term, leader_id)
            # A request that was committed just behind our statement was told along with the answer: the socket
            # is not readable any more, and nothing would wake us before the next renewal.
            if renewal is None or renewal.resign_requested or not self._told(self._live()):
                break
        return renewal

    def _renew_once(self, term: int, leader_id: str) -> Renewal | None:
        """Put the expiry off, and arm the term again on a session that does not hold its lock."""
        session = self._live()
        parameters = {"id": self._lock_id, "term": term, "me": leader_id, "lease": self._lease_seconds}
        if session.armed_term == term:
            row = self._execute(self._renew, parameters).one_or_none()
        else:
            parameters |= {"class": self._class, "direct": self._lockable(session)}
            row = self._execute(self._renew_and_arm, parameters).one_or_none()
        if row is None:
            self._unlock(session)
            return None
        session.armed_term = term if row.armed else None
        return Renewal(row.armed, row.resign_requested, row.database_time, row.resign_by)

    def release(self, term: int, leader_id: str, reason: str) -> bool:
        """Delete the row: pollers are woken by NOTIFY, guards by the unlock."""
        parameters = {
            "id": self._lock_id,
            "term": term,
            "me": leader_id,
            "reason": reason,
            "channel": self._channel,
        }
        gone = self._execute(self._release, parameters).one_or_none() is not None
        self._unlock(self._live())
        return gone

    def cleanup(self) -> int:
        """Delete the row if it expired a while ago."""
        count: int = self._execute(self._cleanup, {"id": self._lock_id, "after": CLEANUP_SECONDS}).scalar_one()
        return count

    def close(self) -> None:
        """End the session, and with it the lock of the term."""
        session, self._session = self._session, None
        if session is not None:
            session.connection.close()

    def fileno(self) -> int | None:
        """Return the session's socket."""
        session = self._session
        return session.connection.fileno() if session is not None else None

    def _text(self, statement: str) -> TextClause:
        return text(statement.format(prefix=self._database.prefix, expired=_EXPIRED))

    def _live(self) -> _Session:
        session = self._session
        if session is None or session.connection.broken:
            self.close()
            connection = self._database.own_connection(name="elector", seconds=self._attempt_seconds)
            session = self._session = _Session(connection)
            if connection.direct:
                self._execute(text(f"listen {self._channel}"), {})
        return session

    def _execute(self, statement: TextClause, parameters: Mapping[str, Any]) -> Any:
        session = self._live()
        try:
            return session.connection.execute(statement, parameters)
        except StoreUnavailable as error:
            if getattr(error.__cause__, "sqlstate", None) not in _RAN_OUT_OF_TIME:
                self.close()
            raise

    def _told(self, session: _Session) -> bool:
        return session.connection.direct and bool(session.connection.notifications())

    def _unlock(self, session: _Session) -> None:
        if session.armed_term is not None:
            session.armed_term = None
            session.connection.execute(_UNLOCK_ALL)

    def _lockable(self, session: _Session) -> bool:
        """Whether a lock of this session is refused to others: some servers take advisory locks without meaning it."""
        if not self._guarded:
            return False
        if not session.connection.direct:
            self._unguarded_reason = "a pooler lends out the session: the lease has to expire"
            return False
        if session.lockable is None and session.tests_left > 0:
            session.tests_left -= 1
            try:
                session.lockable = self._test(session)
                self._unguarded_reason = None if session.lockable else "the server does not hold advisory locks"
            except StoreUnavailable as error:
                # Never needed to lead: a server without room for a second session must not end our term.
                self._unguarded_reason = f"a second session could not be opened to try the lock: {error}"
        return session.lockable is True

    def _test(self, session: _Session) -> bool:
        parameters = {"class": self._class, "key": -secrets.randbelow(2**31) - 1}  # terms have keys from 0 up
        lock = text("select pg_try_advisory_lock(:class, :key)")
        mine = session.connection.execute(lock, parameters).scalar_one()
        try:
            other = self._database.own_connection(name="guard", seconds=self._attempt_seconds)
            try:
                theirs = other.execute(lock, parameters).scalar_one()
            finally:
                other.close()
        finally:
            session.connection.execute(text("select pg_advisory_unlock(:class, :key)"), parameters)
        return bool(mine and not theirs)
