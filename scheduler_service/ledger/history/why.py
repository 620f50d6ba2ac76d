"""Say what became of one tick, and why, in a sentence or two.

The decision is one of these:

a row has it            its state: it ran, waits, was missed or was skipped
not_a_tick              the schedule has no such moment
future                  it has not come yet
not_settled             it came, and no leader has decided it so far
not_accountable         it came before the job was there, or enabled
not_recorded            it was settled, and its row is gone
unreadable              this version, or its time zone data, cannot read the job's schedule, and there is no row of it

Only the database's tables are asked, so a reason that they do not hold is named as a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler_service.ledger.history.reading import History
from scheduler_service.ledger.history.values import AttemptRow, JobRow, RunRow
from scheduler_service.model import Kind, Reason, State
from scheduler_service.schedule import Schedule, ScheduleError

MICROSECOND = timedelta(microseconds=1)
LOOK_BACK = timedelta(days=366 * 8)  # 29 February is that far from the next, at most
PROMPT_SECONDS = 1.0  # a leader at work decides a tick within
SHOWN_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided for the tick of `job` at `scheduled_at`; `previous` and `next` are the ticks beside it."""

    job: str
    scheduled_at: datetime
    decision: str
    explanation: str
    previous: datetime | None
    next: datetime | None
    row: RunRow | None = None


def why(history: History, job: JobRow, moment: datetime) -> Answer:
    """Answer for the tick of `job` at `moment`.  Raises StoreUnavailable when the database did not answer."""
    try:
        schedule = job.schedule
    except ScheduleError as error:
        return _without_schedule(history, job, moment, error)
    is_tick = bool(schedule.between(moment - MICROSECOND, moment))
    row = history.row_at(job.job_id, moment)
    if row is not None and (is_tick or row.scheduled_at == moment):
        decision, explanation = row.state.value, _explain_row(history, job, row, moment)
    else:
        row = None
        decision, explanation = _explain_absence(history, job, schedule, moment, is_tick=is_tick)
    before = schedule.latest(moment - LOOK_BACK, moment - MICROSECOND)
    return Answer(
        job=job.job_id,
        scheduled_at=moment,
        decision=decision,
        explanation=explanation,
        previous=before[-1] if before else None,
        next=schedule.after(moment),
        row=row,
    )


def _without_schedule(history: History, job: JobRow, moment: datetime, error: ScheduleError) -> Answer:
    row = history.row_at(job.job_id, moment)
    if row is not None and row.scheduled_at == moment:
        return Answer(job.job_id, moment, row.state.value, _explain_row(history, job, row, moment), None, None, row)
    explanation = f"The schedule that the leader stored for the job cannot be read here: {error}."
    return Answer(job.job_id, moment, "unreadable", explanation, None, None)


def _explain_absence(
    history: History, job: JobRow, schedule: Schedule, moment: datetime, *, is_tick: bool
) -> tuple[str, str]:
    if not is_tick:
        return "not_a_tick", f"The schedule '{job.canonical}' ({schedule.timezone}) has no tick at {_iso(moment)}."
    now = history.now()
    if moment > job.settled_until:
        decision = "future" if moment > now else "not_settled"
        return decision, _explain_unsettled(history, job, moment, now)
    if moment <= job.accountable_from:
        return "not_accountable", (
            f"The job owes nothing up to {_about(job.accountable_from)}: it was new then, or enabled again, or back in "
            "the configuration after a long absence."
        )
    return "not_recorded", (
        "The tick was settled, but there is no row of it: it was pruned (the history setting), or the job had another "
        "schedule then."
    )


def _explain_unsettled(history: History, job: JobRow, moment: datetime, now: datetime) -> str:
    if (left_at := history.left_at(job.job_id)) is not None:
        return (
            f"The job is not in the configuration any more: a leader last had it at {_about(left_at)}. Nobody decides "
            "its ticks unless it comes back."
        )
    if not job.enabled:
        return "The job is disabled: its ticks are not decided."
    if job.pause is not None and job.pause.holds(moment):
        pause = job.pause
        until = f"until {_about(pause.until)}" if pause.until is not None else "until it is resumed"
        by = f" by {pause.by}" if pause.by is not None else ""
        reason = f" ({pause.reason})" if pause.reason is not None else ""
        return f"The job is paused since {_about(pause.at)}{by}{reason}, {until}: the tick will be skipped."
    if moment > now:
        return f"The tick comes in {_span((moment - now).total_seconds())}."
    return (
        f"The tick came {_span((now - moment).total_seconds())} ago and is not decided yet: the job is settled up to "
        f"{_about(job.settled_until)}. The next leader decides it, or this one as soon as an earlier run lets it."
    )


