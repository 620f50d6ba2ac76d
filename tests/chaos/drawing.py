"""Small multiples as SVG: one panel for each quantity, one line for each series."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Protocol

from tests.chaos.sampling import Point

WIDTH, HEIGHT = 460, 150  # of one panel
COLUMNS = 2
MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM, MARGIN_RIGHT = 56, 26, 22, 14
POINTS = 120  # of one line: more cannot be seen
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")

# Pages are read in the light and in the dark.
STYLE = """
<style>
  text { fill: #24292f } .paper { fill: #ffffff } .grid { stroke: #d8dee4 } .mark { stroke: #888888 }
  @media (prefers-color-scheme: dark) { text { fill: #d0d7de } .paper { fill: #0d1117 } .grid { stroke: #30363d } }
</style>"""

Panel = tuple[str, Mapping[str, Sequence[Point]]]


class Axis(Protocol):
    """What all panels have across."""

    def share(self, value: float) -> float:
        """Return where a value stands, from 0 at the left to 1 at the right."""

    def labels(self) -> Iterator[tuple[float, str]]:
        """Return shares, and what is written below them."""


@dataclass(frozen=True)
class Minutes:
    """Time, in seconds from the beginning."""

    until: float

    def share(self, value: float) -> float:
        return value / self.until

    def labels(self) -> Iterator[tuple[float, str]]:
        return ((share, f"{self.until * share / 60:.0f} min") for share in (0.0, 0.25, 0.5, 0.75, 1.0))


@dataclass(frozen=True)
class Sizes:
    """Sizes, as far from each other as their logarithms; nothing counts as a tenth of the least that is more."""

    sizes: Sequence[float]

    def share(self, value: float) -> float:
        least = min((size for size in self.sizes if size), default=1.0) / 10
        first, last, here = (math.log(max(one, least)) for one in (min(self.sizes), max(self.sizes), value))
        return (here - first) / (last - first) if last > first else 0.0

    def labels(self) -> Iterator[tuple[float, str]]:
        return ((self.share(size), _size(size)) for size in self.sizes)


def draw(title: str, panels: Sequence[Panel], faults: Sequence[float], axis: Axis | None = None) -> str:
    """Return a picture of the panels over one axis, that of time if none is given; faults are marks on it."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 30
    until = max((point[0] for _, series in panels for line in series.values() for point in line), default=1.0)
    body = [_panel(panel, number, axis or Minutes(until), faults) for number, panel in enumerate(panels)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="11">',
            STYLE,
            f'<rect width="{width}" height="{height}" class="paper"/>',
            f'<text x="{MARGIN_LEFT}" y="18" font-size="14">{escape(title)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel, number: int, axis: Axis, faults: Sequence[float]) -> str:
    name, series = panel
    left, top = (number % COLUMNS) * WIDTH, 30 + (number // COLUMNS) * HEIGHT
    x0, y0 = left + MARGIN_LEFT, top + HEIGHT - MARGIN_BOTTOM
    across, up = WIDTH - MARGIN_LEFT - MARGIN_RIGHT, HEIGHT - MARGIN_TOP - MARGIN_BOTTOM
    most = max((value for line in series.values() for _, value in line), default=0.0) or 1.0

    def place(point: Point) -> str:
        return f"{x0 + across * axis.share(point[0]):.1f},{y0 - up * point[1] / most:.1f}"

    parts = [f'<text x="{x0}" y="{top + 16}">{escape(name)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = y0 - up * share
        parts.append(f'<path d="M{x0} {y:.1f}h{across}" class="grid"/>')
        parts.append(f'<text x="{x0 - 5}" y="{y + 4:.1f}" text-anchor="end">{_shown(most * share)}</text>')
    for share, caption in axis.labels():
        parts.append(f'<text x="{x0 + across * share:.1f}" y="{y0 + 14}" text-anchor="middle">{caption}</text>')
    marks = "".join(f"M{x0 + across * axis.share(at):.1f} {y0}v-4" for at in faults if axis.share(at) <= 1.0)
    parts.append(f'<path d="{marks}" class="mark"/>')
    for order, (label, line) in enumerate(series.items()):
        colour = COLOURS[order % len(COLOURS)]
        points = " ".join(place(point) for point in _thinned(line))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}"><title>{escape(label)}</title></polyline>'
        )
    if len(series) <= len(COLOURS) and (len(series) > 1 or name not in series):
        words = [f'<tspan fill="{COLOURS[order]}"> {escape(label)}</tspan>' for order, label in enumerate(series)]
        parts.append(f'<text x="{x0 + across}" y="{top + 16}" text-anchor="end">{"".join(words)}</text>')
    return "\n".join(parts)


def _size(size: float) -> str:
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:g} {letter}"
    return f"{size:g}"


def _thinned(line: Sequence[Point]) -> Sequence[Point]:
    """Keep the highest point of each stretch, so that no peak is hidden."""
    if len(line) <= POINTS:
        return line
    edges = [round(number * len(line) / POINTS) for number in range(POINTS + 1)]
    return [max(line[since:until], key=lambda point: point[1]) for since, until in pairwise(edges)]


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:g}" if value == round(value) else f"{value:.1f}"
