"""Whether the dispatcher may act: asked before each statement, and answered by the database in each."""

from __future__ import annotations

from typing import Protocol

from scheduler_service.model import Lease


class Leadership(Protocol):
    """Whom the dispatcher asks whether it may act."""

    def current(self) -> Lease | None:
        """Return the trusted lease, or None."""

    def deposed(self, term: int) -> None:
        """Learn that a statement of this term was fenced."""
