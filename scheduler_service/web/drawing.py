"""Where the lines of the pages' small pictures go.  The templates draw them, as SVG, but for the cells of strips.

strip     the newest runs of a job, one column each: its state above, how long it took below
chart     the same, larger, with what a column's height stands for
timeline  who led when
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from markupsafe import Markup, escape

from scheduler_service.ledger.history import Leader, RunRow, TermRow
from scheduler_service.model import State
from scheduler_service.web.wording import LETTERS, row_words

STRIP_COLUMN = 14  # pixels from one column to the next
STRIP_BAR = 12  # pixels of the longest duration
CHART_HEIGHT = 96
COLOURS = 6  # of replicas in the timeline
NOTED_GAP_SECONDS = 0.001
SHAPES = 8192  # that are remembered


@dataclass(frozen=True, slots=True)
class Column:
    """One run of a strip or chart."""

    row: RunRow
    x: float
    height: float  # of the bar that shows how long it took


@dataclass(frozen=True, slots=True)
class Strip:
    """The newest runs of a job, the newest on the right."""

    columns: tuple[Column, ...]
    longest_seconds: float | None
    median_seconds: float | None  # what is usual

    def cells(self) -> Markup:
        """Draw the columns of a strip: a page has a thousand, and a template takes three times as long."""
        last = len(self.columns) - 1
        drawn = []
        for number, one in enumerate(self.columns):
            row = one.row
            stop = "" if number == last else ' tabindex="-1"'
            title, shape = escape(row_words(row)), _shape(one.x, row.state, one.height)
            drawn.append(f'<a href="/runs/{row.id}" data-key="{row.id}"{stop}><title>{title}</title>{shape}</a>\n')
        return Markup("".join(drawn))  # noqa: S704  # words are escaped, the rest is ours


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the timeline, in hundredths of its width: a term, or a time without a leader (`term` None)."""

    x: float
    width: float
    seconds: float
    term: TermRow | None = None
    colour: int = 0
    goes_on: bool = False


def strip(rows: Sequence[RunRow], height: float = STRIP_BAR) -> Strip:
    """Lay out `rows`, oldest first."""
    durations = [row.duration_seconds for row in rows]
    times = sorted(one for one in durations if one is not None)
    longest = times[-1] if times else None
    columns = []
    for number, (row, seconds) in enumerate(zip(rows, durations, strict=True)):
        tall = 0.0 if seconds is None or longest is None else max(1.0, height * seconds / longest if longest else 1.0)
        columns.append(Column(row, number * STRIP_COLUMN, round(tall, 1)))
    return Strip(tuple(columns), longest, times[len(times) // 2] if times else None)


@lru_cache(SHAPES)
def _shape(x: float, state: State, height: float) -> str:
    letter, took = LETTERS[state], ""
    if letter:
        letter = f'<text class="letter" x="{x + 6.5}" y="12.6">{letter}</text>'
    if height:
        took = f'<rect class="took" x="{x + 2.5}" y="{33 - height:g}" width="8" height="{height:g}" rx="1"/>'
    return (
        f'<rect class="hit" x="{x}" width="14" height="34"/>'
        f'<rect class="cell {state.value}" x="{x + 0.5}" y=".5" width="12" height="17" rx="2.5"/>{letter}{took}'
    )


def timeline(terms: Sequence[TermRow], leader: Leader | None, now: datetime) -> tuple[Piece, ...]:
    """Lay out `terms`, newest first, as stretches from left to right.

    Widths grow with the logarithm of the time, so that a failover of milliseconds and a month of quiet can
    stand beside each other.
    """
    stretches: list[tuple[float, TermRow | None, bool]] = []
    ordered = sorted(terms, key=lambda one: one.term)
    for number, term in enumerate(ordered):
        following = ordered[number + 1].acquired_at if number + 1 < len(ordered) else None
        goes_on = leader is not None and leader.term == term.term
        end = term.ended_at or following or now
        end = min(end, following) if following is not None else end
        stretches.append((max(0.0, (end - term.acquired_at).total_seconds()), term, goes_on))
        gap_end = following if following is not None else (None if goes_on else now)
        if gap_end is not None and (gap := (gap_end - end).total_seconds()) > NOTED_GAP_SECONDS:
            stretches.append((gap, None, False))
    weights = [math.log10(1 + seconds) + (0.8 if term else 0.15) for seconds, term, _ in stretches]
    whole = sum(weights) or 1.0
    colours = _colours(ordered)
    pieces, x = [], 0.0
    for (seconds, led, goes_on), weight in zip(stretches, weights, strict=True):
        width = 100 * weight / whole
        colour = colours[led.leader_id] if led is not None else 0
        pieces.append(Piece(round(x, 3), round(width, 3), seconds, led, colour, goes_on))
        x += width
    return tuple(pieces)


def _colours(terms: Sequence[TermRow]) -> dict[str, int]:
    found: dict[str, int] = {}
    for term in terms:
        found.setdefault(term.leader_id, len(found) % COLOURS)
    return found
