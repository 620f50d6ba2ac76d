"""Hurt a fleet at random, from a seed, and report what held.

    python -m tests.chaos --seed 1 --minutes 5 [--replicas 4] [--sqlite] [--report FILE.json] [--show]

Exit code 1 when a promise was broken; the folder with logs, ledger and side effects is kept then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos import report
from tests.chaos.driver import Driver, Outcome
from tests.chaos.plan import Plan, plan
from tests.servers import PostgresServer


def main() -> int:
    """Do what the options say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same jobs, faults and requests")
    parser.add_argument("--minutes", type=float, default=1.0, help="for how long faults go on")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--sqlite", action="store_true", help="on one SQLite file")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was found as JSON")
    parser.add_argument("--show", action="store_true", help="print what would be done, and do nothing")
    options = parser.parse_args()
    drawn = plan(options.seed, options.minutes, options.replicas, sqlite=options.sqlite)
    if options.show:
        show(drawn)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.monotonic()
    outcome = run(drawn, folder, lambda what: print(f"{time.monotonic() - began:7.1f} s  {what}", file=sys.stderr))
    found = report.document(drawn, outcome.diary, outcome.records, outcome.verdict)
    print(report.text(found))
    if options.report:
        options.report.write_text(json.dumps(found, indent=1) + "\n")
    if outcome.verdict.violations:
        print(f"logs, configuration and side effects: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def run(drawn: Plan, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Carry a plan out on a database of its own."""
    with contextlib.ExitStack() as closing:
        server = None if drawn.sqlite else closing.enter_context(PostgresServer())
        return Driver(drawn, folder, server, tell=tell).run()


def show(drawn: Plan) -> None:
    """Print jobs and steps."""
    for job in drawn.jobs:
        print(job)
    for step in drawn.steps:
        print(step)


if __name__ == "__main__":
    sys.exit(main())
