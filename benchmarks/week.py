"""What an election costs when nobody led for a week and thousands of jobs have come due meanwhile.

    python -m benchmarks.week [--jobs 10000] [--weeks 3]

The ledger of a replica that has drained is made a week older, and a replica started again, on a PostgreSQL server of
its own.  A third each of the jobs comes due every minute, hour and day.  Twenty others come due once a second: those
of their ticks that come due between the election and the last start of what is caught up on are "other jobs meanwhile",
those of ten seconds after it "other jobs afterwards".  All times count from the election, on the database's clock.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.figures import Figure, table
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet
from tests.faults.weeks import jobs_of_a_week, move_back
from tests.servers import PostgresServer

JOB_COUNT, WEEKS, QUICK_WEEKS = 10_000, 2, 1
LIMIT_SECONDS = 600.0
PROMPT = {
    f"prompt-{number:02}": {"run": "tally:nothing", "every": "1s", "offset": f"{50 * number}ms", "catch_up": "none"}
    for number in range(20)
}
QUIET_FOR = timedelta(seconds=10)
QUIET_AFTER = timedelta(seconds=1)  # the last results and log lines are not quiet yet
STARTS = """
select extract(epoch from min(a.started_at) - '{elected}'),
       extract(epoch from max(a.started_at) filter (where r.due_at <= '{elected}') - '{elected}')
  from {p}run_attempt a join {p}run r on r.id = a.run_id where a.started_at > '{elected}'"""
SETTLED = "select extract(epoch from max(decided_at) - '{elected}') from {p}run where scheduled_at <= '{elected}'"
DELAYS = """
select extract(epoch from a.started_at - r.due_at) from {p}run_attempt a join {p}run r on r.id = a.run_id
 where r.job_id like 'prompt-%' and r.due_at > '{since}' and r.due_at <= '{until}'"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=JOB_COUNT, help="how many jobs came due in the week")
    parser.add_argument("--weeks", type=int, default=WEEKS, help="how many weeks pass, one after another")
    options = parser.parse_args()
    print(table([figure.row() for figure in measure(options.jobs, options.weeks)]))


def figures(*, quick: bool) -> Iterator[Figure]:
    """Measure the row of the design that speaks of a week without a leader."""
    return measure(JOB_COUNT, QUICK_WEEKS if quick else WEEKS)


def measure(job_count: int, weeks: int) -> Iterator[Figure]:
    """Let weeks pass, and a replica start after each."""
    firsts, settleds, lasts = [], [], []
    meanwhile: list[float] = []
    afterwards: list[float] = []
    jobs = {**jobs_of_a_week(job_count), **PROMPT}
    with tempfile.TemporaryDirectory(prefix="week-") as folder, PostgresServer() as server:
        books = Books(server.url)
        with Fleet(Path(folder), server.url, jobs, election={}) as fleet:
            _lead(fleet, books)
            for _ in range(weeks):
                fleet.drain()
                move_back(books)
                elected = _lead(fleet, books)
                fleet.wait_until(
                    lambda elected=elected: not books.waits_since_before(elected), 0.5, limit_seconds=LIMIT_SECONDS
                )
                ((first, last),) = books.rows(STARTS.format(p="{p}", elected=elected))
                ((settled,),) = books.rows(SETTLED.format(p="{p}", elected=elected))
                firsts.append(float(first))
                settleds.append(float(settled))
                lasts.append(float(last))
                over = elected + timedelta(seconds=float(last))
                meanwhile += _delays(books, elected, over)
                quiet_from = over + QUIET_AFTER
                quiet_until = quiet_from + QUIET_FOR
                fleet.wait_until(lambda until=quiet_until + QUIET_AFTER: books.now() > until, 0.5)
                afterwards += _delays(books, quiet_from, quiet_until)
    name = f"a week, {job_count:,} jobs:"
    yield Figure(f"{name} elected → first start", "s", firsts, {"max": 1.0})
    yield Figure(f"{name} elected → all settled", "s", settleds, {"max": 10.0})
    yield Figure(f"{name} elected → all caught up", "s", lasts)
    yield Figure(f"{name} other jobs meanwhile, due → start", "s", meanwhile, {"p99": 1.0})
    yield Figure(f"{name} other jobs afterwards, due → start", "s", afterwards)


def _lead(fleet: Fleet, books: Books) -> datetime:
    """Start a replica, wait until it has settled every job, and return when it was elected."""
    replica = fleet.launch()
    term = fleet.wait_until(
        lambda: [entry["term"] for who, entry in fleet.said("leader_elected") if who is replica],
        limit_seconds=LIMIT_SECONDS,
    )[0]
    ((acquired,),) = books.rows(f"select acquired_at from {{p}}leader_term where term = {int(term)}")  # noqa: S608
    elected_at = books.moment(acquired)
    fleet.wait_until(
        lambda: (until := books.settled_until()) is not None and until > elected_at, limit_seconds=LIMIT_SECONDS
    )
    return elected_at


def _delays(books: Books, since: datetime, until: datetime) -> list[float]:
    return [float(seconds) for (seconds,) in books.rows(DELAYS.format(p="{p}", since=since, until=until))]


if __name__ == "__main__":
    main()
