"""An hour of many jobs with a fault a minute: what does it cost at the end, compared with the beginning?

    python -m tests.chaos.soak --minutes 60 --replicas 4 --jobs 500 [--report FILE.json] [--plot FILE.svg]

Every ten seconds: memory, threads, file descriptors and database connections of each replica, sizes and dead rows
of each table.  History is kept for three minutes, so that pruning and autovacuum have work all the time.

Printed is the median of the first quarter beside that of the last: for a replica, of its own life, since faults
replace them; for the database, of what follows the first fifteen minutes, in which history fills.  Promises are
judged as in `tests.chaos`; exit code 1 if one was broken.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.chaos import report
from tests.chaos.diary import Diary
from tests.chaos.drawing import Panel, draw
from tests.chaos.driver import Driver
from tests.chaos.plan import plan_soak
from tests.chaos.sampling import Point, Sampler, Samples
from tests.servers import PostgresServer

KEEP_FOR = timedelta(minutes=3)
# So that it acts within minutes, as it does within days on tables that grow slower.
AUTOVACUUM = {
    "autovacuum": "on",
    "autovacuum_naptime": "5s",
    "autovacuum_vacuum_threshold": "50",
    "autovacuum_vacuum_scale_factor": "0.1",
    "autovacuum_vacuum_insert_threshold": "1000",
}
LEAST_SECONDS = 300.0  # a process that lived shorter has no quarters to compare
FULL_SECONDS = 900.0  # then history holds as much as is kept; what is shorter is compared from its beginning
PLOTTED_PROCESSES = ("memory, MiB", "threads", "file descriptors", "connections")
PLOTTED_TABLES = ("table, KiB", "indexes, KiB", "live rows", "dead rows")


def main() -> int:
    """Do what the options say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--report", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it as SVG")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    drawn = plan_soak(options.seed, options.minutes, options.replicas, options.jobs)
    began = time.monotonic()
    with PostgresServer(AUTOVACUUM) as server:
        driver = Driver(
            drawn,
            folder,
            server,
            keep_for=KEEP_FOR,
            tell=lambda what: print(f"{time.monotonic() - began:7.1f} s  {what}", file=sys.stderr, flush=True),
        )
        sampler = Sampler(driver.fleet, driver.books, driver.faults.instance)
        with sampler.looking():
            outcome = driver.run()
    found = report.document(drawn, outcome.diary, outcome.records, outcome.verdict)
    rows = quarters(sampler.samples)
    print(report.text(found))
    print()
    print(text(rows))
    if options.report:
        samples = {"processes": sampler.samples.processes, "database": sampler.samples.database}
        options.report.write_text(json.dumps({**found, "quarters": rows, "samples": samples}) + "\n")
    if options.plot:
        options.plot.write_text(picture(drawn.command, sampler.samples, outcome.diary))
    if found["violations"]:
        print(f"logs, configuration and side effects: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def quarters(samples: Samples) -> list[dict[str, Any]]:
    """Return by series the median of its first quarter and that of its last."""
    rows = []
    for name, series in samples.processes.items():
        pairs = [pair for line in series.values() if (pair := _quarters(line)) is not None]
        if pairs:
            rows.append(
                {
                    "series": f"{name}, of {len(pairs)} replicas",
                    "first": statistics.median(first for first, _ in pairs),
                    "last": statistics.median(last for _, last in pairs),
                    "most_grown": max(last - first for first, last in pairs),
                }
            )
    for name, series in samples.database.items():
        for label, line in series.items():
            full = [point for point in line if point[0] >= FULL_SECONDS]
            pair = _quarters(full) or _quarters(line)
            if pair is not None:
                rows.append(
                    {"series": f"{label}: {name}", "first": pair[0], "last": pair[1], "most_grown": pair[1] - pair[0]}
                )
    return rows


def _quarters(line: Sequence[Point]) -> tuple[float, float] | None:
    if not line or line[-1][0] - line[0][0] < LEAST_SECONDS:
        return None
    count = max(1, len(line) // 4)
    first, last = (statistics.median(value for _, value in part) for part in (line[:count], line[-count:]))
    return first, last


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table that can be pasted into a page."""
    head = ["| series | first quarter | last quarter | most that one grew |", "| --- | --- | --- | --- |"]
    return "\n".join(
        head
        + [f"| {row['series']} | {row['first']:.1f} | {row['last']:.1f} | {row['most_grown']:+.1f} |" for row in rows]
    )


def picture(title: str, samples: Samples, diary: Diary) -> str:
    """Draw what replicas and tables took up."""
    panels: list[Panel] = [(f"{name}, each replica", samples.processes[name]) for name in PLOTTED_PROCESSES]
    panels += [(name, samples.database[name]) for name in PLOTTED_TABLES]
    return draw(title, panels, [(deed.at - samples.began_at).total_seconds() for deed in diary.deeds])


if __name__ == "__main__":
    sys.exit(main())
