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
    busy: bool = False,
) -> list[Decision]:
    """Decide all ticks of `schedule` in (after, until] as of `now`, oldest first.

    `schedule` may be an older one than `spec.schedule` (an edit is settled under the stored one).
    `waiting` are older ticks, oldest first, that were to run, never began, and are decided anew
    with the others.  `busy` says that an earlier run of the job is open.
    """
    choice = _Choice(spec, schedule, after, until, now, waiting)
    if spec.catch_up is CatchUp.ALL:
        decisions = choice.all()
    elif spec.catch_up is CatchUp.LATEST:
        decisions = choice.latest()
    else:
        decisions = choice.none()
    if busy and spec.overlap is Overlap.SKIP:
        return [_skipped(decision, after) for decision in decisions]
    return decisions


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


def _skipped(decision: Decision, after: datetime) -> Decision:
    # What would have run is skipped, and so is what would have been folded into it.  Ticks that
    # wait already keep their place: they came first.
    folded = decision.reason is Reason.COALESCED
    if decision.scheduled_at <= after or not (folded or decision.state is State.WAITING):
        return decision
    kind = Kind.RANGE if decision.until is not None else Kind.SCHEDULED
    return Decision(decision.scheduled_at, decision.due_at, kind, State.SKIPPED, Reason.OVERLAP, decision.until)


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
        return Decision(tick, self._due(tick), kind, State.WAITING, Reason.QUEUED)

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
