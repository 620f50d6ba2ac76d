"""What the leader's statements and a burst take over a long history.

A database of its own is filled as in `benchmarks.pages`: 10,000 jobs, and as many runs as the size says, most of which
went well.  The verbs of the ledger are then called one after another from one connection, a hundred jobs or runs at a
time, and a replica has a burst of 1,000 ticks.  SCHEDULER_BENCHMARK_DATABASE_URL names an empty database, or one that
was filled before, to be used instead: filling takes a quarter of an hour where the size is ten million.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from benchmarks.bursts import compare
from benchmarks.growth.curves import Measured, Subject
from benchmarks.load import percentile
from benchmarks.pages import SETTINGS, fill
from scheduler_service.database import Database
from scheduler_service.housekeeping import PRUNE_JOBS, PRUNE_ROWS
from scheduler_service.ledger import Finished
from scheduler_service.model import State
from tests.contract.ledger_world import World, outcome
from tests.faults.evidence import Books
from tests.servers import PostgresServer

URL = "SCHEDULER_BENCHMARK_DATABASE_URL"
FILLED_JOBS = 10_000
LOCK_ID = 1  # whose rows the database is filled with
BATCH = 100  # jobs or runs in a statement
ROUNDS = 20
AGE = timedelta(minutes=30)
BURST, BURSTS = 1000, 2

T = TypeVar("T")


def measure(count: int) -> Measured:
    """Fill a database with so many runs, and work on top of them."""
    with _database() as url:
        fill(url, FILLED_JOBS, count)
        found = _verbs(url)
        Books(url).execute("delete from {p}leader_lease")
        with tempfile.TemporaryDirectory(prefix="growth-") as folder:
            bursts = compare(Path(folder), url, BURST, BURSTS).ours
    late = [one for burst in bursts for one in burst.seconds]
    return {
        **found,
        f"{BURST:,} ticks at once → function begins, p50, ms": 1000 * percentile(late, 50),
        f"{BURST:,} ticks at once → function begins, p99, ms": 1000 * percentile(late, 99),
    }


def _verbs(url: str) -> dict[str, float]:
    database = Database(url)
    world = World(database, LOCK_ID)
    took: dict[str, list[float]] = {}

    def timed(name: str, verb: Callable[[], T]) -> T:
        began = time.perf_counter()
        answer = verb()
        took.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        return answer

    ledger, lease = world.ledger, world.lease
    names = [f"verb-{number:03}" for number in range(BATCH)]
    world.adopt(*names, back=timedelta(days=1))
    known = ledger.job_ids()
    for _ in range(ROUNDS):
        states = ledger.job_states(names)
        settlements = [world.settlement(state, State.WAITING) for state in states]
        timed(f"settle {BATCH} jobs, ms", lambda settlements=settlements: ledger.settle(lease, settlements))
        runs = timed(f"poll, {BATCH} wait, ms", lambda: ledger.poll(BATCH)).runs
        begun = timed(
            f"start {BATCH}, ms",
            lambda runs=runs: ledger.start(lease, f"claim-{time.monotonic_ns()}", [(run, 1) for run in runs], 0.0),
        )
        finished = [Finished(attempt, outcome()) for attempt in begun or ()]
        timed(f"finish {BATCH}, ms", lambda finished=finished: ledger.finish(finished))
        timed("poll, none waits, ms", lambda: ledger.poll(BATCH))
        some = random.sample(known, PRUNE_JOBS)
        timed(
            "prune, nothing to do, ms",
            lambda some=some: ledger.prune(lease, some, timedelta(days=365), 10**9, PRUNE_ROWS),
        )
    for _ in range(ROUNDS):
        some = random.sample(known, PRUNE_JOBS)
        timed(f"prune {PRUNE_ROWS}, ms", lambda some=some: ledger.prune(lease, some, AGE, 10**9, PRUNE_ROWS))
    database.dispose()
    return {name: statistics.median(values) for name, values in took.items()}


@contextmanager
def _database() -> Iterator[str]:
    if url := os.environ.get(URL):
        yield url
        return
    with PostgresServer(SETTINGS, in_memory=False) as server:
        yield server.url


SUBJECT = Subject("rows", "runs in the ledger", (0, 100_000, 1_000_000, 10_000_000), measure)
