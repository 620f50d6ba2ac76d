"""How much a reload of many jobs holds up the ticks of others.

    python -m benchmarks.reload [--jobs 1000] [--reloads 8]

One replica on SQLite has five jobs of `every: 200ms`, and many that come due once a day.  Its file is edited
and SIGHUP sent, again and again: first one of the many jobs is changed in each edit, then the schedules of
all of them.  Delays are those of the five jobs, from tick to start, as the log has them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.fleet import Fleet

QUICK_COUNT = 5
SETTLED_STARTS = 50  # of the five jobs, before anything is measured,
QUIET_STARTS = 200  # and while nothing is edited

Jobs = Mapping[str, Mapping[str, Any]]


def main() -> None:
    """Run the series and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000, help="how many jobs there are beside the five")
    parser.add_argument("--reloads", type=int, default=8, help="how often the file is edited in each series")
    options = parser.parse_args()
    print(f"{'milliseconds':24} {'n':>5} {'p50':>8} {'p99':>8} {'max':>8}")
    with tempfile.TemporaryDirectory(prefix="reload-") as folder:
        url, jobs = f"sqlite:///{folder}/scheduler.db", _all_edited(options.jobs, 0)
        with Fleet(Path(folder), url, jobs, election={}) as fleet:
            fleet.start()
            _await_starts(fleet, SETTLED_STARTS)
            _series(fleet, options.jobs, options.reloads)
            fleet.drain()


def _series(fleet: Fleet, job_count: int, reload_count: int) -> None:
    mark = fleet.mark()
    _await_starts(fleet, QUIET_STARTS)
    _print("delay, quiet", _delays(fleet, mark))
    for name, edited in (("one job", _one_edited), ("all schedules", _all_edited)):
        mark = fleet.mark()
        took = [_reload(fleet, edited(job_count, number + 1)) for number in range(reload_count)]
        _print(f"delay, {name}", _delays(fleet, mark))
        _print(f"reload, {name}", took)


def _one_edited(count: int, edit: int) -> Jobs:
    jobs = dict(_all_edited(count, 0))
    return {**jobs, "daily-0000": {**jobs["daily-0000"], "description": f"edit {edit}"}}


def _all_edited(count: int, edit: int) -> Jobs:
    quick = {f"quick-{number}": {"run": "tally:nothing", "every": "200ms"} for number in range(QUICK_COUNT)}
    daily = {
        f"daily-{number:04}": {"run": "tally:nothing", "cron": f"{number % 60} {(number + edit) % 24} * * *"}
        for number in range(count)
    }
    return {**quick, **daily}


def _reload(fleet: Fleet, jobs: Jobs) -> float:
    """Edit, reload, and let the five jobs run on; return how long it took until the edit was in use."""
    (replica,) = fleet.replicas
    fleet.config_path.write_text(fleet.text(jobs))
    mark, began = fleet.mark(), time.monotonic()
    replica.reload()
    replica.wait_for("config_reloaded", since=mark)
    seconds = time.monotonic() - began
    _await_starts(fleet, 5 * QUICK_COUNT)
    return seconds


def _await_starts(fleet: Fleet, count: int) -> None:
    mark = fleet.mark()
    fleet.wait_until(lambda: len(_delays(fleet, mark)) >= count)


def _delays(fleet: Fleet, mark: int) -> list[float]:
    starts = (entry for _, entry in fleet.said("run_started", mark))
    return [entry["delay_seconds"] for entry in starts if entry["job"].startswith("quick")]


def _print(name: str, seconds: Sequence[float]) -> None:
    ordered = sorted(1000 * one for one in seconds)
    p50, p99 = (ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    print(f"{name:24} {len(ordered):5} {p50:8.1f} {p99:8.1f} {ordered[-1]:8.1f}", flush=True)


if __name__ == "__main__":
    main()
