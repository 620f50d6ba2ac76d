"""The lease in memory: the same verbs as in a database, held to the same contract (tests/contract/test_leases.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from scheduler_service.clock import EPOCH
from scheduler_service.leases import CLEANUP_SECONDS, Acquired, Observation, Renewal


@dataclass
class Session:
    """A connection as the server sees it; its locks end with it."""

    boot: int
    ended: bool = False


@dataclass
class Row:
    """leader_lease"""

    leader_id: str
    term: int
    created_at: float
    expires_at: float
    lease_seconds: float
    guard: Session | None
    resign_term: int | None = None


@dataclass
class Term:
    """leader_term"""

    term: int
    leader_id: str
    ended: str | None = None


class MemoryElection:
    """The server's side: one row, the history of terms, and the server's clock."""

    def __init__(self, now: Callable[[], float], lease_seconds: float = 10.0) -> None:
        self.now = now
        self.lease_seconds = lease_seconds
        self.row: Row | None = None
        self.terms: list[Term] = []
        self.boot = 1

    def observe(self) -> Observation | None:
        row = self.row
        if row is None:
            return None
        armed = row.guard is not None and row.guard.boot == self.boot
        remaining = 0.0 if self._expired(row) else row.expires_at - self.now()
        return Observation(row.leader_id, row.term, armed, remaining, self._told())

    def acquire(self, leader_id: str, session: Session | None = None) -> Acquired | None:
        row = self.row
        reason = "row_deleted"
        if row is not None:
            if row.leader_id == leader_id:
                reason = "replaced_by_itself"
            elif self._expired(row):
                reason = "expired"
            elif row.guard is not None and row.guard.boot == self.boot and row.guard.ended:
                reason = "session_gone"
            else:
                return None
        term = 1 + max(row.term if row else 0, self.terms[-1].term if self.terms else 0)
        for former in self.terms:
            former.ended = former.ended or reason
        now = self.now()
        self.terms.append(Term(term, leader_id))
        self.row = Row(leader_id, term, now, now + self.lease_seconds, self.lease_seconds, session)
        return Acquired(term, self._told(), session is not None, self._told())

    def renew(self, term: int, leader_id: str, session: Session | None = None) -> Renewal | None:
        row = self._mine(term, leader_id)
        if row is None or row.expires_at <= self.now():
            return None
        row.expires_at = self.now() + self.lease_seconds
        row.created_at = min(row.created_at, self.now())
        row.guard = session
        return Renewal(session is not None, row.resign_term == term, self._told())

    def release(self, term: int, leader_id: str, reason: str) -> bool:
        if self._mine(term, leader_id) is None:
            return False
        self._end(term, reason)
        return True

    def cleanup(self) -> int:
        row = self.row
        if row is None or row.expires_at >= self.now() - CLEANUP_SECONDS:
            return 0
        self._end(row.term, "expired")
        return 1

    def _mine(self, term: int, leader_id: str) -> Row | None:
        row = self.row
        return row if row is not None and (row.term, row.leader_id) == (term, leader_id) else None

    def _expired(self, row: Row) -> bool:
        now = self.now()
        return row.expires_at <= now or row.expires_at > now + row.lease_seconds

    def _end(self, term: int, reason: str) -> None:
        self.row = None
        for former in self.terms:
            if former.term == term:
                former.ended = reason

    def _told(self):
        return EPOCH + timedelta(seconds=self.now())


class MemoryLeaseStore:
    """A store whose server answers at once."""

    unguarded_reason: str | None = None

    def __init__(self, election: MemoryElection) -> None:
        self.election = election

    def observe(self) -> Observation | None:
        return self.election.observe()

    def acquire(self, leader_id: str) -> Acquired | None:
        return self.election.acquire(leader_id)

    def renew(self, term: int, leader_id: str) -> Renewal | None:
        return self.election.renew(term, leader_id)

    def release(self, term: int, leader_id: str, reason: str) -> bool:
        return self.election.release(term, leader_id, reason)

    def cleanup(self) -> int:
        return self.election.cleanup()

    def close(self) -> None:
        pass

    def fileno(self) -> int | None:
        return None
