"""What is to be written for one job: pure, from what the ledger said about it.

    settled_until          paused_at        paused_until             until
         |------ policy -------|---- paused ------|------ policy -------|

The ticks are those of the schedule that the ledger holds; the configured one holds from `until` on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from scheduler_service.ledger import JobState, OpenRun, Settlement
from scheduler_service.model import Decision, JobSpec, Kind, Overlap, Reason, Run, State
from scheduler_service.policy import decide, paused, settle_until
from scheduler_service.schedule import Schedule


def written(spec: JobSpec) -> tuple[str, str]:
    """Return a job's schedule and zone as the ledger holds them."""
    return spec.schedule.canonical, spec.schedule.timezone


def settle_job(
    spec: JobSpec,
    state: JobState,
    past: Schedule,
    runs: Sequence[OpenRun],
    now: datetime,
    *,
    anew: bool,
    most: int,
) -> tuple[Settlement, bool]:
    """Decide the ticks of `past` that came due up to `now`, at most `most` rows; return whether that is all.

    `runs` are the job's open runs.  `anew`: those that wait and never began are decided anew.
    """
    until = _until(spec, state, past, now)
    not_begun = [one.run for one in runs if never_began(one.run)]
    # Runs that a former leader decided and that never began are decided anew, lest a stale one starts.
    waiting = [run for run in not_begun if not _keeps_its_place(spec, run, now)] if anew else []
    anew_ids = {run.id for run in waiting}
    staying = [one for one in runs if one.run.id not in anew_ids]
    decisions, resumed = _decide(spec, state, past, until, now, [run.scheduled_at for run in waiting], len(staying))
    by_tick = {run.scheduled_at: run.id for run in waiting}
    withdrawn = tuple(
        (by_tick[one.scheduled_at], one.reason)
        for one in decisions
        if one.scheduled_at in by_tick and one.state is not State.WAITING
    )
    new = tuple(one for one in decisions if one.scheduled_at not in by_tick)
    if not spec.enabled:
        new = tuple(_not_run(one) for one in new)
    if len(new) > most:
        # Only so far: under the stored schedule, and with the pause that may lie beyond.
        new = new[:most]
        until = new[-1].until or new[-1].scheduled_at
        kept = (state.schedule, state.timezone, state.enabled)
        return Settlement(state, until, *kept, new, withdrawn), False
    superseded, replaced = _replaced(spec, staying, new)
    return Settlement(state, until, *written(spec), spec.enabled, new, withdrawn + superseded, replaced, resumed), True


def _until(spec: JobSpec, state: JobState, past: Schedule, now: datetime) -> datetime:
    """Return up to which moment a job can be settled at `now`."""
    until = max(state.settled_until, settle_until(spec, past, state.settled_until, now))
    if state.paused_at is None or state.paused_at > until:
        return until
    # What a pause covers is skipped whenever jitter makes it due: else the pause would last in the row until then.
    pause_to = now if state.paused_until is None else min(state.paused_until, now)
    return max(until, settle_until(spec, past, pause_to, now))


def _decide(
    spec: JobSpec,
    state: JobState,
    past: Schedule,
    until: datetime,
    now: datetime,
    waiting: Sequence[datetime],
    open_count: int,
) -> tuple[list[Decision], bool]:
    """Return the decisions, and whether the job's pause is over with them."""
    since = state.settled_until
    if state.paused_at is None or state.paused_at >= until:
        decisions = decide(spec, past, since, until, now, waiting=waiting, open_count=open_count)
        return decisions, _came_to_nothing(spec, state, past, now)
    decisions = []
    pause_from = max(since, state.paused_at)
    if pause_from > since:
        decisions = decide(spec, past, since, pause_from, now, waiting=waiting, open_count=open_count)
        open_count += sum(decision.state is State.WAITING for decision in decisions)
        waiting = ()
    resumed_at = state.paused_until
    if resumed_at is None or resumed_at > until:
        return decisions + paused(spec, past, pause_from, until), False
    pause_to = max(pause_from, resumed_at)
    decisions += paused(spec, past, pause_from, pause_to)
    return decisions + decide(spec, past, pause_to, until, now, waiting=waiting, open_count=open_count), True


def _came_to_nothing(spec: JobSpec, state: JobState, past: Schedule, now: datetime) -> bool:
    """Whether a pause is over and had no tick: it need not wait for one of before that jitter makes due later."""
    if state.paused_at is None or state.paused_until is None or state.paused_until > now:
        return False
    return not any(paused(spec, one, state.paused_at, state.paused_until) for one in (past, spec.schedule))


def is_paused(state: JobState, now: datetime) -> bool:
    """Whether a job's pause goes on; one that is over may stay in its state until that is settled."""
    return state.paused_at is not None and (state.paused_until is None or state.paused_until > now)


def never_began(run: Run) -> bool:
    """Whether a run waits for its first attempt, and no person asked for it."""
    return run.state is State.WAITING and run.attempt == 0 and run.kind is not Kind.MANUAL


def is_stale(spec: JobSpec, run: Run, now: datetime) -> bool:
    """Whether a run came due too long ago to begin now."""
    return never_began(run) and now - run.due_at > max(spec.catch_up_window, spec.misfire_grace)


def _keeps_its_place(spec: JobSpec, run: Run, now: datetime) -> bool:
    """Whether a run that waits is left waiting by a new leader: it stands in a queue, and not for too long."""
    return spec.overlap is Overlap.QUEUE and not is_stale(spec, run, now)


def _replaced(
    spec: JobSpec, runs: Sequence[OpenRun], new: Sequence[Decision]
) -> tuple[tuple[tuple[int, Reason], ...], tuple[tuple[int, str], ...]]:
    """Return the open runs that make room for new ones: those that never began, and the others."""
    chosen = [decision for decision in new if decision.state is State.WAITING]
    limit = spec.running_limit
    if spec.overlap is not Overlap.REPLACE or limit is None or not chosen:
        return (), ()
    # A run that a person asked for and that still waits is nobody's predecessor.
    staying = [
        one
        for one in runs
        if not one.cancel_requested
        and one.run.state in (State.WAITING, State.RUNNING)
        and not (one.run.kind is Kind.MANUAL and one.run.state is State.WAITING)
    ]
    leaving = staying[: max(0, len(staying) + len(chosen) - limit)]
    by = f"the tick of {chosen[-1].scheduled_at.isoformat().replace('+00:00', 'Z')}, which replaces it"
    withdrawn = tuple((one.run.id, Reason.COALESCED) for one in leaving if never_began(one.run))
    return withdrawn, tuple((one.run.id, by) for one in leaving if not never_began(one.run))


def _not_run(decision: Decision) -> Decision:
    """Return what becomes of a tick that the job owed when it was disabled."""
    if decision.state is not State.WAITING:
        return decision
    return replace(decision, kind=Kind.SCHEDULED, state=State.MISSED, reason=Reason.POLICY)
