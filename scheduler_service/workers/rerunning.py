"""Runs that are stopped with their replica: another may run them again."""

from __future__ import annotations

from dataclasses import replace

from scheduler_service.context import Stopping
from scheduler_service.model import Attempt, JobSpec, OnCrash, Outcome, State

# Why a run is asked to stop:
REPLICA_ENDS = "the replica is stopping"  # a drain does not wait for it any longer
MARKED_LOST = "lost"  # its replica was silent for too long, and the ledger has closed its attempt


def in_the_end(attempt: Attempt, spec: JobSpec, stopping: Stopping, outcome: Outcome) -> Outcome:
    """Let a run that was stopped with its replica be run by another, as it would be had it not stopped."""
    return replace(outcome, retry_seconds=0.0) if goes_elsewhere(attempt, spec, stopping, outcome) else outcome


def goes_elsewhere(attempt: Attempt, spec: JobSpec, stopping: Stopping, outcome: Outcome) -> bool:
    """Whether a run was stopped with its replica, and is one to be run again."""
    stopped_with_us = outcome.state is State.CANCELLED and stopping.reason in (REPLICA_ENDS, MARKED_LOST)
    return stopped_with_us and spec.on_crash is OnCrash.RERUN and attempt.attempt < spec.starts_limit
