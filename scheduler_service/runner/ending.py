"""How the code of a job ended, before it is known how long it took and what it wrote."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler_service.model import State


@dataclass(frozen=True, slots=True)
class Ending:
    """The part of an Outcome that the job itself decides."""

    state: State
    error: str | None = None
    exit_code: int | None = None
    result: str | None = None
