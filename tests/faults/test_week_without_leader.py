"""Nobody leads for a week; then a replica starts that knows hundreds of jobs, or a thousand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.evidence import EPOCH, Books
from tests.faults.fleet import Fleet
from tests.faults.weeks import WEEK, jobs_of_a_week, move_back

EVERY, HOURLY, DAILY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("postgres_url", 250),
        pytest.param("postgres_url", 1000, marks=pytest.mark.long),
        pytest.param("sqlite_url", 1000, marks=pytest.mark.long),
    ],
)
def test_a_week_without_a_leader_is_settled_at_once_and_replays_nothing(
    kind: str, count: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    books = Books(request.getfixturevalue(kind))
    jobs = jobs_of_a_week(count)
    with Fleet(tmp_path, request.getfixturevalue(kind), jobs, election={}) as fleet:
        fleet.start()
        fleet.wait_until(lambda: _count(books, "job_state") == len(jobs))
        fleet.drain()
        move_back(books)

        (replica,) = fleet.start()
        term = fleet.term(replica)
        ((acquired_at,),) = books.rows(f"select acquired_at from {{p}}leader_term where term = {term}")
        elected_at = books.moment(acquired_at)
        fleet.wait_until(lambda: (until := books.settled_until()) is not None and until > elected_at)
        fleet.wait_until(lambda: not books.waits_since_before(elected_at))
        fleet.drain()

        assert not fleet.strange_deaths()
        rows = _rows(books)
        problems = [problem for job in jobs for problem in _problems(job, jobs[job], rows[job], books, elected_at)]
        assert not problems, "\n".join(problems[:20])
        print(f"\n{kind}: {len(jobs)} jobs, {sum(map(len, rows.values()))} rows; {_times(books, elected_at)}")


def _rows(books: Books) -> Mapping[str, list[tuple[datetime, datetime, str, str]]]:
    rows = defaultdict(list)
    for job, scheduled_at, until, kind, state in books.rows(
        "select job_id, scheduled_at, until, kind, state from {p}run order by job_id, scheduled_at"
    ):
        first = books.moment(scheduled_at)
        rows[job].append((first, first if until is None else books.moment(until), kind, state))
    return rows


def _problems(
    job: str,
    spec: Mapping[str, Any],
    rows: list[tuple[datetime, datetime, str, str]],
    books: Books,
    elected_at: datetime,
) -> list[str]:
    problems = []
    ((since, until),) = books.rows(f"select accountable_from, settled_until from {{p}}job_state where job_id = '{job}'")
    expected = _next(spec["cron"], books.moment(since))
    for first, last, _, _ in rows:
        if first != expected:
            problems.append(f"{job}: {expected} should come next, not {first}")
        expected = _next(spec["cron"], last)
    if not books.moment(until) < expected:
        problems.append(f"{job}: {expected} is due and was not decided")
    if since == until or books.moment(since) > elected_at - WEEK + timedelta(minutes=5):
        problems.append(f"{job} became accountable at {since}, so nothing was shown")

    ran = [row for row in rows if row[0] <= elected_at and row[3] == "succeeded"]
    late = [row for row in ran if row[2] == "catch_up"]
    most = {"latest": 1, "all": 12, "none": 1}[spec["catch_up"]]
    if len(ran) > most or len(late) > {"latest": 1, "all": 10, "none": 0}[spec["catch_up"]]:
        problems.append(f"{job} ({spec['catch_up']}) ran {len(ran)} times, {len(late)} of them to catch up")
    if spec["catch_up"] == "latest" and len(ran) != 1:
        problems.append(f"{job} did not run for its newest tick")
    return problems


def _next(expression: str, moment: datetime) -> datetime:
    """Return the first tick after `moment`: in UTC these three forms are multiples of a length."""
    minute, hour = expression.split()[:2]
    if minute == "*":
        length, offset = EVERY, timedelta(0)
    elif hour == "*":
        length, offset = HOURLY, timedelta(minutes=int(minute))
    else:
        length, offset = DAILY, timedelta(hours=int(hour), minutes=int(minute))
    return EPOCH + offset + ((moment - EPOCH - offset) // length + 1) * length


def _count(books: Books, table: str) -> int:
    try:
        return int(books.rows(f"select count(*) from {{p}}{table}")[0][0])
    except Exception:  # the tables are being made
        return 0


def _times(books: Books, elected_at: datetime) -> str:
    ((first, last),) = books.rows("select min(started_at), max(started_at) from {p}run_attempt")
    ((settled,),) = books.rows("select max(decided_at) from {p}run where kind in ('range', 'catch_up')")
    times = {"first start": first, "all settled": settled, "last start": last}
    return ", ".join(
        f"{what} after {(books.moment(value) - elected_at).total_seconds():.3f} s" for what, value in times.items()
    )
