"""The answers of the ledger as JSON documents, for commands and for the API.

Their keys are a promise to scripts: keys may be added, none is taken away or changes its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from scheduler_service.ledger.history.values import (
    AttemptRow,
    JobRow,
    Leader,
    Pause,
    ReplicaRow,
    RunRow,
    Standing,
)
from scheduler_service.ledger.history.why import Answer
from scheduler_service.ledger.requests import NotPaused, Resumed
from scheduler_service.moments import iso

Document = dict[str, Any]


def status_document(standing: Standing, lost_after_seconds: float, version: str) -> Document:
    """Return what `status --json` writes."""
    leader = standing.leader
    return {
        "now": iso(standing.now),
        "version": version,
        "lock_id": standing.lock_id,
        "leader": leader_document(leader) if leader is not None else None,
        "config_drift": bool(standing.drifted(lost_after_seconds)),
        "replicas": [replica_document(standing, replica) for replica in standing.replicas],
        "jobs": [job_document(job, standing.now, job.next_tick(standing.now)) for job in standing.jobs],
    }


def leader_document(leader: Leader) -> Document:
    """Return what `status --json` has under `leader`."""
    return {
        "instance_id": leader.instance_id,
        "term": leader.term,
        "acquired_at": iso(leader.acquired_at),
        "expires_at": iso(leader.expires_at),
        "crash_detection": leader.crash_detection,
    }


def replica_document(standing: Standing, replica: ReplicaRow) -> Document:
    """Return one element of what `status --json` has under `replicas`."""
    return {
        "instance_id": replica.instance_id,
        "role": role_of(standing, replica),
        "host": replica.host,
        "pid": replica.pid,
        "version": replica.version,
        "config_hash": replica.config_hash,
        "seen_at": iso(replica.seen_at),
    }


def job_document(job: JobRow, now: datetime, following: datetime | None) -> Document:
    """Return one element of what `status --json` has under `jobs`; `following` is its next tick."""
    last, pause = job.last, job.paused(now)
    return {
        "job": job.job_id,
        "schedule": job.canonical,
        "timezone": job.timezone,
        "enabled": job.enabled,
        "paused": pause_document(pause) if pause is not None else None,
        "next": iso(following),
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


def resumed_document(job_id: str, answer: Resumed | NotPaused) -> Document:
    """Return what `resume --json` writes; `ended` is the pause that ended just now."""
    ended = None
    if isinstance(answer, Resumed):
        ended = pause_document(Pause(answer.since, answer.at, answer.by, answer.reason))
    return {"job": job_id, "paused": None, "resumed": ended is not None, "ended": ended}


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


def role_of(standing: Standing, replica: ReplicaRow) -> str:
    """Return `leader` or `standby`."""
    leads = standing.leader is not None and standing.leader.instance_id == replica.instance_id
    return "leader" if leads else "standby"
