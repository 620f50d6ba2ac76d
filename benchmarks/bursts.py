"""How late functions begin when many ticks come due in the same moment, beside plain APScheduler.

    python -m benchmarks.bursts [--jobs 1000 10000] [--rounds 5] [--sqlite]

One replica with the default settings, and a PostgreSQL server of its own; all its jobs do nothing, in threads,
and come due together, every 20 s or more.  Each function returns how long ago its tick was, on the wall clock, and the
ledger keeps that with the attempt.  "plain" is APScheduler as it comes, in a process of its own, with as many
jobs and threads: they are kept in memory, and nothing is recorded.

Both live at the same time and take turns, a burst each half of that, so that whatever else the machine does hits the
one like the other.  "ratio" is the median over the rounds of ours by plain's: it stays true on a busy machine, where
milliseconds do not.  "processor" is what a burst took of it in the process, the server left out.  The first burst
of each counts for nothing: modules are loaded, and threads started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from benchmarks.figures import Figure
from benchmarks.processors import busy_seconds
from scheduler_service.config.settings import Workers
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet
from tests.servers import PostgresServer

LEAST_PERIOD_SECONDS = 20
TARGETS = {1000: 100.0, 10_000: 1000.0}  # milliseconds that p99 may be, by how many come due together
ROUNDS, LARGE_ROUNDS, QUICK_ROUNDS = 5, 2, 1
SOURCE = """
import time
from scheduler_service.context import RunContext
def nothing(run: RunContext): return time.time() - run.due_at.timestamp()
"""


@dataclass(frozen=True, slots=True)
class Burst:
    """How long after the tick each function began, and what the burst took of the processor."""

    seconds: Sequence[float]
    processor_seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Bursts of ours and of plain APScheduler's, in the order in which they took turns."""

    ours: Sequence[Burst]
    plains: Sequence[Burst]


