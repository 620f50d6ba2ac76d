"""How the runs of a simulation go: how long they take and how they end, as the test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Generic, Literal, TypeVar

from scheduler_service import policy
from scheduler_service.context import GiveUp, RetryLater
from scheduler_service.model import Attempt, JobSpec, Outcome, State
from scheduler_service.testing.moments import Duration, read_duration

End = Literal["succeeded", "failed"] | Exception  # an exception: the job raises it, RetryLater and GiveUp too

ENDS = ("succeeded", "failed")


Value = TypeVar("Value")


@dataclass
class _Sequence(Generic[Value]):
    """What each start of a job is given, one after another; then `rest` for ever."""

    first: list[Value]
    rest: Value

    def take(self) -> Value:
        return self.first.pop(0) if self.first else self.rest


@dataclass
class Behaviour:
    """What the test said of each job; without a word a run takes no time and succeeds."""

    _lengths: dict[str, _Sequence[timedelta]] = field(default_factory=dict)
    _ends: dict[str, _Sequence[End]] = field(default_factory=dict)

    def takes(self, job_id: str, lengths: Duration | Sequence[Duration]) -> None:
        """Let each start of a job take so long; of several, one after another, and then no time."""
        if isinstance(lengths, str | timedelta):
            self._lengths[job_id] = _Sequence([], read_duration(lengths))
        else:
            self._lengths[job_id] = _Sequence([read_duration(one) for one in lengths], timedelta(0))

    def ends(self, job_id: str, ends: End | Sequence[End]) -> None:
        """Let each start of a job end so; of several, one after another, and then well."""
        several = [ends] if isinstance(ends, str | Exception) else list(ends)
        for one in several:
            if not isinstance(one, Exception) and one not in ENDS:
                raise ValueError(f"{one!r} is no way to end: write {' or '.join(ENDS)}, or an exception to be raised")
        if isinstance(ends, str | Exception):
            self._ends[job_id] = _Sequence([], ends)
        else:
            self._ends[job_id] = _Sequence(several, "succeeded")

    def length(self, job_id: str) -> timedelta:
        """Return how long the start that begins now takes."""
        lengths = self._lengths.get(job_id)
        return timedelta(0) if lengths is None else lengths.take()

    def outcome(self, attempt: Attempt, spec: JobSpec) -> Outcome:
        """Return how the start that begins now ends, at the end of its time."""
        ends = self._ends.get(spec.id)
        end = "succeeded" if ends is None else ends.take()
        if end == "succeeded":
            return Outcome(State.SUCCEEDED, 0.0)
        return failed(attempt, spec, end if isinstance(end, Exception) else None)


def failed(attempt: Attempt, spec: JobSpec, error: Exception | None) -> Outcome:
    """Return what comes of a start whose job raised `error`, or failed without one."""
    seconds = None
    if not isinstance(error, GiveUp):
        asked = error.seconds if isinstance(error, RetryLater) else None
        seconds = policy.retry_seconds(spec, attempt.attempt, State.FAILED, asked)
    text = "it failed, as the test said" if error is None else f"{type(error).__name__}: {error}"
    return Outcome(State.FAILED, 0.0, text, retry_seconds=seconds)
