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
    final: bool = False  # the job gave up: whatever its `retry` says, it is not tried again
    retry_seconds: float | None = None  # the job asked to be tried again after so long
    returned: bool = True  # False: its thread goes on
    peak_memory_bytes: int | None = None
