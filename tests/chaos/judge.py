"""Records and diary → violations: a pure function.

What a job allows is known from its definition; what was asked of it, from the diary.  Nothing here asks
the code under test.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.chaos.diary import LONG_AGO, Diary, Edit
from tests.chaos.jobs import Job
from tests.chaos.records import Attempt, Records, Run
from tests.faults.evidence import EPOCH, MICROSECOND, Effect

# Between the statement of a leader that gives a run up and its word in the log, it can be killed.
UNTOLD = timedelta(seconds=1)
UNENDED = ("cancelled", "timed_out", "lost")  # what may leave a beginning without an end: it was made to stop


@dataclass(frozen=True)
class Violation:
    """A promise that was not kept."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@dataclass(frozen=True)
class Verdict:
    """What is wrong, and what became of everything."""

    violations: Sequence[Violation]
    decisions: Mapping[str, int]  # state and reason → ticks
    manual: Mapping[str, int]  # state → triggered runs
    attempts: Mapping[str, int]  # state → attempts
    tick_count: int


def judge(records: Records, diary: Diary, *, lost_after_seconds: float) -> Verdict:
    """Compare what happened with what is allowed.

    Where history was pruned, a job answers for what came after its oldest row, and for what is too new to be pruned.
    """
    return _Judge(records, diary, lost_after_seconds).verdict()


