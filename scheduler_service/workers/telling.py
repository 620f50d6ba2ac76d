"""What the workers tell of runs, as events."""

from __future__ import annotations

from scheduler_service.events import Events
from scheduler_service.model import Attempt, Outcome, State


def tell_end(events: Events, attempt: Attempt, outcome: Outcome) -> None:
    """Tell how a run ended."""
    ended = {**names(attempt), "state": outcome.state, "duration_seconds": outcome.seconds}
    if outcome.state in (State.FAILED, State.TIMED_OUT) or outcome.retry_seconds is not None:
        code = {} if outcome.exit_code is None else {"exit_code": outcome.exit_code}
        error = outcome.error or "it failed without a word"
        if outcome.retry_seconds is None:
            events.emit("run_failed", **ended, **code, error=error)
        else:
            events.emit("run_retrying", **ended, retry_seconds=outcome.retry_seconds, **code, error=error)
    else:
        events.emit("run_finished", **ended)


def names(attempt: Attempt) -> dict[str, object]:
    """Return the fields that name a run and its start."""
    return {
        "job": attempt.job_id,
        "run": attempt.run_id,
        "scheduled_at": attempt.scheduled_at,
        "attempt": attempt.attempt,
    }
