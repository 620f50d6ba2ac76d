"""What is wrong with a configuration, and where: collected, so that one look shows everything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Position(NamedTuple):
    """A place in a file, line and column counted from 1; line 0 is the file as a whole."""

    line: int
    column: int
    file: str = ""  # as messages call it; empty: the file of the report


WHOLE_FILE = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or worth a warning: `config.yaml:14:5   jobs.nightly.tiemout: …`."""

    file: str
    line: int
    column: int
    path: str  # of the setting, as in jobs.nightly.timeout; empty where there is none
    message: str

    def format(self, width: int = 5) -> str:
        """Return the line for a person, with `width` characters for line and column."""
        place = f":{f'{self.line}:{self.column}':<{width}}  " if self.line else ": "
        return f"{self.file}{place}{self.path}{': ' if self.path else ''}{self.message}"

    def __str__(self) -> str:
        return self.format()


def format_problems(problems: Iterable[Problem]) -> str:
    """Return the lines for a person, aligned."""
    problems = tuple(problems)
    width = max((len(f"{problem.line}:{problem.column}") for problem in problems if problem.line), default=0)
    return "\n".join(problem.format(width) for problem in problems)


class ConfigError(Exception):
    """The configuration cannot be used.  Its text is one line for each of `problems`, in order of position.

    `files` and `include` are those of the configuration as far as it could be read: where a mistake may be
    put right.
    """

    def __init__(
        self, problems: Iterable[Problem], *, files: tuple[Path, ...] = (), include: tuple[str, ...] = ()
    ) -> None:
        self.problems = tuple(problems)
        self.files = files
        self.include = include
        super().__init__(format_problems(self.problems))


class Report:
    """Collects the problems and warnings of one file, and of what it includes."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._files = [file]  # in the order in which they are told of
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def add(self, position: Position, path: str, message: str) -> None:
        """Note something wrong."""
        self._problems.append(self._problem(position, path, message))

    def warn(self, position: Position, path: str, message: str) -> None:
        """Note something that is allowed and hardly meant."""
        self._warnings.append(self._problem(position, path, message))

    def extend(self, other: Report) -> None:
        """Take over what another report collected; what it says of other files comes after that of ours."""
        self._files += other._files
        self._problems += other._problems
        self._warnings += other._warnings

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong: file by file, in order of position."""
        return self._in_order(self._problems)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The warnings: file by file, in order of position."""
        return self._in_order(self._warnings)

    def _problem(self, position: Position, path: str, message: str) -> Problem:
        file = position.file or self.file
        self._files.append(file)
        return Problem(file, position.line, position.column, path, message)

    def _in_order(self, problems: list[Problem]) -> tuple[Problem, ...]:
        places = {file: place for place, file in enumerate(dict.fromkeys(self._files))}
        once = dict.fromkeys(problems)
        return tuple(sorted(once, key=lambda problem: (places[problem.file], problem.line, problem.column)))
