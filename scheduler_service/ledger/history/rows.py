"""Rows of the tables as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, RowMapping, Select, and_, select

from scheduler_service.ledger.history.values import AttemptRow, JobRow, LastRun, Pause, RunRow
from scheduler_service.model import Kind, Reason, State
from scheduler_service.tables import run, run_attempt, run_output


def runs() -> Select[Any]:
    """Return the query for rows of the ledger, each with its newest attempt, in the order of RunRow's fields."""
    return select(
        run.c.id,
        run.c.job_id,
        run.c.scheduled_at,
        run.c.until,
        run.c.due_at,
        run.c.kind,
        run.c.state,
        run.c.reason,
        run.c.decided_at,
        run.c.decided_by,
        run.c.attempt,
        run.c.requested_by,
        run.c.request_key,
        run.c.arguments,
        run.c.cancel_requested_at,
        run.c.cancel_requested_by,
        run_attempt.c.term,
        run_attempt.c.instance_id,
        run_attempt.c.started_at,
        run_attempt.c.finished_at,
        run_attempt.c.exit_code,
        run_attempt.c.error,
        run_attempt.c.peak_memory_bytes,
    ).outerjoin(run_attempt, and_(run_attempt.c.run_id == run.c.id, run_attempt.c.attempt == run.c.attempt))


def attempts_of_runs() -> Select[Any]:
    """Return the query for attempts, each with its output."""
    return select(run_attempt, run_output.c.text.label("output"), run_output.c.truncated).outerjoin(
        run_output, run_output.c.attempt_id == run_attempt.c.id
    )


def run_row(row: Row[Any]) -> RunRow:
    """Return what `runs` asks for."""
    # By their order, which is that of RunRow's fields: to look each up by its name takes most of the time of a page.
    values: list[Any] = list(row)
    values[5:8] = Kind(values[5]), State(values[6]), _reason(values[7])
    return RunRow(*values)


def attempt_row(row: RowMapping) -> AttemptRow:
    """Return what `attempts_of_runs` asks for."""
    return AttemptRow(
        id=row["id"],
        attempt=row["attempt"],
        term=row["term"],
        instance_id=row["instance_id"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        state=State(row["state"]),
        error=row["error"],
        exit_code=row["exit_code"],
        result=row["result"],
        peak_memory_bytes=row["peak_memory_bytes"],
        output=row["output"],
        output_truncated=bool(row["truncated"]),
    )


def job_row(row: RowMapping, running: Mapping[str, int], stuck: Mapping[str, int]) -> JobRow:
    """Return a job, read with its newest run that is not still to start."""
    pause = None
    if row["paused_at"] is not None:
        pause = Pause(row["paused_at"], row["paused_until"], row["paused_by"], row["pause_reason"])
    last = None
    if row["id"] is not None:
        last = LastRun(row["id"], row["scheduled_at"], row["until"], State(row["state"]), _reason(row["reason"]))
    return JobRow(
        job_id=row["job_id"],
        canonical=row["schedule"],
        timezone=row["timezone"],
        enabled=bool(row["enabled"]),
        accountable_from=row["accountable_from"],
        settled_until=row["settled_until"],
        present_at=row["present_at"],
        pause=pause,
        running_count=running.get(row["job_id"], 0),
        stuck_count=stuck.get(row["job_id"], 0),
        last=last,
    )


def _reason(value: str | None) -> Reason | None:
    return None if value is None else Reason(value)
