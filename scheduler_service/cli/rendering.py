"""The answers of the ledger as JSON documents and as tables.

The documents' keys are a promise to scripts: keys may be added, none is taken away or changes its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from scheduler_service.cli.output import about, iso, shown, span, write_table
from scheduler_service.ledger.history import (
    Answer,
    AttemptRow,
    JobRow,
    Leader,
    Pause,
    ReplicaRow,
    RunRow,
    Standing,
)
from scheduler_service.model import Kind, Reason

Document = dict[str, Any]

HASH_SHOWN = 8


def status_document(standing: Standing, lost_after_seconds: float, version: str) -> Document:
    """Return what `status --json` writes."""
    leader = standing.leader
    return {
        "now": iso(standing.now),
        "version": version,
        "lock_id": standing.lock_id,
        "leader": leader_document(leader) if leader is not None else None,
        "config_drift": bool(standing.drifted(lost_after_seconds)),
        "replicas": [
            {
                "instance_id": replica.instance_id,
                "role": _role(standing, replica),
                "host": replica.host,
                "pid": replica.pid,
                "version": replica.version,
                "config_hash": replica.config_hash,
                "seen_at": iso(replica.seen_at),
            }
            for replica in standing.replicas
        ],
        "jobs": [_job_document(standing, job) for job in standing.jobs],
    }


def write_status(standing: Standing, lost_after_seconds: float) -> None:
    """Write what `status` shows."""
    now = standing.now
    if standing.leader is not None:
        leader = standing.leader
        led = span((now - leader.acquired_at).total_seconds())
        click.echo(f"leader    {leader.instance_id}, term {leader.term}, since {about(leader.acquired_at)} ({led})")
        left = span((leader.expires_at - now).total_seconds())
        click.echo(f"lease     {left} left unless renewed; crash detection {'on' if leader.crash_detection else 'off'}")
    else:
        click.echo(f"leader    none{_former(standing)}")
    drifted = standing.drifted(lost_after_seconds)
    if drifted:
        names = ", ".join(replica.instance_id for replica in drifted)
        whose = "the leader's" if standing.leader is not None else "the newest replica's"
        click.echo(f"drift     the configuration of {names} is not {whose}")
    click.echo()
    if standing.replicas:
        rows = [_replica_cells(standing, replica, lost_after_seconds) for replica in standing.replicas]
        write_table(["REPLICA", "ROLE", "HOST", "PID", "VERSION", "CONFIG", "SEEN"], rows, shrink="HOST")
    else:
        click.echo("no replica has signed in")
    click.echo()
    if standing.jobs:
        rows = [_job_cells(standing, job) for job in standing.jobs]
        write_table(["JOB", "SCHEDULE", "NEXT", "LAST", "STATE"], rows, shrink="SCHEDULE")
    else:
        click.echo("no leader has taken up any job yet")


def run_document(row: RunRow) -> Document:
    """Return one element of what `runs --json` writes."""
    return {
        "id": row.id,
        "job": row.job_id,
        "scheduled_at": iso(row.scheduled_at),
        "until": iso(row.until),
        "due_at": iso(row.due_at),
        "kind": row.kind.value,
        "state": row.state.value,
        "reason": row.reason.value if row.reason else None,
        "decided_at": iso(row.decided_at),
        "decided_by": row.decided_by,
        "attempt": row.attempt,
        "term": row.term,
        "instance_id": row.instance_id,
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "exit_code": row.exit_code,
        "error": row.error,
        "delay_seconds": row.delay_seconds,
        "duration_seconds": row.duration_seconds,
        "requested_by": row.requested_by,
        "request_key": row.request_key,
        "arguments": json.loads(row.arguments) if row.arguments is not None else None,
        "cancel_requested_at": iso(row.cancel_requested_at),
        "cancel_requested_by": row.cancel_requested_by,
        "peak_memory_bytes": row.peak_memory_bytes,
    }


def run_details(row: RunRow, attempts: Sequence[AttemptRow]) -> Document:
    """Return what `runs show --json` writes; `output` is the newest attempt's."""
    return {
        **run_document(row),
        "attempts": [
            {
                "id": attempt.id,
                "attempt": attempt.attempt,
                "state": attempt.state.value,
                "term": attempt.term,
                "instance_id": attempt.instance_id,
                "started_at": iso(attempt.started_at),
                "finished_at": iso(attempt.finished_at),
                "duration_seconds": attempt.duration_seconds,
                "exit_code": attempt.exit_code,
                "error": attempt.error,
                "result": attempt.result,
                "peak_memory_bytes": attempt.peak_memory_bytes,
                "output": attempt.output,
                "output_truncated": attempt.output_truncated,
            }
            for attempt in attempts
        ],
        "output": attempts[-1].output if attempts else None,
    }