def main() -> None:
    """Run each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 10_000], help="how many come due together")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many bursts of each are counted")
    parser.add_argument("--sqlite", action="store_true", help="on an SQLite file instead of PostgreSQL")
    parser.add_argument("--plain", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain is not None:
        _be_plain(options.plain)
        return
    print(f"{'milliseconds':22} {'n':>7} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8} {'processor':>10}")
    for count in options.jobs:
        with tempfile.TemporaryDirectory(prefix="bursts-") as folder:
            if options.sqlite:
                _print_both(count, compare(Path(folder), f"sqlite:///{folder}/scheduler.db", count, options.rounds))
            else:
                with PostgresServer() as server:
                    _print_both(count, compare(Path(folder), server.url, count, options.rounds))


def figures(*, quick: bool) -> Iterator[Figure]:
    """Measure the row of the design that speaks of 1,000 ticks."""
    return measure(1000, QUICK_ROUNDS if quick else ROUNDS)


def large_figures(*, quick: bool) -> Iterator[Figure]:
    """Measure the row of the design that speaks of 10,000 ticks."""
    return measure(10_000, QUICK_ROUNDS if quick else LARGE_ROUNDS)


def measure(count: int, rounds: int) -> Iterator[Figure]:
    """Let so many ticks come due together, again and again, on a PostgreSQL server of their own."""
    with tempfile.TemporaryDirectory(prefix="bursts-") as folder, PostgresServer() as server:
        found = compare(Path(folder), server.url, count, rounds)
    delays = [[1000 * one for burst in side for one in burst.seconds] for side in (found.ours, found.plains)]
    processor = [[burst.processor_seconds for burst in side] for side in (found.ours, found.plains)]
    yield Figure(f"{count:,} ticks at once → function begins", "ms", delays[0], {"p99": TARGETS[count]}, delays[1])
    yield Figure(f"{count:,} ticks at once: processor time", "s", processor[0], {}, processor[1])


def compare(folder: Path, url: str, count: int, rounds: int) -> Comparison:
    """Let both live at the same time; count as many bursts of each as there are rounds."""
    (folder / "job.py").write_text(SOURCE)
    period = _period_seconds(count)
    jobs = {f"burst-{number:05}": {"run": "job:nothing", "every": f"{period}s"} for number in range(count)}
    books = Books(url)
    ours: list[Burst] = []
    plains: list[Burst] = []
    with Fleet(folder, url, jobs, election={}, service={"jobs_folder": str(folder)}) as fleet, _plain(count) as plain:
        (replica,) = fleet.start()
        replica.wait_for("timetable_armed")
        for turn in range(rounds + 1):
            tick = _next_tick(period, 0)
            begun = busy_seconds([replica.pid])
            _sleep_until(tick + timedelta(seconds=period // 2 - 2))
            fleet.wait_until(lambda tick=tick: _ended_count(books, tick) == count, 0.5)
            one = Burst(_delays(books, tick), busy_seconds([replica.pid]) - begun)
            other = _read_plain(plain)
            if turn:
                ours.append(one)
                plains.append(other)
    return Comparison(ours, plains)


def _period_seconds(count: int) -> int:
    """Return how far bursts are from each other: far enough for the first, when the machine does other things too."""
    return max(LEAST_PERIOD_SECONDS, 6 * count // 1000)


def _next_tick(period: int, offset_seconds: int) -> datetime:
    """Return the next multiple of the period that is not so near that we would miss it."""
    since = (time.time() - offset_seconds + 1) // period + 1
    return datetime.fromtimestamp(since * period + offset_seconds, UTC)


def _sleep_until(moment: datetime) -> None:
    time.sleep(max(0.0, moment.timestamp() - time.time()))


def _ended_count(books: Books, tick: datetime) -> int:
    return len(_delays(books, tick))


def _delays(books: Books, tick: datetime) -> list[float]:
    at = str(int(tick.timestamp() * 1_000_000)) if books.on_sqlite else f"'{tick.isoformat()}'"
    rows = books.rows(
        "select a.result from {p}run r join {p}run_attempt a on a.run_id = r.id"  # noqa: S608  # our own moment
        f" where r.scheduled_at = {at} and a.state = 'succeeded'"
    )
    return [float(result) for (result,) in rows]


# --- plain APScheduler


@contextlib.contextmanager
def _plain(count: int) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "benchmarks.bursts", "--plain", str(count))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # ourselves
        try:
            yield process
        finally:
            process.kill()


def _read_plain(process: subprocess.Popen[str]) -> Burst:
    assert process.stdout is not None  # noqa: S101  # asked for above
    return Burst(**json.loads(process.stdout.readline()))


def _be_plain(count: int) -> None:
    """Have plain APScheduler do the same; write a line for each burst."""
    delays: list[float] = []
    due_at = 0.0

    def nothing() -> None:
        delays.append(time.time() - due_at)

    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(Workers().threads)},
        job_defaults={"misfire_grace_time": None},
        timezone=UTC,
    )
    period = _period_seconds(count)
    first = tick = _next_tick(period, period // 2)
    scheduler.start(paused=True)
    for number in range(count):
        scheduler.add_job(nothing, "interval", seconds=period, start_date=first, id=f"job-{number:05}")
    scheduler.resume()
    while True:
        due_at = tick.timestamp()
        begun = busy_seconds([os.getpid()])
        _sleep_until(tick + timedelta(seconds=period // 2 - 2))
        print(json.dumps({"seconds": delays, "processor_seconds": busy_seconds([os.getpid()]) - begun}), flush=True)
        delays = []
        tick += timedelta(seconds=period)


# --- figures


def _cut(seconds: Sequence[float], percent: int) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _print_both(count: int, found: Comparison) -> None:
    _print(f"{count} ours", found.ours)
    _print(f"{count} plain", found.plains)
    ratios = [
        [_cut(one.seconds, at) / _cut(other.seconds, at) for one, other in zip(found.ours, found.plains, strict=True)]
        for at in (50, 90, 99, 100)
    ]
    figures = " ".join(f"{statistics.median(one):8.2f}" for one in ratios)
    print(f"{f'{count} ratio':22} {len(found.ours):7} {figures}", flush=True)


def _print(name: str, bursts: Sequence[Burst]) -> None:
    together = [one for burst in bursts for one in burst.seconds]
    figures = " ".join(f"{1000 * _cut(together, at):8.1f}" for at in (50, 90, 99, 100))
    processor = 1000 * statistics.median(burst.processor_seconds for burst in bursts)
    print(f"{name:22} {len(together):7} {figures} {processor:10.0f}", flush=True)


if __name__ == "__main__":
    main()
