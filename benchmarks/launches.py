"""How long a process takes from its start to its election, and what it weighs then.

    python -m benchmarks.launches [--starts 10] [--jobs 20]

On a PostgreSQL server of its own whose tables are there already, with pages and metrics served, as the defaults have
it.  Each replica is drained before the next starts, so that the lease is free.  "plain" is a process that imports
APScheduler, adds as many jobs with cron triggers to a BackgroundScheduler and starts it: it reads no configuration and
has no database.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, table
from tests.chaos.sampling import process_figures
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet, Replica
from tests.servers import PostgresServer

STARTS, QUICK_STARTS = 10, 2
JOB_COUNT = 20
MOST_SECONDS, MOST_MIB = 1.5, 120.0
PLAIN = """
import sys
from apscheduler.schedulers.background import BackgroundScheduler
def nothing(): pass
scheduler = BackgroundScheduler(timezone="UTC")
for number in range(int(sys.argv[1])):
    scheduler.add_job(nothing, "cron", hour=number % 24, minute=number % 60, id=f"job-{number:05}")
scheduler.start()
print("started", flush=True)
sys.stdin.read()
"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=STARTS, help="how often a replica is started")
    parser.add_argument("--jobs", type=int, default=JOB_COUNT, help="how many jobs it has")
    options = parser.parse_args()
    print(table([figure.row() for figure in measure(options.starts, options.jobs)]))


def figures(*, quick: bool) -> Iterator[Figure]:
    """Measure the row of the design that speaks of a start."""
    return measure(QUICK_STARTS if quick else STARTS, JOB_COUNT)


def measure(starts: int, job_count: int) -> Iterator[Figure]:
    """Start replicas and plain schedulers in turn."""
    ours, plains = [], []
    with tempfile.TemporaryDirectory(prefix="launches-") as folder, PostgresServer() as server:
        books = Books(server.url)
        with Fleet(Path(folder), server.url, daily(job_count), election={}, **SERVING) as fleet:
            await_settled(fleet, books, launch(fleet)[0])  # makes the tables, and the bytecode
            fleet.drain()
            for _ in range(starts):
                replica, seconds = launch(fleet)
                await_settled(fleet, books, replica)
                ours.append((seconds, process_figures(replica.pid)["memory, MiB"]))
                fleet.drain()
                plains.append(_plain(job_count))
    seconds, memory = ([[pair[column] for pair in side] for side in (ours, plains)] for column in (0, 1))
    yield Figure(f"process → elected, {job_count} jobs", "s", seconds[0], {"p50": MOST_SECONDS}, seconds[1])
    yield Figure(f"memory of a leader, {job_count} jobs", "MiB", memory[0], {"max": MOST_MIB}, memory[1])


SERVING = {"http": {"enabled": True, "port": 0}}


def daily(count: int) -> dict[str, dict[str, str]]:
    """Return jobs that come due once a day each, spread over it."""
    return {
        f"daily-{number:06}": {"run": "tally:nothing", "cron": f"{number % 60} {number // 60 % 24} * * *"}
        for number in range(count)
    }


def launch(fleet: Fleet, limit_seconds: float = 60.0) -> tuple[Replica, float]:
    """Start a replica where nobody leads; return it, and how long it took until it was elected."""
    # As it is installed, not as one tests it: without bytecode a start compiles the whole package, for seconds.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    mark, began = fleet.mark(), time.monotonic()
    replica = fleet.launch()
    heard = fleet.wait_until(
        lambda: [who for who, _ in fleet.said("leader_elected", mark) if who is replica], limit_seconds=limit_seconds
    )
    return heard[0], time.monotonic() - began


def await_settled(fleet: Fleet, books: Books, replica: Replica) -> None:
    """Wait until every job is settled past the election of `replica`."""
    elected_at = books.elected_at(replica.instance)
    fleet.wait_until(lambda: (until := books.settled_until()) is not None and until > elected_at)


def _plain(job_count: int) -> tuple[float, float]:
    """Return how many seconds plain APScheduler took to start, and its memory then in MiB."""
    command = (sys.executable, "-c", PLAIN, str(job_count))
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None  # noqa: S101  # asked for above
        process.stdout.readline()
        seconds = time.monotonic() - began
        memory = process_figures(process.pid)["memory, MiB"]
        process.kill()
    return seconds, memory


if __name__ == "__main__":
    main()
