"""Our metrics in a registry of Prometheus' library, whose text writer is what ours is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from scheduler_service.metrics.counting import Distribution
from scheduler_service.metrics.exposition import Rows, Snapshot


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
            bounds = [*(floatToGoString(bound) for bound in metric.buckets), "+Inf"]
            made.add_metric(values, list(zip(bounds, counts, strict=True)), row.sum)
        elif isinstance(row, Distribution) and isinstance(made, SummaryMetricFamily):
            made.add_metric(values, row.count, row.sum)
        elif isinstance(row, float) and isinstance(made, CounterMetricFamily | GaugeMetricFamily):
            made.add_metric(values, row)
        else:
            raise TypeError(f"{name} is a {metric.kind}, not {row!r}")
    return made
