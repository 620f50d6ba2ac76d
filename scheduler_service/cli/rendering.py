"""The answers of the ledger as tables and texts for people; as documents: `ledger.history.documents`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from scheduler_service.cli.output import about, say, shown, span, write_table
from scheduler_service.ledger.history import (
    Answer,
    AttemptRow,
    JobRow,
    ReplicaRow,
    RunRow,
    Standing,
)
from scheduler_service.ledger.history.documents import role_of
from scheduler_service.model import Kind, Reason
from scheduler_service.moments import iso

HASH_SHOWN = 8


def write_status(standing: Standing, lost_after_seconds: float) -> None:
    """Write what `status` shows."""
    now = standing.now
    if standing.leader is not None:
        leader = standing.leader
        led = span((now - leader.acquired_at).total_seconds())
        say(f"leader    {leader.instance_id}, term {leader.term}, since {about(leader.acquired_at)} ({led})")
        left = span((leader.expires_at - now).total_seconds())
        say(f"lease     {left} left unless renewed; crash detection {'on' if leader.crash_detection else 'off'}")
    else:
        say(f"leader    none{_former(standing)}")
    if (stranger := standing.stranger()) is not None:
        say(f"stranger  {stranger}")
    drifted = standing.drifted(lost_after_seconds)
    if drifted:
        names = ", ".join(replica.instance_id for replica in drifted)
        whose = "the leader's" if standing.leader is not None else "the newest replica's"
        say(f"drift     the configuration of {names} is not {whose}")
    click.echo()
    if standing.replicas:
        rows = [_replica_cells(standing, replica, lost_after_seconds) for replica in standing.replicas]
        write_table(["REPLICA", "ROLE", "HOST", "PID", "VERSION", "CONFIG", "SEEN"], rows, shrink="HOST")
    else:
        say("no replica has signed in")
    click.echo()
    if standing.jobs:
        rows = [_job_cells(standing, job) for job in standing.jobs]
        write_table(["JOB", "SCHEDULE", "NEXT", "LAST", "STATE"], rows, shrink="SCHEDULE")
    else:
        say("no leader has taken up any job yet")


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
    say(f"run           {row.id} of {row.job_id}, {row.kind.value}")
    say(f"scheduled at  {iso(row.scheduled_at)}{until}")
    say(f"due at        {iso(row.due_at)}")
    say(f"state         {row.state.value}{reason}")
    if row.requested_by is not None:
        key = f", key {row.request_key}" if row.request_key is not None else ""
        say(f"requested     {about(row.scheduled_at)} by {row.requested_by}{key}")
    else:
        say(f"decided       {about(row.decided_at)} by {row.decided_by or 'an unknown leader'}")
    if row.arguments is not None:
        say(f"arguments     {row.arguments}")
    if row.cancel_requested_at is not None:
        say(f"cancel        {about(row.cancel_requested_at)}, {cancelled_by(row)}")
    for attempt in attempts:
        _write_attempt(attempt)


def write_answer(answer: Answer) -> None:
    """Write what `why` shows."""
    row = answer.row
    reason = f" ({row.reason.value})" if row is not None and row.reason is not None else ""
    say(f"{answer.job} at {iso(answer.scheduled_at)}: {answer.decision.replace('_', ' ')}{reason}")
    say(answer.explanation)
    if row is not None:
        kind = f"range {iso(row.scheduled_at)} to {iso(row.until)}, " if row.kind is Kind.RANGE else ""
        say(f"decided   {about(row.decided_at)} by {row.decided_by or 'an unknown leader'}")
        say(f"row       {kind}run {row.id}")
    say(f"previous  {shown(answer.previous)}")
    say(f"next      {shown(answer.next)}")


def _write_attempt(attempt: AttemptRow) -> None:
    took = f", took {span(attempt.duration_seconds)}" if attempt.duration_seconds is not None else ""
    click.echo()
    say(f"attempt {attempt.attempt} (fence {attempt.id}): {attempt.state.value}{took}")
    say(f"  on {attempt.instance_id}, term {attempt.term}, from {about(attempt.started_at)}")
    if attempt.peak_memory_bytes is not None:
        say(f"  peak memory {attempt.peak_memory_bytes / 2**20:.1f} MiB")
    if attempt.exit_code is not None:
        say(f"  exit code {attempt.exit_code}")
    if attempt.result is not None:
        say(f"  returned {attempt.result}")
    for label, text in (("error", attempt.error), ("output", attempt.output)):
        if text:
            kept = ", the last of it" if label == "output" and attempt.output_truncated else ""
            say(f"  {label}{kept}:")
            lines = "\n".join(f"    {line}" for line in text.rstrip("\n").splitlines())
            say(lines, colours=label == "output")


def _former(standing: Standing) -> str:
    last = standing.last_term
    if last is None:
        return ": no replica has ever led"
    if last.ended_at is not None:
        return f"; {last.leader_id} led until {about(last.ended_at)} (term {last.term}, {last.end_reason})"
    return f"; {last.leader_id} led last (term {last.term}) and let its lease run out"


def _replica_cells(standing: Standing, replica: ReplicaRow, lost_after_seconds: float) -> list[str]:
    age = span(max(0.0, (standing.now - replica.seen_at).total_seconds()))
    live, role = standing.live(replica, lost_after_seconds), role_of(standing, replica)
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
    """Say who asked for the end of a run: a person, the configuration, or a newer tick."""
    by = row.cancel_requested_by
    if by is None:
        return "asked for"
    return f"asked for by {by}" if row.replaced_by is None else f"replaced by {row.replaced_by}"
