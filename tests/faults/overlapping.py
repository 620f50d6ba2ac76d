"""Jobs that take far longer than the time between their ticks, and what must hold of them."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.faults.evidence import MICROSECOND, Books, Effect, effects, ticks
from tests.faults.fleet import Fleet

QUEUE_LIMIT = 3
SLOTS = 2
STARTS = 3  # of a run that is tried again
ONE_AT_A_TIME = ("skip", "queue", "replace")
# What may become of a tick.  Ticks that come due while a silent replica is waited for are decided together.
ALLOWED = {
    "skip": {"succeeded", "skipped overlap", "missed coalesced", "lost", "waiting queued", "cancelled"},
    "queue": {"succeeded", "skipped queue_limit", "lost", "waiting queued", "cancelled"},
    "replace": {"succeeded", "cancelled", "missed coalesced", "lost", "waiting queued"},
    "slots": {"succeeded", "skipped overlap", "missed coalesced", "lost", "waiting queued", "cancelled"},
    "again": {"failed", "skipped overlap", "missed coalesced", "lost", "waiting retry", "waiting rerun", "cancelled"},
}


def long_jobs(path: Path, seconds: float, interval: timedelta) -> dict[str, Any]:
    """Return a job for each way to overlap, each of which takes `seconds` and comes due at every `interval`."""
    every = f"{interval // timedelta(milliseconds=1)}ms"

    def job(run: str = "tally:note", **policies: Any) -> dict[str, Any]:
        return {"run": run, "kwargs": {"path": str(path), "seconds": seconds}, "every": every, **policies}

    return {
        "skip": job(),
        "queue": job(overlap="queue", queue_limit=QUEUE_LIMIT, catch_up="all"),
        "replace": job("tally:note_until_stopped", overlap="replace"),
        "slots": job(max_running=SLOTS),
        "again": job("tally:fail", retry={"attempts": STARTS, "delay": "100ms", "factor": 1}, on_crash="rerun"),
    }


@dataclass(frozen=True)
class Findings:
    """What is wrong, and what became of the ticks of each job."""

    problems: list[str]
    states: Mapping[str, Counter[str]]


def examine(books: Books, tally: Path, fleet: Fleet, interval: timedelta, frozen_pids: Iterable[int]) -> Findings:
    """Compare schedule, ledger and side effects after everybody has stopped."""
    lines = effects(tally)
    killed = {one.pid for one in fleet.replicas if one.allowed_code == -9}
    decided, states = _decisions(books, interval)
    problems = _undecided(books, decided, interval)
    problems += [
        f"{job}: a tick is {state}" for job, found in states.items() for state in found if state not in ALLOWED[job]
    ]
    problems += _left_waiting(books)
    problems += _too_many_at_once(lines, killed, set(frozen_pids))
    problems += _starts(books, lines)
    problems += _out_of_order(lines)
    problems += fleet.strange_deaths()
    problems += [f"replica {who.number}: {entry}" for who, entry in fleet.said("thread_crashed")]
    return Findings(problems, states)


def seconds_until_it_ran_again(tally: Path, job: str, pid: int, killed_at: float) -> float | None:
    """Return how long after the death of a process another began the job that it was running."""
    return next(
        (
            one.at - killed_at
            for one in effects(tally)
            if one.job == job and one.what == "begin" and one.pid != pid and one.at > killed_at
        ),
        None,
    )


def _decisions(
    books: Books, interval: timedelta
) -> tuple[Mapping[tuple[str, datetime], list[int]], Mapping[str, Counter[str]]]:
    decided: dict[tuple[str, datetime], list[int]] = defaultdict(list)
    states: dict[str, Counter[str]] = defaultdict(Counter)
    rows = books.rows("select id, job_id, scheduled_at, until, state, reason from {p}run")
    for run_id, job, scheduled_at, until, state, reason in rows:
        first = books.moment(scheduled_at)
        for tick in ticks(first - MICROSECOND, first if until is None else books.moment(until), interval):
            decided[job, tick].append(run_id)
            states[job][f"{state} {reason}" if reason else state] += 1
    return decided, states


def _undecided(books: Books, decided: Mapping[tuple[str, datetime], list[int]], interval: timedelta) -> list[str]:
    problems = [f"{key} is in several rows: {found}" for key, found in decided.items() if len(found) > 1]
    expected = set()
    for job, since, until in books.rows("select job_id, accountable_from, settled_until from {p}job_state"):
        expected |= {(job, tick) for tick in ticks(books.moment(since), books.moment(until), interval)}
    problems += [f"{job} {tick} is due and was not decided" for job, tick in sorted(expected - decided.keys())]
    return problems + [f"{job} {tick} is decided and not due" for job, tick in sorted(decided.keys() - expected)]


def _left_waiting(books: Books) -> list[str]:
    """What was decided and never started, though more was decided later; only the last may be too late to be."""
    rows = books.rows(
        "select w.job_id, w.scheduled_at from {p}run w"
        " where w.job_id in ('skip', 'slots') and w.state = 'waiting'"
        " and exists (select 1 from {p}run r where r.job_id = w.job_id and r.scheduled_at > w.scheduled_at)"
    )
    return [f"{job} {tick} was left waiting" for job, tick in rows]


def _too_many_at_once(lines: list[Effect], killed: set[int], frozen: set[int]) -> list[str]:
    """I7, which holds for replicas that run and can reach the database."""
    problems = []
    going: dict[str, list[Effect]] = defaultdict(list)
    for one in lines:
        if one.pid in frozen:
            continue
        limit = 1 if one.job in (*ONE_AT_A_TIME, "again") else SLOTS
        if one.what == "end":
            going[one.job] = [other for other in going[one.job] if other.fence != one.fence]
            continue
        # Who was killed ended then, without a line.
        alive = [other for other in going[one.job] if other.pid == one.pid or other.pid not in killed]
        if len(alive) >= limit:
            problems.append(f"{one} began while {alive} went on")
        going[one.job] = [*alive, one]
    return problems


def _starts(books: Books, lines: list[Effect]) -> list[str]:
    begun = Counter(one.fence for one in lines if one.what == "begin")
    problems = [f"attempt {fence} began {count} times" for fence, count in begun.items() if count > 1]
    attempts = books.rows(
        "select a.id, a.run_id, a.state, r.job_id from {p}run_attempt a join {p}run r on r.id = a.run_id"
    )
    known = {row[0] for row in attempts}
    problems += [f"{fence} began and is not in the ledger" for fence in begun.keys() - known]
    problems += [
        f"attempt {attempt} of run {run_id} is {state} and began {begun[attempt]} times"
        for attempt, run_id, state, _ in attempts
        if state in ("succeeded", "failed") and begun[attempt] != 1
    ]
    starts = Counter((job, run_id) for _, run_id, _, job in attempts)
    most = {"again": STARTS}
    return problems + [
        f"run {run_id} of {job} was started {count} times"
        for (job, run_id), count in starts.items()
        if count > most.get(job, 1)
    ]


def _out_of_order(lines: list[Effect]) -> list[str]:
    begun = [one for one in lines if one.job == "queue" and one.what == "begin"]
    return [
        f"{later} began after {one}"
        for one, later in itertools.pairwise(begun)
        if later.scheduled_at < one.scheduled_at
    ]