def _explain_row(history: History, job: JobRow, row: RunRow, moment: datetime) -> str:
    if row.state is State.MISSED:
        return _explain_missed(history, row, moment)
    if row.state is State.SKIPPED:
        return _explain_skipped(history, row)
    text = ""
    if row.kind is Kind.CATCH_UP:
        text = f"The tick was missed at first ({_absence(history, row, moment)}) and caught up with. "
    found = history.run(row.id) if row.attempt else None
    attempts = found[1] if found is not None else ()
    if row.state is State.WAITING:
        return text + _ends(attempts) + _explain_waiting(history, job, row)
    if row.state is State.CANCELLED and (not attempts or attempts[-1].state is not State.CANCELLED):
        again = " again" if attempts else ""
        return f"{text}{_ends(attempts)}It was cancelled before it began{again}{_on_request(row)}."
    return text + _ends(attempts[:-1]) + _explain_run(row)


def _explain_waiting(history: History, job: JobRow, row: RunRow) -> str:
    waits_for = {
        Reason.RETRY: "It waits to be tried again",
        Reason.RERUN: "It waits to be run again (on_crash 'rerun')",
        Reason.REQUESTED: "It was asked for and waits to be started",
    }
    start = waits_for.get(row.reason or Reason.QUEUED, "It was decided to run and waits to be started")
    if (left_at := history.left_at(job.job_id)) is not None:
        return (
            f"{start}, but its job is not configured: a leader last had it at {_about(left_at)}. It goes on "
            "waiting for a leader that has it, and is cancelled when the job has been away for ten minutes."
        )
    return f"{start}: due at {_iso(row.due_at)}, as soon as a worker, and the job's earlier run, leave room."


def _ends(attempts: Sequence[AttemptRow]) -> str:
    """Say how earlier attempts ended: why the run is started more than once."""
    ends = [
        f"attempt {one.attempt} {'was lost with its replica' if one.state is State.LOST else _ending(one)}"
        for one in attempts
    ]
    if len(ends) > SHOWN_ATTEMPTS:
        ends = [f"{len(ends) - SHOWN_ATTEMPTS} attempts came before", *ends[-SHOWN_ATTEMPTS:]]
    text = ", then ".join(ends)
    return f"{text[:1].upper()}{text[1:]}. " if text else ""


def _explain_run(row: RunRow) -> str:
    if row.started_at is None:
        return f"It is {row.state.value}, and there is no attempt of it."
    delay = _span(max(0.0, row.delay_seconds or 0.0))
    begun = f"on {row.instance_id} at {_about(row.started_at)}, {delay} after it was due"
    attempt = f" (attempt {row.attempt})" if row.attempt > 1 else ""
    if row.state is State.RUNNING:
        asked = f", and was asked to stop{_on_request(row)}" if row.cancel_requested_at is not None else ""
        return f"It runs{attempt} since it was started {begun}{asked}."
    if row.state is State.LOST:
        return (
            f"It was started{attempt} {begun}, and its replica was not heard of again: it was marked lost, "
            "and whether it did its work is not known."
        )
    cancelled = _on_request(row) if row.state is State.CANCELLED else ""
    return f"It was started{attempt} {begun}, and {_ending(row)}{cancelled}."


def _ending(one: RunRow | AttemptRow) -> str:
    """Say how an attempt ended; of a run, how its newest one did."""
    took = f"after {_span(one.duration_seconds)}" if one.duration_seconds is not None else "at an unknown time"
    endings = {
        State.SUCCEEDED: f"ended well {took}",
        State.TIMED_OUT: f"was stopped by its time-out {took}",
        State.CANCELLED: f"was cancelled {took}",
    }
    return endings.get(one.state, f"failed {took}{_cause(one)}")


def _on_request(row: RunRow) -> str:
    by = row.cancel_requested_by
    if row.cancel_requested_at is None or by is None:
        return ""
    if row.replaced_by is not None:
        return f": it was replaced by {row.replaced_by} (overlap 'replace')"
    return f" because {by} asked for it at {_about(row.cancel_requested_at)}"


