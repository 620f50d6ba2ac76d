"""What a lease store is, and the values that it answers with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

CLEANUP_SECONDS = 5.0  # how long an expired row stays before cleanup removes it


@dataclass(frozen=True, slots=True)
class Observation:
    """Who leads, as the database says it."""

    leader_id: str
    term: int
    armed: bool  # the leader's session can be watched: its end permits to take over before the lease expires
    remaining_seconds: float  # until the lease expires; zero or less when anybody may replace it
    database_time: datetime


@dataclass(frozen=True, slots=True)
class Acquired:
    """A term that is ours."""

    term: int
    acquired_at: datetime
    armed: bool
    database_time: datetime


@dataclass(frozen=True, slots=True)
class Renewal:
    """Our term goes on."""

    armed: bool
    resign_requested: bool  # an operator asks the leader of this term to resign
    database_time: datetime
    resign_by: str | None = None  # who asks, if somebody does and said so


class LeaseStore(Protocol):
    """The verbs of one election, for one thread.

    Each raises StoreUnavailable when the database does not answer in time or answers with an error: what
    became of the statement is then unknown.  The next call opens a fresh session where the old one is no
    good any more.
    """

    @property
    def unguarded_reason(self) -> str | None:
        """Why others cannot notice the end of this session, though they should; None: they can, or need not."""

    def observe(self) -> Observation | None:
        """Return who leads, or None when there is no row."""

    def acquire(self, leader_id: str) -> Acquired | None:
        """Begin a new term where there is no row, it has expired, is ours, or its leader's session is gone."""

    def renew(self, term: int, leader_id: str) -> Renewal | None:
        """Put the expiry off by one lease; None when the term is over.  A lapsed term is never revived."""

    def release(self, term: int, leader_id: str, reason: str) -> bool:
        """Remove our row and wake those who wait for it; return whether it was there.

        It waits for a statement of this term that is still being executed.
        """

    def cleanup(self) -> int:
        """Remove the row if it expired a while ago and nobody replaced it; return how many were removed."""

    def close(self) -> None:
        """End the session.  Any thread may ask; a call that waits for an answer fails then."""

    def fileno(self) -> int | None:
        """Return a socket that becomes readable when there is reason to look again, or None."""
