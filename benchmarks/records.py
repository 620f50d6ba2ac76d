"""Rows of figures in a JSON file that is measured part by part, and tables of them in pages."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from benchmarks.figures import Row, machine


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Let a command say where its figures go."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE, and keep its other rows")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between the marks of this page")


@dataclass
class Record:
    """What was measured on one machine: by name of the measurement, when and which rows."""

    machine: Mapping[str, Any]
    path: Path | None = None
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def asked_for(cls, parser: argparse.ArgumentParser, options: argparse.Namespace) -> Self:
        """Return what the file of `--json` holds; a file of another machine ends the command."""
        try:
            return cls.read(options.json, machine())
        except ValueError as error:
            parser.error(str(error))

    @classmethod
    def read(cls, path: Path | None, machine: Mapping[str, Any]) -> Self:
        """Return what a file holds, nothing if there is none; ValueError if it is of another machine."""
        if path is None or not path.exists():
            return cls(machine, path)
        found = json.loads(path.read_text())
        if found["machine"] != dict(machine):
            raise ValueError(
                f"{path} was measured on {found['machine']}, and this is {dict(machine)}: figures of both in one file"
                " would be compared; remove it, or name another file"
            )
        return cls(machine, path, found["parts"])

    def replace(self, name: str, rows: Sequence[Row], *, quick: bool, load: float) -> None:
        """Take the rows of a measurement that has just been made; `load` is what the machine had to do before it."""
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.parts[name] = {
            "measured_at": at,
            "quick": quick,
            "load": round(load, 1),
            "rows": [dict(row) for row in rows],
        }

    def rows(self, names: Iterable[str]) -> list[Row]:
        """Return the rows of these measurements, in this order."""
        return [row for name in names if name in self.parts for row in self.parts[name]["rows"]]

    def write(self) -> None:
        """Write everything to the file, if there is one."""
        if self.path is not None:
            self.path.write_text(json.dumps({"machine": dict(self.machine), "parts": self.parts}, indent=1) + "\n")

    def described(self) -> str:
        """Say in a sentence where and when this was measured."""
        one = self.machine
        days = sorted({part["measured_at"][:10] for part in self.parts.values()})
        when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        loads = sorted(part["load"] for part in self.parts.values())
        hurried = [name for name, part in self.parts.items() if part["quick"]]
        return (
            f"{one['cores']} cores of {one['processor']}, {one['memory_gib']} GiB, {one['system']}, Python"
            f" {one['python']}, PostgreSQL {one['postgresql']}, APScheduler {one['apscheduler']}; {when}; load average"
            f" before the measurements {loads[0]} to {loads[-1]}"
            + (f"; few trials (`--quick`): {', '.join(hurried)}." if hurried else ".")
        )


def put_into(page: Path, mark: str, text: str) -> None:
    """Put text between the marks `<!-- mark -->` and `<!-- /mark -->` of a page; ValueError if it lacks them."""
    before, _, after = _around(page, mark)
    page.write_text(f"{before}{text}{after}")


def found_in(page: Path, mark: str) -> str:
    """Return the text between the marks of a page; ValueError if it lacks them."""
    return _around(page, mark)[1]


def _around(page: Path, mark: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {mark} -->\n", f"\n<!-- /{mark} -->"
    words = page.read_text()
    if words.count(begin) != 1 or words.count(end) != 1 or words.index(end) < words.index(begin):
        raise ValueError(f"{page} has no {begin.strip()} with one {end.strip()} behind it")
    before, _, rest = words.partition(begin)
    within, _, after = rest.partition(end)
    return before + begin, within, end + after
