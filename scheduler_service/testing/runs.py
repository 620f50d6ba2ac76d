"""What came of a simulation: every tick with its decision, every run with its starts, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scheduler_service import schedule as schedules
from scheduler_service.ledger.history import AttemptRow, History, RunRow, why
from scheduler_service.model import JobSpec, Kind, Reason, State
from scheduler_service.testing.moments import Moment, iso, read_moment, with_local
from scheduler_service.testing.store import Span
from scheduler_service.testing.workers import Given

SHOWN = 20  # ticks in one message
UNDECIDED = "undecided"
_NOT_RUN = (State.MISSED, State.SKIPPED)


@dataclass(frozen=True, slots=True)
class _Words:
    """How a difference is told."""

    headline: str
    missing: str
    surplus: str


_RAN = _Words("did not run as expected", "expected to run, and did not", "not expected to run, and did")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a run."""

    job: str
    scheduled_at: datetime  # the tick
    attempt: int  # 1 for the first start of this run
    at: datetime  # when it began
    ended_at: datetime | None  # None: it still goes on
    state: State
    instance: str
    term: int
    fence: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    error: str | None = None
    result: str | None = None
    output: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A tick that was to run, or a trigger."""

    id: int
    job: str
    scheduled_at: datetime
    due_at: datetime
    kind: Kind
    state: State
    reason: Reason | None
    starts: tuple[Start, ...]

    @property
    def started_at(self) -> datetime | None:
        """When it began for the first time; None if it has not begun."""
        return self.starts[0].at if self.starts else None

    @property
    def ended_at(self) -> datetime | None:
        """When its last start ended; None if it has not begun or still goes on."""
        return self.starts[-1].ended_at if self.starts else None

    @property
    def args(self) -> tuple[Any, ...]:
        """What its last start was given by position."""
        return self.starts[-1].args if self.starts else ()

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """What its last start was given by name."""
        return self.starts[-1].kwargs if self.starts else {}


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of a schedule, and what became of it.

    `decision` is `undecided`, or the state in the ledger: `missed` and `skipped` have a `reason`, the others a `run`.
    """

    job: str
    scheduled_at: datetime
    decision: str
    reason: Reason | None = None
    run: Run | None = None