def _explain_missed(history: History, row: RunRow, moment: datetime) -> str:
    if (replaced := _replaced(history, row, moment)) is not None:
        return replaced
    late = _span((row.decided_at - moment).total_seconds())
    explain: dict[Reason | None, Callable[[], str]] = {
        Reason.COALESCED: lambda: _folded(history, row, moment),
        Reason.POLICY: lambda: "catch_up 'none' runs nothing that is late.",
        Reason.WINDOW: lambda: f"decided {late} after it was due, it was older than the job's catch_up_window.",
        Reason.LIMIT: lambda: "newer missed ticks used up the job's catch_up_limit.",
    }
    rule = explain.get(row.reason, lambda: f"reason: {row.reason}.")()
    return f"The tick was missed: {_absence(history, row, moment)}; {rule}"


def _replaced(history: History, row: RunRow, moment: datetime) -> str | None:
    """Say which tick took the place of one that waited for the run that it was to replace; None if none did."""
    other = history.run_at_work(row.job_id, moment)
    if row.reason is not Reason.COALESCED or other is None or other.replaced_by is None:
        return None
    into = history.run_after(row.job_id, moment, row.decided_at)
    newer = f"the tick of {_iso(into.scheduled_at)}, which is run {into.id}," if into is not None else "a newer tick"
    return (
        f"The tick came while run {other.id} went on, waited for its end, and was missed because {newer} took its "
        "place (overlap 'replace')."
    )


def _folded(history: History, row: RunRow, moment: datetime) -> str:
    into = history.run_after(row.job_id, moment, row.decided_at)
    if into is None:
        return "it was folded into a later tick (coalesced)."
    return f"it was folded into the tick of {_iso(into.scheduled_at)} (coalesced), which is run {into.id}."


def _explain_skipped(history: History, row: RunRow) -> str:
    if row.reason is Reason.PAUSED:
        by = f" by {row.requested_by}" if row.requested_by else ""
        return f"The tick was skipped because the job was paused{by}."
    if row.reason is Reason.QUEUE_LIMIT:
        return "The tick was skipped because as many runs as the job's queue_limit waited already (overlap 'queue')."
    other = history.run_at_work(row.job_id, row.due_at)
    still = "an earlier run"
    if other is not None and other.kind is Kind.MANUAL:
        still = f"run {other.id}, which {other.requested_by or 'somebody'} asked for,"
    elif other is not None:
        still = f"run {other.id}, of the tick of {_iso(other.scheduled_at)},"
    return f"The tick was skipped because {still} was not over when it came due (overlap 'skip')."


def _absence(history: History, row: RunRow, moment: datetime) -> str:
    """Say why the tick was not decided when it came due."""
    late_seconds = (row.decided_at - moment).total_seconds()
    then, later = history.terms_around(max(moment, row.due_at) if row.until is None else moment)
    if later is not None and later.acquired_at <= row.decided_at:
        elected = f"{later.leader_id} was elected at {_about(later.acquired_at)}"
        if then is None:
            return f"no replica led before {elected}"
        if then.ended_at is not None and then.ended_at <= moment:
            return f"no replica led from {_about(then.ended_at)} until {elected}"
        return f"{then.leader_id}, which led before, did not decide it, and {elected}"
    if late_seconds <= PROMPT_SECONDS:
        return f"several ticks came due together and were decided at {_about(row.decided_at)}"
    leader = then.leader_id if then is not None else row.decided_by
    decided = f"{leader} led, but decided it {_span(late_seconds)} after it was due"
    other = history.run_at_work(row.job_id, moment)
    if other is not None and other.state is State.LOST:
        return f"{decided}, because run {other.id} on {other.instance_id}, which fell silent, had to be waited for"
    return f"{decided} (as when the database does not answer)"


def _cause(row: RunRow | AttemptRow) -> str:
    lines = (row.error or "").strip().splitlines()
    if lines:
        return f": {lines[-1].strip()}"
    return f" with exit code {row.exit_code}" if row.exit_code is not None else ""


def _iso(moment: datetime) -> str:
    spec = "seconds" if moment.microsecond == 0 else "milliseconds" if moment.microsecond % 1000 == 0 else "auto"
    return moment.isoformat(timespec=spec).replace("+00:00", "Z")


def _about(moment: datetime) -> str:
    """Return a moment that is no tick: to the millisecond."""
    return _iso(moment.replace(microsecond=moment.microsecond // 1000 * 1000))


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{count}{unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (left, "s")) if count]
    return " ".join(parts[:2])
