"""Metrics in Prometheus' words: a registry of our own, and its text.

The registry holds everything, for whoever wants to register more or to read it.  Its own text writer makes an object
of each of its lines, which takes a second for 10,000 jobs, with the interpreter to itself; ours writes the same bytes
from the rows (a test compares them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from scheduler_service.metrics.catalogue import CATALOGUE, COUNTER, HISTOGRAM, SUMMARY
from scheduler_service.metrics.counting import Distribution, Labels

_number: Callable[[float], str] = floatToGoString

Rows = Mapping[Labels, float] | Mapping[Labels, Distribution]
Snapshot = Mapping[str, Rows]  # by the names of the catalogue, in any order


class Collection(Collector):
    """Gives a registry what `snapshot` returns."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Return the families with their samples."""
        snapshot = self._snapshot()
        for name in CATALOGUE:
            yield _family(name, snapshot[name])


def registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """Return a registry whose metrics are those of `snapshot` at the time of a scrape."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Collection(snapshot))
    return made


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


def _family(name: str, rows: Rows) -> Metric:
    metric = CATALOGUE[name]
    made: Metric
    if metric.kind == HISTOGRAM:
        made = HistogramMetricFamily(name, metric.meaning, labels=metric.labels)
    elif metric.kind == SUMMARY:
        made = SummaryMetricFamily(name, metric.meaning, labels=metric.labels)
    elif metric.kind == COUNTER:
        made = CounterMetricFamily(name, metric.meaning, labels=metric.labels)
    else:
        made = GaugeMetricFamily(name, metric.meaning, labels=metric.labels)
    for values, row in rows.items():
        if isinstance(row, Distribution) and isinstance(made, HistogramMetricFamily):
            counts = [*accumulate(row.buckets), row.count]
            bounds = [*(_number(bound) for bound in metric.buckets), "+Inf"]
            made.add_metric(values, list(zip(bounds, counts, strict=True)), row.sum)
        elif isinstance(row, Distribution) and isinstance(made, SummaryMetricFamily):
            made.add_metric(values, row.count, row.sum)
        elif isinstance(row, float) and isinstance(made, CounterMetricFamily | GaugeMetricFamily):
            made.add_metric(values, row)
        else:
            raise TypeError(f"{name} is a {metric.kind}, not {row!r}")
    return made


def _escaped(text: str, *, quotes: bool = False) -> str:
    if "\\" in text or "\n" in text or '"' in text:
        text = text.replace("\\", r"\\").replace("\n", r"\n")
        text = text.replace('"', r"\"") if quotes else text
    return text
