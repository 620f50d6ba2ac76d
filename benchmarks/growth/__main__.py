"""Measure how one thing grows, and print a table of it.

    python -m benchmarks.growth {jobs,ticks,replicas,rows} [--sizes N …] [--json FILE] [--page FILE] [--picture FILE]

Rows that FILE has of other sizes and subjects stay, so that a long series can be measured in parts; without any size
(`--sizes` alone) nothing is measured, and what FILE has is shown.  --page puts the table into a page, between its two
marks; --picture draws it as SVG.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.growth import jobs, replicas, rows, ticks
from benchmarks.growth.curves import Subject, merged, picture, table
from benchmarks.records import Record, add_file_options, put_into

SUBJECTS: Mapping[str, Subject] = {
    one.name: one for one in (jobs.SUBJECT, ticks.SUBJECT, replicas.SUBJECT, rows.SUBJECT)
}


def main() -> None:
    """Do what the options say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--sizes", type=int, nargs="*", metavar="N", help="instead of those that are usual")
    add_file_options(parser)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the table as SVG")
    options = parser.parse_args()
    record = Record.asked_for(parser, options)
    subject = SUBJECTS[options.subject]
    for size in subject.sizes if options.sizes is None else options.sizes:
        print(f"{size:,} {subject.what} …", file=sys.stderr, flush=True)
        load = os.getloadavg()[0]
        measured = subject.measure(size)
        rows_of_subject = merged(record.rows([subject.name]), size, measured, load)
        record.replace(subject.name, rows_of_subject, quick=False, load=load)
        record.write()
    found = record.rows([subject.name])
    print(table(subject, found))
    if options.page is not None:
        put_into(options.page, mark(subject), table(subject, found))
    if options.picture is not None:
        options.picture.write_text(picture(subject, found))


def mark(subject: Subject) -> str:
    """Return the words of the marks between which the table of a subject stands in a page."""
    return f"python -m benchmarks.growth {subject.name}"


if __name__ == "__main__":
    main()
