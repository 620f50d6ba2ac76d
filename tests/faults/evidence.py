"""What the jobs did, what the ledger says and what the schedule asks for, compared.

Nothing here asks the code under test: ticks are multiples of the interval since the epoch, rows are
read with the plain driver, side effects are lines in a file.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.fleet import Fleet

INTERVAL = timedelta(milliseconds=200)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


PASSING = "passing"  # so begin the names of jobs that come, go and change their schedules


def tally_jobs(path: Path) -> dict[str, Any]:
    """Return ten jobs of `every: 200ms`: short and long ones, exclusive and overlapping ones."""

    def job(seconds: float, overlap: str) -> dict[str, Any]:
        kwargs = {"path": str(path), "seconds": seconds}
        return {"run": "tally:note", "kwargs": kwargs, "every": "200ms", "catch_up": "all", "overlap": overlap}

    exclusive = {f"exclusive-{number}": job(0.03 * number, "skip") for number in range(5)}
    overlapping = {f"overlapping-{number}": job(0.03 * number, "allow") for number in range(5)}
    return {**exclusive, **overlapping}


class Books:
    """The ledger, read with the plain driver."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.on_sqlite = url.startswith("sqlite")

    def rows(self, statement: str) -> Sequence[Sequence[Any]]:
        """Return the rows of a statement whose tables are written `{p}run`; times are datetimes."""
        if self.on_sqlite:
            path = self.url.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
                return connection.execute(statement.format(p="")).fetchall()
        with psycopg.connect(self.url, autocommit=True, connect_timeout=30, options="-c timezone=UTC") as connection:
            return connection.execute(statement.format(p="scheduler.")).fetchall()

    def execute(self, statement: str) -> None:
        """Change something behind everybody's back."""
        if self.on_sqlite:
            path = self.url.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection, connection:
                connection.execute(statement.format(p=""))
            return
        with psycopg.connect(self.url, autocommit=True, connect_timeout=30) as connection:
            connection.execute(statement.format(p="scheduler."))

    def now(self) -> datetime:
        """Return the database's time."""
        if self.on_sqlite:
            (row,) = self.rows("select cast((julianday('now') - 2440587.5) * 86400000 as integer)")
            return EPOCH + timedelta(milliseconds=row[0])
        return self.moment(self.rows("select clock_timestamp()")[0][0])

    def moment(self, value: Any) -> datetime:
        """Return a time of a row as a datetime."""
        return EPOCH + timedelta(microseconds=value) if isinstance(value, int) else value.astimezone(UTC)

    def settled_until(self) -> datetime | None:
        """Return up to where every job is settled; None while the database does not answer."""
        try:
            rows = self.rows("select min(settled_until) from {p}job_state")
        except (psycopg.OperationalError, sqlite3.OperationalError):
            return None
        return None if rows[0][0] is None else self.moment(rows[0][0])

    def waits_since_before(self, moment: datetime) -> bool:
        """Return whether a run that was due before `moment` waits still."""
        rows = self.rows("select min(due_at) from {p}run where state = 'waiting'")
        return rows[0][0] is not None and self.moment(rows[0][0]) < moment

    def elected_at(self, instance: str) -> datetime:
        """Return when a replica was elected first."""
        rows = self.rows(f"select min(acquired_at) from {{p}}leader_term where leader_id = '{instance}'")
        return self.moment(rows[0][0])

    def first_decision(self, instance: str) -> datetime | None:
        """Return when a replica decided its first tick, None if it has not."""
        rows = self.rows(f"select min(decided_at) from {{p}}run where decided_by = '{instance}'")
        return None if rows[0][0] is None else self.moment(rows[0][0])

    def open_holders(self) -> set[str]:
        """Return the replicas in whose name an attempt is open."""
        return {row[0] for row in self.rows("select instance_id from {p}run_attempt where state = 'running'")}


@dataclass(frozen=True)
class Effect:
    """One line of the tally."""

    job: str
    scheduled_at: datetime
    fence: int
    run_id: int
    pid: int
    what: str
    at: float  # boot-clock seconds


