"""What the dispatcher tells of its decisions, as events."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_service.events import Events, listed
from scheduler_service.ledger import Adoption, JobState, Settlement
from scheduler_service.model import Lease, Reason, State


def tell_adoption(
    events: Events, lease: Lease, adoption: Adoption, edited: Sequence[str] = (), disabled: Sequence[str] = ()
) -> None:
    """Tell which jobs differ from what the ledger held; nothing if none does."""
    told = {"new": adoption.added, "enabled": adoption.returned, "edited": edited, "disabled": disabled}
    if named := {name: listed(jobs) for name, jobs in told.items() if jobs}:
        events.emit("jobs_adopted", term=lease.term, **named)
    disables = {state.job_id for state in adoption.states}  # what is configured, and does not run what waits
    for reason, jobs in (
        ("not in the configuration any more", adoption.cancelled.keys() - disables),
        ("disabled in the configuration", adoption.cancelled.keys() & disables),
    ):
        if jobs:
            count = sum(adoption.cancelled[job_id] for job_id in jobs)
            events.emit("runs_cancelled", jobs=listed(jobs), count=count, reason=reason)


def tell_pause(events: Events, state: JobState) -> None:
    """Tell that a job is paused."""
    told = {"until": state.paused_until, "by": state.paused_by, "reason": state.pause_reason}
    events.emit("job_paused", job=state.job_id, **{key: value for key, value in told.items() if value})


def tell_settlement(events: Events, settlement: Settlement) -> None:
    """Tell what became of each tick, and of what makes room for those that run."""
    job_id = settlement.state.job_id
    if settlement.resumed:
        by = settlement.state.resumed_by
        events.emit("job_resumed", job=job_id, **({} if by is None else {"by": by}))
    for run_id, by in settlement.replaced:
        events.emit("run_replaced", job=job_id, run=run_id, by=by)
    for run_id, reason in settlement.withdrawn:
        events.emit("run_withdrawn", job=job_id, run=run_id, reason=str(reason))
    for one in settlement.decisions:
        if one.state is State.WAITING:
            events.emit("tick_chosen", job=job_id, scheduled_at=one.scheduled_at, kind=str(one.kind))
            continue
        span = {"until": one.until} if one.until is not None else {}
        if one.reason is Reason.PAUSED:
            events.emit("ticks_paused", job=job_id, scheduled_at=one.scheduled_at, **span)
        elif one.state is State.SKIPPED:
            events.emit("tick_skipped", job=job_id, scheduled_at=one.scheduled_at, reason=str(one.reason))
        else:
            events.emit("ticks_missed", job=job_id, scheduled_at=one.scheduled_at, reason=str(one.reason), **span)
