"""How the commands write: tables for people, JSON for scripts, moments and durations for both."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from scheduler_service import moments
from scheduler_service.moments import iso

if TYPE_CHECKING:
    from scheduler_service.config import ConfigError

GAP = "  "
LEAST_COLUMN = 12  # characters that a shortened column keeps

# control characters, and those that turn the direction of writing
_ACTS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|\r(?!\n)")
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


class Mistake(click.ClickException):
    """Something that the person can put right; the message says what.  Exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the message, which may have several lines, to stderr."""
        click.echo(visible(f"error: {self.message}"), file=file, err=file is None)


class Problems(Mistake):
    """What is wrong with a configuration: lines that begin with their place in the file, and a way around it."""

    def __init__(self, error: ConfigError) -> None:
        super().__init__(str(error))
        self.problems = error.problems
        self.advice: str | None = None

    def show(self, file: Any = None) -> None:
        """Write the lines as they are: editors and terminals make links of them."""
        for text in filter(None, (self.message, self.advice)):
            click.echo(visible(text), file=file, err=file is None)


class NoDatabase(Mistake):
    """There is no database, or it refuses us.  Exit code 69."""

    exit_code = 69


def shown(moment: datetime | None) -> str:
    """Return a moment for a table."""
    return iso(moment) or "-"


def about(moment: datetime) -> str:
    """Return a moment that is no tick, for a person: to the millisecond."""
    return shown(moment.replace(microsecond=moment.microsecond // 1000 * 1000))


def span(seconds: float | None) -> str:
    """Return a duration for a table."""
    return "-" if seconds is None else moments.span(seconds)


def visible(text: str, *, colours: bool = False) -> str:
    r"""Return `text` with whatever acts on a terminal shown instead, as \x1b; lines, tabs and `colours` may stay."""
    if colours:
        # Ended, so that none of them reaches what comes after.
        pieces = _COLOUR.split(text)
        shown = "".join(piece if place % 2 else visible(piece) for place, piece in enumerate(pieces))
        return f"{shown}\x1b[0m" if len(pieces) > 1 else shown
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str, *, err: bool = False, colours: bool = False) -> None:
    """Write a line, or some, for people: nothing of what jobs and people wrote acts on the terminal, see `visible`."""
    click.echo(visible(text, colours=colours), err=err)


def write_json(document: Any) -> None:
    """Write one document to stdout, escaped where that has no letters for it, or where nothing has."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(document, indent=2)
    click.echo(text)


def write_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, shrink: str | None = None) -> None:
    """Write rows under headers, columns aligned.

    On a terminal the column `shrink` is shortened as far as that makes the lines fit; elsewhere nothing is.
    """
    texts = [[_one_line(cell) for cell in row] for row in rows]
    lines = [list(headers), *texts]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headers))]
    if shrink is not None and sys.stdout.isatty():
        excess = sum(widths) + len(GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
        index = headers.index(shrink)
        widths[index] = min(widths[index], max(LEAST_COLUMN, widths[index] - max(0, excess)))
    for line in lines:
        cells = [_shorten(cell, width).ljust(width) for cell, width in zip(line, widths, strict=True)]
        say(GAP.join(cells).rstrip())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or what there is, or nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return ""
    return f"; there are {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()) if any(ord(letter) < 32 for letter in text) else text)


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