def effects(path: Path) -> list[Effect]:
    """Read the tally; a line is one write, of which whoever reads meanwhile may see only the beginning."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().rpartition("\n")[0].splitlines():
        job, scheduled_at, fence, run_id, pid, what, at = line.split()
        moment = datetime.fromisoformat(scheduled_at)
        found.append(Effect(job, moment, int(fence), int(run_id), int(pid), what, float(at)))
    return found


def going_on(path: Path, pid: int) -> set[int]:
    """Return the fences of runs that a process has begun and not ended."""
    of_process = [one for one in effects(path) if one.pid == pid]
    ended = {one.fence for one in of_process if one.what == "end"}
    return {one.fence for one in of_process} - ended


def ticks(after: datetime, until: datetime, interval: timedelta = INTERVAL) -> Iterable[datetime]:
    """Return the multiples of the interval since the epoch in (after, until]."""
    number = (after - EPOCH) // interval + 1
    while (tick := EPOCH + number * interval) <= until:
        yield tick
        number += 1


@dataclass(frozen=True)
class Account:
    """What was found: what is wrong, and how many ticks ended in which state."""

    problems: list[str]
    states: Counter[str]
    tick_count: int


def compare(
    books: Books, tally: Path, fleet: Fleet, frozen_pids: Iterable[int] = (), interval: timedelta = INTERVAL
) -> Account:
    """Compare schedule, ledger and side effects after everybody has stopped."""
    problems: list[str] = []
    rows = books.rows(
        "select id, job_id, scheduled_at, until, state, kind, reason from {p}run where kind <> 'manual' order by id"
    )
    decided: dict[tuple[str, datetime], list[tuple[int, str]]] = defaultdict(list)
    for run_id, job, scheduled_at, until, state, kind, _ in rows:
        first = books.moment(scheduled_at)
        last = first if until is None else books.moment(until)
        if until is not None and kind != "range":
            problems.append(f"run {run_id} of {job} is no range and ends at {last}")
        for tick in ticks(first - MICROSECOND, last, interval):
            decided[job, tick].append((run_id, state))

    kept = {key for key in decided if not key[0].startswith(PASSING)}
    expected = set()
    for job, accountable_from, settled_until in books.rows(
        "select job_id, accountable_from, settled_until from {p}job_state where schedule <> 'manual'"
    ):
        if not job.startswith(PASSING):
            since, until = books.moment(accountable_from), books.moment(settled_until)
            expected |= {(job, tick) for tick in ticks(since, until, interval)}
    problems += [f"{job} {tick} is due and was not decided" for job, tick in sorted(expected - kept)]
    problems += [f"{job} {tick} was decided and is not due" for job, tick in sorted(kept - expected)]
    problems += [f"{key[0]} {key[1]} is in several rows: {found}" for key, found in decided.items() if len(found) > 1]

    lines = effects(tally)
    problems += _compare_effects(books, decided, lines, {entry["run"] for _, entry in fleet.said("attempt_lost")})
    problems += _overlaps(lines, {one.pid for one in fleet.replicas if one.allowed_code == -9}, set(frozen_pids))
    problems += _lost_in_silence(books, fleet)
    problems += _given_up_alive(fleet, set(frozen_pids))
    problems += terms_given_twice(books, fleet)
    problems += fleet.strange_deaths()
    problems += [f"replica {who.number} wrote {entry['line']!r}" for who, entry in fleet.said("no_json")]
    problems += [f"replica {who.number}: {entry}" for who, entry in fleet.said("thread_crashed")]
    states = Counter(state for key in kept for _, state in decided[key])
    return Account(problems, states, len(expected))


def _compare_effects(
    books: Books, decided: dict[tuple[str, datetime], list[tuple[int, str]]], lines: list[Effect], told_lost: set[int]
) -> list[str]:
    problems = []
    begun: dict[tuple[str, datetime], list[Effect]] = defaultdict(list)
    ended = Counter()
    for one in lines:
        if one.what == "begin":
            begun[one.job, one.scheduled_at].append(one)
        else:
            ended[one.fence] += 1
    problems += [f"{job} {tick} ran and is not in the ledger" for job, tick in begun.keys() - decided.keys()]
    attempts = {row[0]: row[1] for row in books.rows("select id, run_id from {p}run_attempt")}
    for (job, tick), found in decided.items():
        run_id, state = found[0]
        seen = begun[job, tick]
        where = f"{job} {tick} (run {run_id}, {state})"
        if len(seen) > 1:
            problems.append(f"{where} ran {len(seen)} times: {seen}")
        if state == "succeeded":
            if len(seen) != 1 or ended[seen[0].fence] != 1:
                problems.append(f"{where} left {seen}")
        elif state in ("waiting", "missed", "skipped", "cancelled"):
            if seen:
                problems.append(f"{where} ran: {seen}")
            if state == "skipped" and job.startswith("overlapping"):
                problems.append(f"{where}, although it may overlap")
            # Cancelled is only what its replica, thawed, found closed as lost before it began it, and what waited when
            # its job was removed.
            if state == "cancelled" and run_id not in told_lost and not job.startswith(PASSING):
                problems.append(f"{where} was cancelled by nobody")
        elif state != "lost":
            problems.append(f"{where} is {state}")
        problems += [
            f"{where} ran as run {one.run_id} with the fence {one.fence}"
            for one in seen
            if one.run_id != run_id or attempts.get(one.fence) != run_id
        ]
    return problems


def _overlaps(lines: list[Effect], killed: set[int], frozen: set[int]) -> list[str]:
    """I7, which holds for replicas that run and can reach the database."""
    problems = []
    going: dict[str, Effect] = {}
    for one in lines:
        if not one.job.startswith("exclusive") or one.pid in frozen:
            continue
        other = going.get(one.job)
        if one.what == "end":
            if other is not None and other.fence == one.fence:
                del going[one.job]
            continue
        if other is not None and not (other.pid in killed and other.pid != one.pid):
            problems.append(f"{one} began while {other} went on")
        going[one.job] = one
    return problems


def terms_given_twice(books: Books, fleet: Fleet) -> list[str]:
    """I2, from the history of terms, the attempts and the logs: each term has one leader, and they only grow."""
    leaders: dict[int, set[str]] = defaultdict(set)
    elected = Counter((entry["term"], entry["instance"]) for _, entry in fleet.said("leader_elected"))
    noted = books.rows("select term, leader_id from {p}leader_term")
    started = books.rows("select term, instance_id from {p}run_attempt order by id")
    for term, leader in (*elected, *noted, *started):
        leaders[term].add(leader)
    problems = [f"term {term} was given to {sorted(names)}" for term, names in leaders.items() if len(names) > 1]
    problems += [
        f"{leader} was elected {count} times in term {term}" for (term, leader), count in elected.items() if count > 1
    ]
    problems += [
        f"an attempt of term {earlier} was followed by one of term {later}"
        for (earlier, _), (later, _) in itertools.pairwise(started)
        if later < earlier
    ]
    return problems


def longest_pause(books: Books, after: datetime, until: datetime) -> float:
    """Return the longest time, in seconds, between `after` and `until` in which no tick was decided."""
    decided = (books.moment(row[0]) for row in books.rows("select distinct decided_at from {p}run order by decided_at"))
    moments = [after, *(moment for moment in decided if after < moment < until), until]
    return max((later - earlier).total_seconds() for earlier, later in itertools.pairwise(moments))


def _lost_in_silence(books: Books, fleet: Fleet) -> list[str]:
    told = {(entry["run"], entry["attempt"]) for _, entry in fleet.said("attempt_lost")}
    lost = books.rows("select run_id, attempt, instance_id from {p}run_attempt where state = 'lost'")
    return [
        f"run {run_id} attempt {attempt} of {who} was lost in silence"
        for run_id, attempt, who in lost
        if (run_id, attempt) not in told
    ]


def _given_up_alive(fleet: Fleet, frozen: set[int]) -> list[str]:
    unheard = {one.instance for one in fleet.replicas if one.allowed_code == -9 or one.pid in frozen}
    return [
        f"run {entry['run']} of {entry['holder']}, which lived, was given up"
        for _, entry in fleet.said("attempt_lost")
        if entry["holder"] not in unheard
    ]
