"""What is measured at one size, over several sizes: as a table, and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import Row, markdown, shown
from tests.chaos.drawing import Sizes, draw

Measured = Mapping[str, float]  # by label, which ends with the unit


@dataclass(frozen=True, slots=True)
class Subject:
    """A quantity that grows, and what is measured at each size of it."""

    name: str
    what: str  # the head of the column of sizes
    sizes: Sequence[int]
    measure: Callable[[int], Measured]


LOAD = "load average before"


def merged(rows: Sequence[Row], size: int, measured: Measured, load: float) -> list[Row]:
    """Return the rows with that of `size` replaced, in the order of their sizes; `load`: the machine's, before."""
    others = [row for row in rows if row["size"] != size]
    row = {"size": size, "load": round(load, 1), "measured": dict(measured)}
    return sorted([*others, row], key=lambda row: int(row["size"]))


def table(subject: Subject, rows: Sequence[Row]) -> str:
    """Return a line for each size."""
    labels = _labels(rows)
    lines = [
        [f"{row['size']:,}", *(_cell(row["measured"], label) for label in labels), f"{row['load']}"] for row in rows
    ]
    return markdown((subject.what, *labels, LOAD), lines)


def picture(subject: Subject, rows: Sequence[Row]) -> str:
    """Draw a panel for each label; the distance between sizes is that of their logarithms."""
    panels = [
        (label, {label: [(float(row["size"]), row["measured"][label]) for row in rows if label in row["measured"]]})
        for label in _labels(rows)
    ]
    return draw(f"{subject.what}: python -m benchmarks.growth {subject.name}", panels, (), Sizes(_sizes(rows)))


def _sizes(rows: Sequence[Row]) -> list[float]:
    return [float(row["size"]) for row in rows]


def _labels(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(label for row in rows for label in row["measured"]))


def _cell(measured: Measured, label: str) -> str:
    return shown(measured[label]) if label in measured else ""
