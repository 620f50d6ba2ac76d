"""How a start, a takeover, a sweep and the overview grow with the number of jobs.

All jobs but ten come due once a day; the ten come due every 100 ms, one every 10 ms.  Their delays over more than a
minute show what the sweep that settles all jobs once a minute costs the others.  The configuration is spread over files
that it includes: 100,000 jobs are more than one file may hold.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.figures import MEASURES
from benchmarks.growth.curves import Measured, Subject
from benchmarks.launches import SERVING, daily, launch
from benchmarks.load import delays, percentile
from benchmarks.pages import asker, timed
from benchmarks.processors import busy_seconds
from benchmarks.takeover import follow
from scheduler_service import tables
from scheduler_service.database import Database
from tests.chaos.sampling import process_figures
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet, Replica
from tests.servers import PostgresServer

TRIALS, CALLS = 3, 5
SWEEP_SECONDS = 65.0
FEW_TRIALS_FROM = 100_000  # jobs: each standby takes minutes to start
START_SECONDS = 400.0  # 100,000 jobs are read, checked and adopted
FILE_JOBS = 10_000
PROMPT = {
    f"prompt-{number}": {"run": "tally:nothing", "every": "100ms", "offset": f"{10 * number}ms"} for number in range(10)
}


def measure(count: int) -> Measured:
    """Start replicas with so many jobs."""
    jobs = {**daily(count - len(PROMPT)), **PROMPT}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="growth-") as folder, PostgresServer() as server:
        tables.upgrade(Database(server.url))
        books = Books(server.url)
        include = _spread(Path(folder), jobs)
        with Fleet(Path(folder), server.url, {}, election={}, include=include, **SERVING) as fleet:
            replica, found["process → elected, s"] = launch(fleet, START_SECONDS)
            found["elected → all added and settled, s"] = _await_settled(fleet, books, replica, count)
            page = asker(urlsplit(str(replica.wait_for("service_started")["http"])), "/?fresh={fresh}")
            took = [timed(page)[0] for _ in range(CALLS)]
            found["overview page, p50, ms"] = 1000 * statistics.median(took)
            found["memory of the leader, MiB"] = process_figures(replica.pid)["memory, MiB"]
            began, busy = books.now(), busy_seconds([replica.pid])
            time.sleep(SWEEP_SECONDS)
            ended = books.now()
            found["processor at 100 ticks a second, %"] = 100 * (busy_seconds([replica.pid]) - busy) / SWEEP_SECONDS
            late = delays(books, began, ended)
            for name, figure in zip(MEASURES, (percentile(late, 50), percentile(late, 99), max(late)), strict=True):
                found[f"tick → start over a sweep, {name}, ms"] = 1000 * figure
            settled = []
            for _ in range(TRIALS if count < FEW_TRIALS_FROM else 1):
                _launch_standby(fleet, books)
                settled.append(follow(fleet, books, Replica.kill, 1)[1])
            found["kill -9 → first settled tick, p50, ms"] = 1000 * statistics.median(settled)
    return found


def _spread(folder: Path, jobs: Mapping[str, Any]) -> list[str]:
    """Write files that hold these jobs; return what to include."""
    ids = list(jobs)
    for first in range(0, len(ids), FILE_JOBS):
        some = {job_id: jobs[job_id] for job_id in ids[first : first + FILE_JOBS]}
        (folder / f"jobs-{first:06}.yaml").write_text(json.dumps({"jobs": some}, indent=1))  # JSON is YAML
    return ["jobs-*.yaml"]


def _launch_standby(fleet: Fleet, books: Books) -> None:
    """Start a standby, and wait until it has done what is done once: until it has signed in twice."""
    standby = fleet.launch()
    fleet.wait_until(
        lambda: any(who is standby for who, _ in fleet.said("leader_observed")), limit_seconds=START_SECONDS
    )
    seen = f"select 1 from {{p}}replica where instance_id = '{standby.instance}' and seen_at > started_at"  # noqa: S608
    fleet.wait_until(lambda: books.rows(seen))


def _await_settled(fleet: Fleet, books: Books, replica: Replica, count: int) -> float:
    """Wait until every job is settled past the election; return how many seconds that took."""
    elected_at = books.elected_at(replica.instance)
    settled = f"select count(*) from {{p}}job_state where settled_until > '{elected_at}'"  # noqa: S608  # its own answer
    fleet.wait_until(lambda: books.rows(settled)[0][0] == count, limit_seconds=START_SECONDS)
    return (books.now() - elected_at).total_seconds()


SUBJECT = Subject("jobs", "jobs", (10, 100, 1000, 10_000, 100_000), measure)
