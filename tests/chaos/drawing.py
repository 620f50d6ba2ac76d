"""Small multiples as SVG: one panel for each quantity, one line for each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from tests.chaos.sampling import Point

WIDTH, HEIGHT = 460, 150  # of one panel
COLUMNS = 2
MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM, MARGIN_RIGHT = 56, 26, 22, 14
POINTS = 120  # of one line: more cannot be seen
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")

Panel = tuple[str, Mapping[str, Sequence[Point]]]


def draw(title: str, panels: Sequence[Panel], faults: Sequence[float]) -> str:
    """Return a picture of the panels over one time axis; faults are marks on it."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 30
    until = max((point[0] for _, series in panels for line in series.values() for point in line), default=1.0)
    body = [_panel(panel, number, until, faults) for number, panel in enumerate(panels)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="11">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="{MARGIN_LEFT}" y="18" font-size="14">{escape(title)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel, number: int, until: float, faults: Sequence[float]) -> str:
    name, series = panel
    left, top = (number % COLUMNS) * WIDTH, 30 + (number // COLUMNS) * HEIGHT
    x0, y0 = left + MARGIN_LEFT, top + HEIGHT - MARGIN_BOTTOM
    across, up = WIDTH - MARGIN_LEFT - MARGIN_RIGHT, HEIGHT - MARGIN_TOP - MARGIN_BOTTOM
    most = max((value for line in series.values() for _, value in line), default=0.0) or 1.0

    def place(point: Point) -> str:
        return f"{x0 + across * point[0] / until:.1f},{y0 - up * point[1] / most:.1f}"

    parts = [f'<text x="{x0}" y="{top + 16}">{escape(name)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = y0 - up * share
        parts.append(f'<path d="M{x0} {y:.1f}h{across}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 5}" y="{y + 4:.1f}" text-anchor="end">{_shown(most * share)}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        minutes = until * share / 60
        parts.append(f'<text x="{x0 + across * share:.1f}" y="{y0 + 14}" text-anchor="middle">{minutes:.0f} min</text>')
    marks = "".join(f"M{x0 + across * at / until:.1f} {y0}v-4" for at in faults if at <= until)
    parts.append(f'<path d="{marks}" stroke="#888"/>')
    for order, (label, line) in enumerate(series.items()):
        colour = COLOURS[order % len(COLOURS)]
        points = " ".join(place(point) for point in _thinned(line))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}"><title>{escape(label)}</title></polyline>'
        )
    if len(series) <= len(COLOURS):
        words = [f'<tspan fill="{COLOURS[order]}"> {escape(label)}</tspan>' for order, label in enumerate(series)]
        parts.append(f'<text x="{x0 + across}" y="{top + 16}" text-anchor="end">{"".join(words)}</text>')
    return "\n".join(parts)


def _thinned(line: Sequence[Point]) -> Sequence[Point]:
    """Keep the highest point of each stretch, so that no peak is hidden."""
    if len(line) <= POINTS:
        return line
    edges = [round(number * len(line) / POINTS) for number in range(POINTS + 1)]
    return [max(line[since:until], key=lambda point: point[1]) for since, until in pairwise(edges)]


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:g}" if value == round(value) else f"{value:.1f}"