def write_runs(rows: Sequence[RunRow]) -> None:
    """Write what `runs` shows."""
    write_table(
        ["ID", "JOB", "SCHEDULED AT", "STATE", "DELAY", "TOOK", "WHERE OR WHY"],
        [
            [
                str(row.id),
                row.job_id,
                shown(row.scheduled_at),
                row.state.value,
                span(row.delay_seconds),
                span(row.duration_seconds),
                _where_or_why(row),
            ]
            for row in rows
        ],
        shrink="WHERE OR WHY",
    )


def write_run(row: RunRow, attempts: Sequence[AttemptRow]) -> None:
    """Write what `runs show` shows."""
    until = f" to {iso(row.until)}" if row.until is not None else ""
    reason = f" ({row.reason.value})" if row.reason is not None else ""
    click.echo(f"run           {row.id} of {row.job_id}, {row.kind.value}")
    click.echo(f"scheduled at  {iso(row.scheduled_at)}{until}")
    click.echo(f"due at        {iso(row.due_at)}")
    click.echo(f"state         {row.state.value}{reason}")
    if row.requested_by is not None:
        key = f", key {row.request_key}" if row.request_key is not None else ""
        click.echo(f"requested     {about(row.scheduled_at)} by {row.requested_by}{key}")
    else:
        click.echo(f"decided       {about(row.decided_at)} by {row.decided_by or 'an unknown leader'}")
    if row.arguments is not None:
        click.echo(f"arguments     {row.arguments}")
    if row.cancel_requested_at is not None:
        click.echo(f"cancel        {about(row.cancel_requested_at)}, {cancelled_by(row)}")
    for attempt in attempts:
        _write_attempt(attempt)


def answer_document(answer: Answer) -> Document:
    """Return what `why --json` writes; `run` is the id of the row that covers the tick."""
    row = answer.row
    return {
        "job": answer.job,
        "scheduled_at": iso(answer.scheduled_at),
        "decision": answer.decision,
        "reason": row.reason.value if row is not None and row.reason else None,
        "decided_at": iso(row.decided_at) if row is not None else None,
        "decided_by": row.decided_by if row is not None else None,
        "run": row.id if row is not None else None,
        "explanation": answer.explanation,
        "previous": iso(answer.previous),
        "next": iso(answer.next),
    }


def write_answer(answer: Answer) -> None:
    """Write what `why` shows."""
    row = answer.row
    reason = f" ({row.reason.value})" if row is not None and row.reason is not None else ""
    click.echo(f"{answer.job} at {iso(answer.scheduled_at)}: {answer.decision.replace('_', ' ')}{reason}")
    click.echo(answer.explanation)
    if row is not None:
        kind = f"range {iso(row.scheduled_at)} to {iso(row.until)}, " if row.kind is Kind.RANGE else ""
        click.echo(f"decided   {about(row.decided_at)} by {row.decided_by or 'an unknown leader'}")
        click.echo(f"row       {kind}run {row.id}")
    click.echo(f"previous  {shown(answer.previous)}")
    click.echo(f"next      {shown(answer.next)}")


def _write_attempt(attempt: AttemptRow) -> None:
    took = f", took {span(attempt.duration_seconds)}" if attempt.duration_seconds is not None else ""
    click.echo()
    click.echo(f"attempt {attempt.attempt} (fence {attempt.id}): {attempt.state.value}{took}")
    click.echo(f"  on {attempt.instance_id}, term {attempt.term}, from {about(attempt.started_at)}")
    if attempt.peak_memory_bytes is not None:
        click.echo(f"  peak memory {attempt.peak_memory_bytes / 2**20:.1f} MiB")
    if attempt.exit_code is not None:
        click.echo(f"  exit code {attempt.exit_code}")
    if attempt.result is not None:
        click.echo(f"  returned {attempt.result}")
    for label, text in (("error", attempt.error), ("output", attempt.output)):
        if text:
            kept = ", the last of it" if label == "output" and attempt.output_truncated else ""
            click.echo(f"  {label}{kept}:")
            for line in text.rstrip("\n").splitlines():
                click.echo(f"    {line}")


