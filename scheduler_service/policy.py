"""Decide what becomes of the ticks of one job: run, catch up, coalesce, miss or skip.

Pure: the same ticks, moment and rules give the same decisions on every replica.  Nothing is
walked that need not be: a week of seconds is three segments, not 604,800 ticks.

    after                 window_from           grace_from               until
      |---- outside --------|---- older, inside ----|------ on time --------|
            missed                catch_up or missed        run or coalesced

A tick belongs to the segment in which it came *due* (`scheduled_at` plus jitter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from scheduler_service.model import CatchUp, Decision, JobSpec, Kind, Overlap, Reason, State
from scheduler_service.schedule import Schedule, due_at

RANGE_FROM = 11  # from this many consecutive ticks with one decision on, they become one row
MICROSECOND = timedelta(microseconds=1)


def settle_until(spec: JobSpec, schedule: Schedule, after: datetime, now: datetime) -> datetime:
    """Return up to which moment the job can be settled at `now`.

    That is `now`, or just before the first tick that jitter makes due later.
    """
    if not spec.jitter:
        return now
    for tick in schedule.between(max(after, now - spec.jitter), now):
        if due_at(spec.id, tick, spec.jitter) > now:
            return tick - MICROSECOND
    return now


def decide(
    spec: JobSpec,
    schedule: Schedule,
    after: datetime,
    until: datetime,
    now: datetime,
    *,
    waiting: Sequence[datetime] = (),
    open_count: int = 0,
) -> list[Decision]:
    """Decide all ticks of `schedule` in (after, until] as of `now`, oldest first.

    `schedule` may be an older one than `spec.schedule` (an edit is settled under the stored one).
    `waiting` are older ticks, oldest first, that were to run, never began, and are decided anew
    with the others.  `open_count` is how many earlier runs of the job are open.
    """
    if not waiting and len(ticks := schedule.between(after, until, 2)) < 2:  # as nearly always: nothing, or one on time
        due = [due_at(spec.id, tick, spec.jitter) for tick in ticks]
        if all(moment >= now - spec.misfire_grace for moment in due):
            return _overlapping(spec, [_to_run(*one) for one in zip(ticks, due, strict=True)], after, open_count)
    choice = _Choice(spec, schedule, after, until, now, waiting)
    if spec.catch_up is CatchUp.ALL:
        decisions = choice.all()
    elif spec.catch_up is CatchUp.LATEST:
        decisions = choice.latest()
    else:
        decisions = choice.none()
    return _overlapping(spec, decisions, after, open_count)


def retry_seconds(spec: JobSpec, attempt: int, state: State, asked: float | None = None) -> float | None:
    """Return how long to wait before a run is started again whose start number `attempt` ended in `state`.

    None if it is over for good.  `asked` is the wait that the job itself named.
    """
    retry = spec.retry
    if attempt >= retry.attempts or state not in (State.FAILED, State.TIMED_OUT):
        return None
    if asked is not None:
        return asked
    if ("error" if state is State.FAILED else "timeout") not in retry.on:
        return None
    # In floats, which overflow into an error only far beyond any wait: the exponent is cut first.
    wait = retry.delay.total_seconds() * retry.factor ** min(attempt - 1, 150)
    return min(wait, retry.max_delay.total_seconds())


def paused(spec: JobSpec, schedule: Schedule, after: datetime, until: datetime) -> list[Decision]:
    """Decide the ticks of (after, until], during which the job was paused: one range."""
    first = schedule.after(after)
    if first is None or first > until:
        return []
    (last,) = schedule.latest(after, until)
    due = due_at(spec.id, first, spec.jitter)
    return [Decision(first, due, Kind.RANGE, State.SKIPPED, Reason.PAUSED, last)]


def _overlapping(spec: JobSpec, decisions: list[Decision], after: datetime, open_count: int) -> list[Decision]:
    """Apply the overlap policy to ticks that shall run.  Ticks decided together never skip each other."""
    limit = spec.running_limit
    if limit is None or spec.overlap is Overlap.ALLOW:
        return decisions
    if spec.overlap is Overlap.SKIP:
        return _refused(decisions, after, 0, Reason.OVERLAP) if open_count >= limit else decisions
    if spec.overlap is Overlap.QUEUE:
        return _refused(decisions, after, max(0, limit + spec.queue_limit - open_count), Reason.QUEUE_LIMIT)
    # The newest replace what runs, and each other.
    chosen = [decision for decision in decisions if decision.state is State.WAITING]
    older = set(map(id, chosen[:-limit]))
    return [
        replace(one, kind=Kind.SCHEDULED, state=State.MISSED, reason=Reason.COALESCED) if id(one) in older else one
        for one in decisions
    ]


def _to_run(tick: datetime, due: datetime, kind: Kind = Kind.SCHEDULED) -> Decision:
    return Decision(tick, due, kind, State.WAITING, Reason.QUEUED)


def _refused(decisions: list[Decision], after: datetime, room: int, reason: Reason) -> list[Decision]:
    """Skip what finds no room, and what would have been folded into that; the first `room` find some.

    Ticks that wait already keep their place: they came first.
    """
    left = []
    for decision in decisions:
        if decision.state is State.WAITING and room > 0:
            room -= 1
            left.append(decision)
        elif decision.scheduled_at <= after:
            left.append(decision)
        elif decision.state is State.WAITING or (decision.reason is Reason.COALESCED and room == 0):
            kind = Kind.RANGE if decision.until is not None else Kind.SCHEDULED
            left.append(replace(decision, kind=kind, state=State.SKIPPED, reason=reason))
        else:
            left.append(decision)
    return left


class _Choice:
    """The ticks of one job, cut where a decision changes."""

    def __init__(
        self,
        spec: JobSpec,
        schedule: Schedule,
        after: datetime,
        until: datetime,
        now: datetime,
        waiting: Sequence[datetime],
    ) -> None:
        self._spec = spec
        self._schedule = schedule
        self._waiting = [tick for tick in waiting if tick <= after]
        self._after = after
        self._start = self._waiting[0] - MICROSECOND if self._waiting else after
        self._end = until
        self._on_time_after = self._last_due_before(now - spec.misfire_grace)
        self._window_after = self._last_due_before(now - max(spec.catch_up_window, spec.misfire_grace))

    def none(self) -> list[Decision]:
        """Run the newest tick that is on time; everything older was missed."""
        newest = self._latest(self._on_time_after, self._end, 1)
        return [*self._missed(self._start, self._on_time_after, Reason.POLICY), *self._run_last(newest, Kind.SCHEDULED)]

    def latest(self) -> list[Decision]:
        """Run the newest tick; late ones only while they are inside the window."""
        newest = self._latest(self._on_time_after, self._end, 1)
        if newest:
            return [
                *self._missed(self._start, self._on_time_after, Reason.COALESCED),
                *self._run_last(newest, Kind.SCHEDULED),
            ]
        newest = self._latest(self._window_after, self._on_time_after, 1)
        return [
            *self._missed(self._start, self._window_after, Reason.WINDOW),
            *self._run_last(newest, Kind.CATCH_UP, self._window_after),
        ]

    def all(self) -> list[Decision]:
        """Run every tick that is on time, and the newest `catch_up_limit` of those inside the window."""
        chosen = self._latest(self._window_after, self._on_time_after, self._spec.catch_up_limit)
        limit_end = chosen[0] - MICROSECOND if chosen else self._on_time_after
        return [
            *self._missed(self._start, self._window_after, Reason.WINDOW),
            *self._missed(self._window_after, limit_end, Reason.LIMIT),
            *(self._run(tick, Kind.CATCH_UP) for tick in chosen),
            *(self._run(tick, Kind.SCHEDULED) for tick in self._between(self._on_time_after, self._end, None)),
        ]

    def _run_last(self, newest: list[datetime], kind: Kind, after: datetime | None = None) -> list[Decision]:
        if not newest:
            return []
        start = self._on_time_after if after is None else after
        return [*self._missed(start, newest[0] - MICROSECOND, Reason.COALESCED), self._run(newest[0], kind)]

    def _run(self, tick: datetime, kind: Kind) -> Decision:
        return _to_run(tick, self._due(tick), kind)

    def _missed(self, after: datetime, until: datetime, reason: Reason) -> list[Decision]:
        # Ticks that have a row already keep it, so only new ticks can be folded into a range.
        rows = [
            Decision(tick, self._due(tick), Kind.SCHEDULED, State.MISSED, reason)
            for tick in self._waiting
            if after < tick <= until
        ]
        after = max(after, self._after)
        ticks = self._schedule.between(after, until, RANGE_FROM) if after < until else []
        if len(ticks) < RANGE_FROM:
            return rows + [Decision(tick, self._due(tick), Kind.SCHEDULED, State.MISSED, reason) for tick in ticks]
        (last,) = self._schedule.latest(after, until)
        return [*rows, Decision(ticks[0], self._due(ticks[0]), Kind.RANGE, State.MISSED, reason, last)]

    def _between(self, after: datetime, until: datetime, limit: int | None) -> list[datetime]:
        held = [tick for tick in self._waiting if after < tick <= until]
        return held + self._schedule.between(max(after, self._after), until, limit)

    def _latest(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        if until <= after:
            return []
        new = self._schedule.latest(max(after, self._after), until, count) if until > self._after else []
        held = [tick for tick in self._waiting if after < tick <= until]
        return (held + new)[-count:]

    def _last_due_before(self, moment: datetime) -> datetime:
        """Return the boundary behind which every tick came due at `moment` or later."""
        jitter = self._spec.jitter
        for tick in self._schedule.between(moment - jitter, moment - MICROSECOND) if jitter else ():
            if self._due(tick) >= moment:
                moment = tick
                break
        return min(max(moment - MICROSECOND, self._start), self._end)

    def _due(self, tick: datetime) -> datetime:
        return due_at(self._spec.id, tick, self._spec.jitter)
