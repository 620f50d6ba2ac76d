"""Measure what the design names, beside plain APScheduler, and print it as one table.

    python -m benchmarks [--quick] [--only NAME …] [--json FILE] [--page FILE]

Each name stands for one measurement, a real server of its own and real replicas, and gives some rows.  With --json the
rows are written to FILE, after each measurement; rows that FILE has from others stay, so that a long run can be done in
parts, and `--only` without a name shows what FILE has.  --page puts that table into a page, between its two marks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping

from benchmarks import bursts, idle, launches, silence, takeover, week
from benchmarks.figures import Figure, table
from benchmarks.records import Record, add_file_options, put_into

EXPERIMENTS: Mapping[str, Callable[..., Iterator[Figure]]] = {
    "takeover": takeover.figures,
    "silence": silence.figures,
    "bursts": bursts.figures,
    "large-bursts": bursts.large_figures,
    "week": week.figures,
    "idle": idle.figures,
    "launch": launches.figures,
}

MARK = "python -m benchmarks"  # in pages
NOT_QUICK = ("large-bursts",)  # minutes, whatever is left out of it


def main() -> None:
    """Do what the options say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"few trials, about two minutes, and figures to match; without {', '.join(NOT_QUICK)} unless --only asks",
    )
    parser.add_argument("--only", nargs="*", choices=EXPERIMENTS, metavar="NAME", help=", ".join(EXPERIMENTS))
    add_file_options(parser)
    options = parser.parse_args()
    record = Record.asked_for(parser, options)
    usual = [name for name in EXPERIMENTS if not (options.quick and name in NOT_QUICK)]
    for name in usual if options.only is None else options.only:
        print(f"{name} …", file=sys.stderr, flush=True)
        load = os.getloadavg()[0]
        rows = [figure.row() for figure in EXPERIMENTS[name](quick=options.quick)]
        record.replace(name, rows, quick=options.quick, load=load)
        record.write()
    print(table(record.rows(EXPERIMENTS)))
    if options.page is not None:
        put_into(options.page, MARK, page(record))


def page(record: Record) -> str:
    """Return what stands between the marks of a page."""
    missing = [name for name in EXPERIMENTS if name not in record.parts]
    note = f" Not measured: {', '.join(missing)}." if missing else ""
    return f"{record.described()}{note}\n\n{table(record.rows(EXPERIMENTS))}"


if __name__ == "__main__":
    main()
