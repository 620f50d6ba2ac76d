"""Figures: what was measured, what was to be reached, and what plain APScheduler takes for the same work.

A figure becomes a row, plain data as it stands in JSON, and rows become a table for people: both say the same because
one is made from the other.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.report import distribution
from tests.servers import PostgresServer

Row = Mapping[str, Any]

HEAD = ("what", "to reach", "n", "p50", "p99", "max", "plain APScheduler", "reached")
MEASURES = ("p50", "p99", "max")
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Figure:
    """Values of one kind, all in `unit`; `targets` gives the most that a measure of them (`p50`, …) may be."""

    what: str
    unit: str
    values: Sequence[float]
    targets: Mapping[str, float] = field(default_factory=dict)
    plain: Sequence[float] | None = None  # None where plain APScheduler does nothing of the kind

    def row(self) -> dict[str, Any]:
        """Return what the values come to."""
        found = distribution(self.values)
        return {
            "what": self.what,
            "unit": self.unit,
            "target": dict(self.targets),
            **found,
            "plain": None if self.plain is None else distribution(self.plain),
            "reached": all(found[measure] <= most for measure, most in self.targets.items()) if self.targets else None,
        }


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table that can be pasted into a page."""
    return markdown(HEAD, [_cells(row) for row in rows])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns stand below each other in a terminal too."""
    widths = [max(3, *(len(row[column]) for row in (head, *rows))) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def shown(value: float) -> str:
    """Return a number with as many digits as can be meant."""
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    server = PostgresServer()
    try:
        postgresql = server.version
    finally:
        server.close()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / GIB),
        "system": platform.system() + " " + platform.release(),
        "python": platform.python_version(),
        "postgresql": postgresql.rpartition(" ")[2],
        "apscheduler": version("apscheduler"),
        "scheduler_service": version("scheduler-service"),
    }


def _cells(row: Row) -> list[str]:
    reached = {True: "yes", False: "no", None: ""}[row["reached"]]
    target = ", ".join(f"{measure} ≤ {shown(most)}" for measure, most in row["target"].items())
    plain = "" if row["plain"] is None else _measures(row["plain"])
    unit = f", {row['unit']}" if row["unit"] else ""
    return [row["what"] + unit, target, str(row["n"]), *(shown(row[one]) for one in MEASURES), plain, reached]


def _measures(found: Row) -> str:
    return " / ".join(shown(found[measure]) for measure in MEASURES)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