def leader_document(leader: Leader) -> Document:
    """Return what `status --json` has under `leader`."""
    return {
        "instance_id": leader.instance_id,
        "term": leader.term,
        "acquired_at": iso(leader.acquired_at),
        "expires_at": iso(leader.expires_at),
        "crash_detection": leader.crash_detection,
    }


def _job_document(standing: Standing, job: JobRow) -> Document:
    last, pause = job.last, job.paused(standing.now)
    return {
        "job": job.job_id,
        "schedule": job.canonical,
        "timezone": job.timezone,
        "enabled": job.enabled,
        "paused": pause_document(pause) if pause is not None else None,
        "next": iso(job.next_tick(standing.now)),
        "running": job.running_count,
        "stuck": job.stuck_count,
        "last": None
        if last is None
        else {
            "id": last.id,
            "scheduled_at": iso(last.until or last.scheduled_at),
            "state": last.state.value,
            "reason": last.reason.value if last.reason else None,
        },
    }


def pause_document(pause: Pause) -> Document:
    """Return what `status --json` has under `paused`."""
    return {"at": iso(pause.at), "until": iso(pause.until), "by": pause.by, "reason": pause.reason}


def _role(standing: Standing, replica: ReplicaRow) -> str:
    leads = standing.leader is not None and standing.leader.instance_id == replica.instance_id
    return "leader" if leads else "standby"


def _former(standing: Standing) -> str:
    last = standing.last_term
    if last is None:
        return ": no replica has ever led"
    if last.ended_at is not None:
        return f"; {last.leader_id} led until {about(last.ended_at)} (term {last.term}, {last.end_reason})"
    return f"; {last.leader_id} led last (term {last.term}) and let its lease run out"


def _replica_cells(standing: Standing, replica: ReplicaRow, lost_after_seconds: float) -> list[str]:
    age = span(max(0.0, (standing.now - replica.seen_at).total_seconds()))
    live, role = standing.live(replica, lost_after_seconds), _role(standing, replica)
    return [
        replica.instance_id,
        role if live or role == "leader" else "gone",
        replica.host,
        str(replica.pid),
        replica.version,
        replica.config_hash[:HASH_SHOWN],
        f"{age} ago" if live else f"not for {age}",
    ]


def _job_cells(standing: Standing, job: JobRow) -> list[str]:
    zone = "" if job.timezone == "UTC" else f" {job.timezone}"
    following = shown(job.next_tick(standing.now))
    if not job.enabled:
        following = "disabled"
    elif (pause := job.paused(standing.now)) is not None:
        following = "paused" if pause.until is None else f"paused, {following}"
    last = job.last
    state = ""
    if job.running_count:
        state = f"{job.running_count} running"
    elif last is not None:
        state = last.state.value + (f" ({last.reason.value})" if last.reason else "")
    if job.stuck_count:
        state += f", {job.stuck_count} stuck"
    last_at = shown(last.until or last.scheduled_at) if last is not None else "-"
    return [job.job_id, job.canonical + zone, following, last_at, state]


def _where_or_why(row: RunRow) -> str:
    if row.instance_id is not None:
        error = (row.error or "").strip().splitlines()
        return f"{row.instance_id}: {error[-1].strip()}" if error else row.instance_id
    if row.cancel_requested_at is not None:
        return cancelled_by(row)
    until = f", to {iso(row.until)}" if row.until is not None else ""
    by = f" by {row.requested_by}" if row.reason is Reason.REQUESTED and row.requested_by is not None else ""
    return (row.reason.value if row.reason else "") + by + until


def cancelled_by(row: RunRow) -> str:
    """Say who asked for the end of a run: a person, or a newer tick."""
    by = row.cancel_requested_by
    if by is None:
        return "asked for"
    return f"asked for by {by}" if row.replaced_by is None else f"replaced by {row.replaced_by}"
