"""How long a run takes to reach the first line of its function, and to be over, for each kind of job.

    python -m benchmarks.starts [--runs 200]

From the moment a worker has the attempt in hand, one run after another.  The function returns at
once what the boot clock says.  "interpreter", a command that starts Python and prints the same, is what a
process would cost without a template, before anything of ours is imported.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scheduler_service import schedule
from scheduler_service.clock import BootClock
from scheduler_service.events import Events
from scheduler_service.model import Attempt, Isolation, JobSpec, Kind, Outcome
from scheduler_service.runner import Runner

SOURCE = """
import time
def main(): return time.clock_gettime(time.CLOCK_BOOTTIME)
async def coroutine(): return time.clock_gettime(time.CLOCK_BOOTTIME)
"""
PAUSE_SECONDS = 0.05  # in which the next child is forked, as between the ticks of a job
PRINT = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME))"
KINDS: dict[str, dict[str, Any]] = {
    "thread": {"run": "job:main"},
    "thread, timeout": {"run": "job:main", "timeout": timedelta(minutes=1)},
    "coroutine": {"run": "job:coroutine"},
    "process": {"run": "job:main", "isolation": Isolation.PROCESS},
    "command": {"command": "echo 0"},
    "interpreter": {"command": (sys.executable, "-c", PRINT)},
}


def main() -> None:
    """Run each kind and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="how often each kind is run")
    options = parser.parse_args()
    clock, noon = BootClock(), datetime(2026, 11, 23, 12, tzinfo=UTC)
    print(f"{'milliseconds':18} {'to':12} {'n':>5} {'p50':>8} {'p90':>8} {'p99':>8}")
    with tempfile.TemporaryDirectory(prefix="starts-") as folder:
        (Path(folder) / "job.py").write_text(SOURCE)
        runner = Runner(
            jobs_folder=Path(folder), output_limit=1000, events=Events(), clock=clock, instance_id="benchmark"
        )

        def run(spec: JobSpec) -> Outcome:
            attempt = Attempt(1, 1, 1, spec.id, noon, noon, Kind.MANUAL, 1, "benchmark", noon, 0.0)
            return runner.run(attempt, spec, threading.Event())

        for name, settings in KINDS.items():
            spec = JobSpec(id="job", schedule=schedule.manual(), **settings)
            run(spec)  # loads the module, or starts the template
            begun, ended = [], []
            for _ in range(options.runs):
                time.sleep(PAUSE_SECONDS)
                before = clock.monotonic()
                outcome = run(spec)
                ended.append(clock.monotonic() - before)
                begun.append(float(outcome.result or outcome.output) - before)
            if name != "command":  # a shell has no clock fine enough
                _print(name, "first line", begun)
            _print(name, "end", ended)
        runner.close()


def _print(name: str, what: str, seconds: Sequence[float]) -> None:
    cuts = statistics.quantiles(seconds, n=100)
    figures = " ".join(f"{1000 * cuts[at - 1]:8.2f}" for at in (50, 90, 99))
    print(f"{name:18} {what:12} {len(seconds):5} {figures}", flush=True)


if __name__ == "__main__":
    main()