class Runs:
    """The outcome of a simulation.  Moments are aware UTC; everything is in order, the oldest tick first."""

    def __init__(
        self,
        *,
        history: History,
        specs: Mapping[str, JobSpec],
        spans: Iterable[Span],
        given: Mapping[int, Given],
        configured: Iterable[str],
        end: datetime,
    ) -> None:
        self._configured = frozenset(configured)
        self._history = history
        self._specs = specs
        self._spans = tuple(spans)
        self._end = end
        self._ticks: dict[str, tuple[Tick, ...]] = {}
        self._rows: dict[str, list[RunRow]] = {job_id: [] for job_id in specs}
        self._runs: dict[int, Run] = {}
        for row, attempts in history.everything():
            self._rows[row.job_id].append(row)
            if row.state not in _NOT_RUN:
                self._runs[row.id] = _run(row, attempts, given)

    @property
    def starts(self) -> tuple[Start, ...]:
        """Every start of every job, in the order in which they began."""
        starts = [start for run in self._runs.values() for start in run.starts]
        return tuple(sorted(starts, key=lambda start: start.fence))

    def of(self, job: str) -> tuple[Run, ...]:
        """Return the runs of a job: the ticks that began or still wait to, and what was triggered."""
        return tuple(self._runs[row.id] for row in self._known(job) if row.id in self._runs)

    def ticks(self, job: str) -> tuple[Tick, ...]:
        """Return every tick of a job from the start of the simulation to its end, and what became of it."""
        self._known(job)
        if job not in self._ticks:
            self._ticks[job] = tuple(self._find_ticks(job))
        return self._ticks[job]

    def missed(self, job: str) -> tuple[Tick, ...]:
        """Return the ticks of a job that were decided too late to run."""
        return tuple(tick for tick in self.ticks(job) if tick.decision == State.MISSED)

    def skipped(self, job: str) -> tuple[Tick, ...]:
        """Return the ticks of a job that were decided against: it still ran, or was paused."""
        return tuple(tick for tick in self.ticks(job) if tick.decision == State.SKIPPED)

    def undecided(self, job: str) -> tuple[Tick, ...]:
        """Return the ticks of a job that no leader has decided by the end."""
        return tuple(tick for tick in self.ticks(job) if tick.decision == UNDECIDED)

    def why(self, job: str, at: Moment) -> str:
        """Say what became of a tick and why, in a sentence or two, as `scheduler-service why` does."""
        self._known(job)
        row = self._history.job(job)
        if row is None:
            return "No leader ever had this job in its configuration."
        return why(self._history, row, read_moment(at)).explanation

    # --- assertions

    def assert_ran(self, job: str, *, at: Iterable[Moment]) -> None:
        """Fail unless exactly the ticks `at` began; what was triggered counts with the moment of its trigger."""
        __tracebackhide__ = True
        began = [run.scheduled_at for run in self.of(job) if run.starts]
        self._compare(job, _RAN, [read_moment(one) for one in at], began)

    def assert_missed(self, job: str, *, at: Iterable[Moment], reason: str | None = None) -> None:
        """Fail unless exactly the ticks `at` were missed; with `reason`, only those missed for it count."""
        __tracebackhide__ = True
        self._assert_decided(job, State.MISSED, at, reason)

    def assert_skipped(self, job: str, *, at: Iterable[Moment], reason: str | None = None) -> None:
        """Fail unless exactly the ticks `at` were skipped; with `reason`, only those skipped for it count."""
        __tracebackhide__ = True
        self._assert_decided(job, State.SKIPPED, at, reason)

    def assert_all_succeeded(self, job: str) -> None:
        """Fail unless every tick of a job ran, and every run of it has succeeded in the end."""
        __tracebackhide__ = True
        bad = [tick for tick in self.ticks(job) if tick.decision != State.SUCCEEDED]
        lines = [f"  {self._told(job, tick.scheduled_at)}" for tick in bad]
        lines += [
            f"  triggered at {iso(run.scheduled_at)}: {run.state}"
            for run in self.of(job)
            if run.kind is Kind.MANUAL and run.state is not State.SUCCEEDED
        ]
        if lines:
            raise AssertionError("\n".join([f"not every run of {job} succeeded:", *_some(lines)]))

    def _assert_decided(self, job: str, state: State, at: Iterable[Moment], reason: str | None) -> None:
        __tracebackhide__ = True
        if reason is not None and reason not in [str(one) for one in Reason]:
            raise ValueError(f"{reason!r} is no reason: write one of {', '.join(Reason)}")
        found = [
            tick.scheduled_at
            for tick in self.ticks(job)
            if tick.decision == state and (reason is None or tick.reason == reason)
        ]
        word = str(state) if reason is None else f"{state} ({reason})"
        words = _Words(f"was not {word} as expected", f"expected to be {word}, and was not", f"{word}, unexpectedly")
        self._compare(job, words, [read_moment(one) for one in at], found)

    def _compare(self, job: str, words: _Words, expected: list[datetime], found: list[datetime]) -> None:
        __tracebackhide__ = True
        wanted, there = Counter(expected), Counter(found)
        if wanted == there:
            return
        missing, surplus = sorted((wanted - there).elements()), sorted((there - wanted).elements())
        lines = [f"{job} {words.headline}:"]
        if missing:
            lines.append(f"  {words.missing}:")
            lines += _some([f"    {self._told(job, moment)}" for moment in missing])
        if surplus:
            lines.append(f"  {words.surplus}:")
            lines += _some([f"    {self._told(job, moment)}" for moment in surplus])
        same = sum((wanted & there).values())
        lines.append(f"  as expected: {same} of {len(expected)}")
        raise AssertionError("\n".join(lines))

    def _told(self, job: str, moment: datetime) -> str:
        """Return a tick, what became of it and why, for a message."""
        place = with_local(moment, self._specs[job].schedule.timezone)
        manual = next(
            (run for run in self.of(job) if run.kind is Kind.MANUAL and run.scheduled_at == moment and run.starts), None
        )
        if manual is not None:
            return f"{place}: triggered then, {manual.state}"
        tick = next((tick for tick in self.ticks(job) if tick.scheduled_at == moment), None)
        if tick is None:
            return f"{place}: no tick. {self.why(job, moment)}{self._around(job, moment)}"
        reason = f" ({tick.reason})" if tick.reason is not None else ""
        return f"{place}: {tick.decision}{reason}. {self.why(job, moment)}"

    def _around(self, job: str, moment: datetime) -> str:
        ticks = [tick.scheduled_at for tick in self.ticks(job)]
        before, after = [one for one in ticks if one < moment], [one for one in ticks if one > moment]
        beside = [f"the tick before is {iso(before[-1])}"] if before else []
        beside += [f"the next {iso(after[0])}"] if after else []
        return f" In this simulation {', '.join(beside)}." if beside else " This simulation has no tick of it."

    # --- ticks

    def _known(self, job: str) -> list[RunRow]:
        if job not in self._rows:
            raise ValueError(f"there is no job {job!r} in this simulation; it has {', '.join(sorted(self._rows))}")
        return self._rows[job]

    def _find_ticks(self, job: str) -> Iterator[Tick]:
        rows = [row for row in self._rows[job] if row.kind is not Kind.MANUAL]
        number = 0
        for moment in self._settled(job):
            while number < len(rows) and (rows[number].until or rows[number].scheduled_at) < moment:
                number += 1
            row = rows[number] if number < len(rows) else None
            if row is None or not row.scheduled_at <= moment <= (row.until or row.scheduled_at):
                raise AssertionError(f"the tick of {job} at {iso(moment)} is settled and has no row: a mistake of ours")
            yield Tick(job, moment, row.state.value, row.reason, self._runs.get(row.id))
        state = self._history.job(job)
        if state is not None and state.enabled and job in self._configured:
            for moment in state.schedule.between(state.settled_until, self._end):
                yield Tick(job, moment, UNDECIDED)

    def _settled(self, job: str) -> Iterator[datetime]:
        for span in self._spans:
            if span.job_id == job:
                yield from schedules.parse(span.schedule, span.timezone).between(span.since, span.until)


def _run(row: RunRow, attempts: Iterable[AttemptRow], given: Mapping[int, Given]) -> Run:
    starts = tuple(
        Start(
            job=row.job_id,
            scheduled_at=row.scheduled_at,
            attempt=one.attempt,
            at=one.started_at,
            ended_at=one.finished_at,
            state=one.state,
            instance=one.instance_id,
            term=one.term,
            fence=one.id,
            args=given[one.id].args,
            kwargs=given[one.id].kwargs,
            error=one.error,
            result=one.result,
            output=one.output or "",
        )
        for one in attempts
    )
    return Run(row.id, row.job_id, row.scheduled_at, row.due_at, row.kind, row.state, row.reason, starts)


def _some(lines: list[str]) -> list[str]:
    left_out = len(lines) - SHOWN
    return lines if left_out <= 0 else [*lines[:SHOWN], f"    … and {left_out} more"]
