"""Metrics in Prometheus' words.

The text writer of Prometheus' library makes an object of each of its lines, which takes a second for 10,000 jobs, with
the interpreter to itself; ours writes the same bytes from the rows (a test compares them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.utils import floatToGoString

from scheduler_service.metrics.catalogue import CATALOGUE
from scheduler_service.metrics.counting import Distribution, Labels

_number: Callable[[float], str] = floatToGoString

Rows = Mapping[Labels, float] | Mapping[Labels, Distribution]
Snapshot = Mapping[str, Rows]  # by the names of the catalogue, in any order


def text(snapshot: Snapshot) -> bytes:
    """Return what a scrape gets."""
    lines: list[str] = []
    for name, metric in CATALOGUE.items():
        lines.append(f"# HELP {name} {_escaped(metric.meaning)}\n# TYPE {name} {metric.kind}\n")
        lines += _lines(name, metric.labels, snapshot[name])
    return "".join(lines).encode()


def _lines(name: str, names: Labels, rows: Rows) -> Iterator[str]:
    places = sorted(enumerate(names), key=lambda one: one[1])
    bounds = CATALOGUE[name].buckets
    for values, row in rows.items():
        labels = [f'{label}="{_escaped(values[place], quotes=True)}"' for place, label in places]
        if isinstance(row, Distribution):
            yield from _distribution(name, labels, row, bounds)
        else:
            yield f"{name}{_braced(labels)} {_number(row)}\n"


def _distribution(name: str, labels: list[str], row: Distribution, bounds: tuple[float, ...]) -> Iterator[str]:
    if bounds:
        counts = [*accumulate(row.buckets), row.count]
        for bound, count in zip((*bounds, float("inf")), counts, strict=True):
            place = _braced(sorted([*labels, f'le="{_number(bound)}"']))
            yield f"{name}_bucket{place} {_number(count)}\n"
    yield f"{name}_count{_braced(labels)} {_number(row.count)}\n"
    yield f"{name}_sum{_braced(labels)} {_number(row.sum)}\n"


def _braced(labels: list[str]) -> str:
    return f"{{{','.join(labels)}}}" if labels else ""


def _escaped(text: str, *, quotes: bool = False) -> str:
    if "\\" in text or "\n" in text or '"' in text:
        text = text.replace("\\", r"\\").replace("\n", r"\n")
        text = text.replace('"', r"\"") if quotes else text
    return text
