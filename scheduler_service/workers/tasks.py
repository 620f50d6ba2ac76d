"""An attempt that a worker was given, and what becomes of it when it is stopped with its replica."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scheduler_service.context import Stopping
from scheduler_service.model import Attempt, JobSpec, OnCrash, Outcome, State

# Why a run is asked to stop:
REPLICA_ENDS = "the replica is stopping"  # a drain does not wait for it any longer
MARKED_LOST = "lost"  # its replica was silent for too long, and the ledger has closed its attempt


@dataclass(slots=True, eq=False)
class Task:
    """An attempt that was taken, until its result is durable or its function has returned."""

    attempt: Attempt
    spec: JobSpec
    weight: int  # of AHEAD to a worker
    taken_at: float  # boot clock
    stopping: Stopping = field(default_factory=Stopping)
    begun: bool = False  # or recorded as stopped before it could
    end: Outcome | None = None  # the last that was given to be written: until that is, the attempt is ours
    late: list[Outcome] = field(default_factory=list)  # of a function that returned just after it was given up

    def goes_elsewhere(self, outcome: Outcome) -> bool:
        """Whether it was stopped with its replica, and its run is one to be run again."""
        stopped_with_us = outcome.state is State.CANCELLED and self.stopping.reason in (REPLICA_ENDS, MARKED_LOST)
        rerun = self.spec.on_crash is OnCrash.RERUN and self.attempt.attempt < self.spec.starts_limit
        return stopped_with_us and rerun

    def in_the_end(self, outcome: Outcome) -> Outcome:
        """Note and return how it ended; a run that is to be run by another is tried again, as if it had not stopped."""
        self.end = replace(outcome, retry_seconds=0.0) if self.goes_elsewhere(outcome) else outcome
        return self.end


@dataclass(frozen=True, slots=True)
class StuckTask:
    """One whose function is over its time-out and has not returned."""

    task: Task
    ran_seconds: float  # until it was given up
    since: float  # when that was, on the boot clock
    keeps_its_place: bool
