"""Where an elector stands, as values that are replaced whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from scheduler_service.model import Lease


class Role(Enum):
    """Where an elector stands."""

    STANDBY = auto()
    LEADER = auto()
    SUSPECT = auto()  # it led until an error; it may lead the same term again
    RELEASING = auto()  # it gave its term up; the row is still to be deleted


@dataclass(frozen=True, slots=True)
class Standing:
    """A role and what goes with it.  Replaced whole, by the thread that steps."""

    role: Role
    lease: Lease | None = None
    since: float = 0.0  # boot-clock seconds
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A word that no term up to this one is to be trusted any more."""

    term: int
    reason: str
    give_back: bool  # the row is still ours to delete