@dataclass
class _Judge:
    records: Records
    diary: Diary
    lost_after_seconds: float
    found: list[Violation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jobs = {job.name: job for job in self.diary.jobs}
        self.runs = {run.id: run for run in self.records.runs}
        self.attempts = {attempt.id: attempt for attempt in self.records.attempts}
        self.attempts_of: dict[int, list[Attempt]] = defaultdict(list)
        for attempt in self.records.attempts:
            self.attempts_of[attempt.run_id].append(attempt)
        self.begun: dict[int, list[int]] = defaultdict(list)  # fence → numbers of lines
        self.ended: Counter[int] = Counter()
        for number, line in enumerate(self.records.effects, 1):
            if line.what == "begin":
                self.begun[line.fence].append(number)
            else:
                self.ended[line.fence] += 1
        self.lines_of: dict[str, list[tuple[int, Effect]]] = defaultdict(list)
        for number, line in enumerate(self.records.effects, 1):
            self.lines_of[line.job].append((number, line))
        self.rows_of: dict[str, list[Run]] = defaultdict(list)
        for run in self.records.runs:
            if run.kind != "manual":
                self.rows_of[run.job].append(run)
        self.lost = {one.id for one in self.records.attempts if one.state == "lost"}
        self.lost |= {one.id for one in self.records.attempts if (one.run_id, one.number) in self.records.told_lost}
        self.oldest = {run.job: run.id for run in reversed(self.records.runs)}
        # Of a pruned run it is not known which of its attempts was given up.
        given_up = {run_id for run_id, _ in self.records.told_lost}
        self.lost |= {
            line.fence
            for line in self.records.effects
            if line.fence not in self.attempts and line.run_id in given_up and self.is_pruned(line)
        }
        self.decisions: Counter[str] = Counter()
        self.tick_count = 0

    def verdict(self) -> Verdict:
        for job in self.jobs.values():
            self.check_ticks(job)
            self.check_pauses(job)
            self.check_due(job)
        for run in self.records.runs:
            self.check_run(run)
        self.check_attempts()
        self.check_effects()
        for job in self.jobs.values():
            self.check_overlap(job)
            self.check_order(job)
        self.check_terms()
        self.check_losses()
        self.check_requests()
        self.found += [Violation("crash", what) for what in (*self.records.crashes, *self.diary.troubles)]
        manual = Counter(run.state for run in self.records.runs if run.kind == "manual")
        states = Counter(attempt.state for attempt in self.records.attempts)
        return Verdict(self.found, self.decisions, manual, states, self.tick_count)

    def wrong(self, rule: str, what: str) -> None:
        self.found.append(Violation(rule, what))

    # --- I5, I8: every tick is in exactly one row

    def check_ticks(self, job: Job) -> None:
        span = self.records.spans.get(job.name)
        if span is None:
            self.wrong("undecided", f"{job.name}: the ledger does not know it")
            return
        rows = self.rows_of[job.name]
        after, until = span.accountable_from, span.settled_until
        if self.diary.ended_at is not None:
            # Whatever was due then must have been settled, not only whatever the service calls settled.
            until = max(until, self.diary.ended_at)
        if self.diary.pruned_before is not None:
            # The oldest go first, so what is missing between two rows was never there.
            oldest = min((run.scheduled_at - MICROSECOND for run in rows), default=self.diary.pruned_before)
            after = max(after, min(oldest, self.diary.pruned_before))
        required, possible = self.expected(job.name, after, until)
        decided: dict[datetime, list[Run]] = defaultdict(list)
        for run in rows:
            if run.until is None:
                decided[run.scheduled_at].append(run)
                continue
            if run.kind != "range":
                self.wrong("row", f"{_shown(run)} is no range and ends at {run.until}")
            for tick in possible:
                if run.scheduled_at <= tick <= run.until:
                    decided[tick].append(run)
            if not {run.scheduled_at, run.until} <= possible:
                self.wrong("not due", f"{_shown(run)} begins or ends at no tick")
        for tick in sorted(required - decided.keys()):
            self.wrong("undecided", f"{job.name} {tick} was due and is in no row")
        for tick in sorted(decided.keys() - possible):
            self.wrong("not due", f"{job.name} {tick} is in a row and was not due: {_shown(decided[tick][0])}")
        for tick, several in decided.items():
            if len(several) > 1:
                self.wrong("decided twice", f"{job.name} {tick} is in {', '.join(map(_shown, several))}")
            run = several[0]
            self.decisions[f"{run.state} {run.reason}" if run.reason else run.state] += 1
        self.tick_count += len(decided)
        self.decided_ticks, self.required_ticks = decided, required

    def expected(self, job: str, after: datetime, until: datetime) -> tuple[set[datetime], set[datetime]]:
        """Return which ticks must be decided, and which may be: an edit is taken up at a moment not known exactly."""
        versions = self.diary.versions(job)
        required: set[datetime] = set()
        possible: set[datetime] = set()
        for since, to, current in _stretches(versions, after, until, self.longest_jitter(job)):
            sets = [set(edit.job.when.ticks(since, to)) for edit in current]
            required |= set.intersection(*sets)
            possible |= set.union(*sets)
        return required, possible

    def longest_jitter(self, job: str) -> timedelta:
        """Return by how much later than its schedule has it a tick of a job came due at most."""
        return timedelta(seconds=max(edit.job.jitter for edit in self.diary.versions(job)))

    # --- a tick waits for its jitter, and no longer

    def check_due(self, job: Job) -> None:
        late = self.longest_jitter(job.name)
        for run in self.rows_of[job.name]:
            attempts = self.attempts_of[run.id]
            if job.starts_limit == 1 and not run.scheduled_at <= run.due_at <= run.scheduled_at + late:
                self.wrong("due", f"{_shown(run)} was due at {run.due_at}, with a jitter of at most {late}")
            if job.starts_limit == 1 and any(one.started_at < run.due_at for one in attempts):
                self.wrong("due", f"{_shown(run)} was due at {run.due_at}, and began before")
            # What is skipped in a pause need not come due; nothing else is decided before.
            refused = not attempts and run.state in ("missed", "skipped") and run.reason != "paused"
            if refused and run.decided_at < run.due_at:
                self.wrong("due", f"{_shown(run)} was due at {run.due_at}, and decided at {run.decided_at}")

    # --- a pause swallows exactly what came due in it

    def check_pauses(self, job: Job) -> None:
        pauses = [one for one in self.diary.pauses if one.job == job.name]
        for tick, several in self.decided_ticks.items():
            is_paused = several[0].reason == "paused"
            surely = any(one.paused_at < tick <= _or_later(one.resumed_after) for one in pauses)
            maybe = any(one.paused_at < tick <= _or_later(one.resumed_before) for one in pauses)
            if is_paused and not maybe:
                self.wrong("pause", f"{job.name} {tick} was swallowed by no pause: {_shown(several[0])}")
            # An edit reaches back to a tick that jitter makes due later: of the new schedule, it was in no pause.
            surely = surely and (tick in self.required_ticks or not self.longest_jitter(job.name))
            if surely and not is_paused:
                self.wrong("pause", f"{job.name} {tick} came due in a pause: {_shown(several[0])}")

    # --- what became of a run

    def check_run(self, run: Run) -> None:
        job = self.jobs.get(run.job)
        if job is None:
            self.wrong("row", f"{_shown(run)} is of no job")
            return
        attempts = self.attempts_of[run.id]
        if problem := self.not_allowed(job, run, attempts):
            self.wrong("policy", f"{_shown(run)}: {problem}")
        if run.state in ("missed", "skipped") and (attempts or run.reason is None):
            self.wrong("row", f"{_shown(run)} has {len(attempts)} attempts")
        if run.slot_held:
            self.wrong("slot", f"{_shown(run)} holds a slot after everybody has stopped")
        if run.state == "running" or any(one.state == "running" for one in attempts):
            self.wrong("open", f"{_shown(run)} goes on after everybody has stopped")
        if run.state in ("succeeded", "failed", "timed_out") and not attempts:
            self.wrong("row", f"{_shown(run)} has no attempt")
        if [one.number for one in attempts] != list(range(1, len(attempts) + 1)):
            self.wrong("attempts", f"{_shown(run)} has the attempts {[one.number for one in attempts]}")
        if len(attempts) > job.starts_limit:
            self.wrong("starts", f"{_shown(run)} was started {len(attempts)} times, allowed are {job.starts_limit}")

    def not_allowed(self, job: Job, run: Run, attempts: Sequence[Attempt]) -> str | None:
        """Say what a job's policies have against the state of a run, or None."""
        lost = any(one.id in self.lost for one in attempts)
        cancelled_for = (
            run.id in self.diary.cancelled_runs
            or job.overlap == "replace"
            or lost  # a replica that thaws finds its run closed, and does not begin it
            or job.on_leadership_lost == "cancel"
        )
        allowed = {
            ("succeeded", None): not job.fails,
            ("failed", None): job.fails,
            ("timed_out", None): job.timeout is not None,
            ("cancelled", None): cancelled_for,
            ("lost", None): lost,
            ("waiting", "queued"): True,
            ("waiting", "requested"): run.kind == "manual",
            ("waiting", "retry"): job.starts > 1,
            ("waiting", "rerun"): job.on_crash == "rerun",
            ("missed", "policy"): job.catch_up == "none",
            ("missed", "coalesced"): job.catch_up != "all" or job.overlap == "replace",
            ("missed", "window"): job.catch_up_window is not None,
            ("missed", "limit"): job.catch_up == "all",
            ("skipped", "overlap"): job.overlap == "skip",
            ("skipped", "queue_limit"): job.overlap == "queue",
            ("skipped", "paused"): any(one.job == job.name for one in self.diary.pauses),
        }
        if not allowed.get((run.state, run.reason), False):
            return "its job's policies do not allow that"
        if run.kind == "catch_up" and job.catch_up == "none":
            return "it is caught up, and its job catches nothing up"
        return None

    # --- I3: an attempt begins at most once

    def check_attempts(self) -> None:
        for fence, lines in self.begun.items():
            if len(lines) > 1:
                who = self.where(self.attempts[fence]) if fence in self.attempts else f"attempt {fence}"
                self.wrong("started twice", f"{who} began {len(lines)} times, in lines {lines}")
        for attempt in self.records.attempts:
            lines = self.begun.get(attempt.id, [])
            if attempt.state in ("succeeded", "failed") and (len(lines), self.ended[attempt.id]) != (1, 1):
                self.wrong(
                    "effects",
                    f"{self.where(attempt)} began {len(lines)} times and ended {self.ended[attempt.id]} times",
                )
        for attempts in self.attempts_of.values():
            for one, following in itertools.pairwise(attempts):
                if one.finished_at is None:
                    self.wrong("attempts", f"{self.where(following)} was started before {one.id} was closed")

    def check_effects(self) -> None:
        for number, line in enumerate(self.records.effects, 1):
            attempt = self.attempts.get(line.fence)
            if attempt is None:
                # Begun and taken back is not possible: an attempt is deleted only when it never began.
                if not self.is_pruned(line):
                    self.wrong("effects", f"line {number} is of no attempt: {line}")
                continue
            run = self.runs.get(attempt.run_id)
            same = run is not None and (line.run_id, line.job, line.scheduled_at) == (run.id, run.job, run.scheduled_at)
            if not same:
                self.wrong("effects", f"line {number} says {line}, the ledger {self.where(attempt)}")
            killed = self.diary.killed.get(attempt.instance)
            if killed is not None and line.at > killed[1] + self.lost_after_seconds:
                self.wrong(
                    "outlives", f"line {number} was written {line.at - killed[1]:.2f} s after its replica was killed"
                )

    # --- I7: never more at once than allowed

    def check_overlap(self, job: Job) -> None:
        limit = job.running_limit
        if limit is None:
            return
        going: dict[int, tuple[int, Effect]] = {}
        for number, line in self.lines_of[job.name]:
            # Who was given up may go on unseen: that is not promised.
            if line.fence in self.lost:
                continue
            if line.what == "end":
                going.pop(line.fence, None)
                continue
            if len(going) >= limit:
                self.wrong(
                    "overlap",
                    f"line {number}, {line}, began while as many as are allowed went on: "
                    + "; ".join(f"line {other}, {it}" for other, it in going.values()),
                )
            if self.ended[line.fence] or not self.is_cut_short(line.fence):
                going[line.fence] = (number, line)

    def is_pruned(self, line: Effect) -> bool:
        before = self.diary.pruned_before
        return (
            before is not None
            and line.scheduled_at < before
            and line.run_id < self.oldest.get(line.job, line.run_id + 1)
        )

    def is_cut_short(self, fence: int) -> bool:
        attempt = self.attempts.get(fence)
        return attempt is None or attempt.state in UNENDED

    def check_order(self, job: Job) -> None:
        """A queue is served in the order in which its ticks came due."""
        if job.overlap != "queue" or job.running_limit != 1 or job.starts_limit > 1:
            return
        last: tuple[int, Effect] | None = None
        for number, line in self.lines_of[job.name]:
            run = self.runs.get(line.run_id)
            if line.what != "begin" or run is None or run.kind == "manual":
                continue
            if last is not None and line.scheduled_at < last[1].scheduled_at and line.fence not in self.lost:
                self.wrong("order", f"line {number}, {line}, began after line {last[0]}, {last[1]}")
            last = (number, line)

    # --- I2: a term is one replica's

    def check_terms(self) -> None:
        holders: dict[int, set[str]] = defaultdict(set)
        for one in (*self.records.terms, *self.records.elected):
            holders[one.term].add(one.instance)
        for attempt in self.records.attempts:
            holders[attempt.term].add(attempt.instance)
        for term, names in holders.items():
            if len(names) > 1:
                self.wrong("shared term", f"term {term} is of {', '.join(sorted(names))}")
        acquired = [one.acquired_at for one in self.records.terms if one.acquired_at is not None]
        if acquired != sorted(acquired):
            self.wrong("terms", f"they were not acquired in their order: {acquired}")
        newest = 0
        for attempt in self.records.attempts:
            if attempt.term < newest:
                self.wrong("terms", f"{self.where(attempt)} started in term {attempt.term}, after term {newest}")
            newest = max(newest, attempt.term)
        known = {one.term for one in self.records.terms}
        if self.records.terms and self.diary.pruned_before is None:
            self.found += [
                Violation("terms", f"term {term} of {holders[term]} is not in leader_term")
                for term in sorted(holders.keys() - known)
            ]

    # --- a lost run is named, and only the silent are given up

    def check_losses(self) -> None:
        for attempt in self.records.attempts:
            if attempt.state != "lost" or (attempt.run_id, attempt.number) in self.records.told_lost:
                continue
            at = attempt.finished_at
            if at is None or not any(at <= killed <= at + UNTOLD for killed, _ in self.diary.killed.values()):
                self.wrong("silence", f"{self.where(attempt)} was lost, and nobody told")
        for (run_id, number), holder in self.records.told_lost.items():
            if holder not in self.diary.unheard:
                self.wrong("given up", f"attempt {number} of run {run_id} of {holder}, which was never silent")

    def check_requests(self) -> None:
        by_key = {run.request_key: run for run in self.records.runs if run.request_key is not None}
        for key, run_id in self.diary.triggered.items():
            if (key not in by_key and self.diary.pruned_before is None) or (key in by_key and by_key[key].id != run_id):
                self.wrong("request", f"{key} was answered with run {run_id}, and the ledger has {by_key.get(key)}")
        for run in self.records.runs:
            if run.kind == "manual" and run.request_key not in self.diary.triggered:
                self.wrong("request", f"{_shown(run)} was not asked for")

    def where(self, attempt: Attempt) -> str:
        run = self.runs.get(attempt.run_id)
        shown = f"run {attempt.run_id}" if run is None else _shown(run)
        return f"attempt {attempt.number} ({attempt.id}, {attempt.state}, {attempt.instance}) of {shown}"


def _shown(run: Run) -> str:
    reason = f" {run.reason}" if run.reason else ""
    return f"run {run.id} ({run.job} {run.scheduled_at}, {run.kind}, {run.state}{reason})"


def _or_later(moment: datetime | None) -> datetime:
    return moment if moment is not None else datetime.max.replace(tzinfo=EPOCH.tzinfo)


def _stretches(
    versions: Sequence[Edit], after: datetime, until: datetime, jitter: timedelta
) -> Iterator[tuple[datetime, datetime, list[Edit]]]:
    """Cut (after, until] where the versions that may be in force change.

    An edit holds from up to where the former schedule is decided: just before a tick that jitter makes due later.
    """
    edges = {after, until}
    for edit in versions[1:]:
        moments = (edit.written_at - jitter, edit.adopted_at)
        edges |= {moment for moment in moments if moment and after < moment < until}
    ordered = sorted(edges)
    for since, to in itertools.pairwise(ordered):
        # In force is the newest one that was taken up, or any that was written since and not taken up yet.
        taken = [edit for edit in versions if edit.adopted_at is not None and edit.adopted_at <= since]
        first = max(range(len(versions)), key=lambda number: (versions[number] in taken, number))
        known = [edit for edit in versions[first:] if edit.written_at == LONG_AGO or edit.written_at - jitter <= since]
        yield since, to, known
