"""The ledger of a simulation: the real one, in memory, with a switch that takes it out of reach."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scheduler_service import tables
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.ledger import LostAttempt, Settlement, StartsLimits
from scheduler_service.ledger.sqlite import SqliteLedger
from scheduler_service.model import Lease
from scheduler_service.testing.moments import SimulatedClock


class SimulatedDatabase(Database):
    """A database in memory, with our tables; while it is `away` it does not answer."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__("sqlite://", simulated_time=clock.now)
        self.away = False
        self._lent = contextlib.ExitStack()
        # There is but one connection and one thread, so it is lent once and not for each statement.
        self._connection = self._lent.enter_context(super().connect())
        tables.metadata().create_all(self._connection)

    @contextlib.contextmanager
    def connect(self, *, seconds: float | None = None) -> Iterator[Any]:  # noqa: ARG002  # memory answers at once
        """Lend the connection; see Database."""
        if self.away:
            raise StoreUnavailable("the database is away, as the test says")
        yield self._connection

    def dispose(self) -> None:
        """Give the memory back."""
        self._lent.close()
        super().dispose()


@dataclass(frozen=True, slots=True)
class Span:
    """The ticks of one job in (since, until] were decided, under this schedule."""

    job_id: str
    since: datetime
    until: datetime
    schedule: str  # canonical
    timezone: str


class ObservedLedger(SqliteLedger):
    """The ledger on SQLite, which remembers what was settled under which schedule, and which replicas were given up."""

    def __init__(self, database: Database, lock_id: int) -> None:
        super().__init__(database, lock_id)
        self.spans: list[Span] = []
        self.closed: set[str] = set()

    def settle(self, lease: Lease, settlements: Sequence[Settlement]) -> frozenset[str] | None:
        """Write decisions; see Ledger."""
        settled = super().settle(lease, settlements)
        for one in settlements:
            state = one.state
            if settled is not None and state.job_id in settled and one.until > state.settled_until:
                span = Span(state.job_id, state.settled_until, one.until, state.schedule, state.timezone)
                self.spans.append(span)
        return settled

    def mark_lost(
        self, lease: Lease, instance_id: str, seen_at: datetime | None, starts_limits: StartsLimits
    ) -> list[LostAttempt] | None:
        """Close what a replica left open; see Ledger."""
        lost = super().mark_lost(lease, instance_id, seen_at, starts_limits)
        if lost is not None:
            self.closed.add(instance_id)
        return lost
