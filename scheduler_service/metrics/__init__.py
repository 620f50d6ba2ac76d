"""What Prometheus gets: counts of events, and how things stand at the moment of the scrape.

    events ---------> counting ----\
    the watch ------> last sample --+--> snapshot --> text
    elector, workers, clocks ------/

A scrape asks nothing of the database, and so works while it is away.  Metrics of the whole service (runs that wait,
how the jobs fare) are those of the watch's last sample; `scheduler_sample_age_seconds` says how old it is.

    catalogue    names, kinds, labels, meanings
    counting     what is counted, from events
    exposition   Prometheus' format; loads its library when somebody scrapes for the first time
"""

from __future__ import annotations

import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler_service import __version__
from scheduler_service.clock import Clock
from scheduler_service.elector import Elector
from scheduler_service.events import Event
from scheduler_service.metrics.catalogue import CATALOGUE, COUNTER, HISTOGRAM, SUMMARY, Metric
from scheduler_service.metrics.counting import Counts, Distribution, Labels
from scheduler_service.model import JobSpec
from scheduler_service.results import Results
from scheduler_service.watch import Seen, Watch
from scheduler_service.workers import Workers

__all__ = ["CATALOGUE", "CONTENT_TYPE", "Metric", "Metrics", "Sources"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
KEPT_SECONDS = 1.0  # for so long a text is given to whoever asks,
KEPT_TIMES = 10  # or for so many times what it took to make
LONGEST_KEPT_SECONDS = 5.0

_Rows = dict[Labels, float] | dict[Labels, Distribution]


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom a scrape asks; none of them may query or block."""

    elector: Elector
    workers: Workers
    results: Results
    watch: Watch
    stepped_at: Mapping[str, Callable[[], float]]  # of threads, on the boot clock


class Metrics:
    """The metrics of one replica.  Subscribe `on_event` before anything is emitted."""

    def __init__(
        self, sources: Sources, clock: Clock, specs: Iterable[JobSpec], config_hash: str, service: str
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._service = service
        self._counts = Counts(())
        self._kept = (b"", 0.0)  # a text and until when it is given to whoever asks
        self._writing = threading.Lock()
        self.on_event: Callable[[Event], None] = self._counts.on_event
        self.configure(specs, config_hash)

    def configure(self, specs: Iterable[JobSpec], config_hash: str) -> None:
        """Follow another configuration: series of jobs that are gone disappear."""
        specs = tuple(specs)
        self._counts.configure(spec.id for spec in specs)
        self._job_count = sum(spec.enabled for spec in specs)
        self._config_hash = config_hash
        self._kept = (b"", 0.0)

    def kept(self) -> bytes | None:
        """Return what a scrape gets, if that was written a moment ago."""
        text, until = self._kept
        return text if self._clock.monotonic() < until else None

    def text(self) -> bytes:
        """Return what a scrape gets; the same for a moment, however many ask."""
        from scheduler_service.metrics.exposition import text  # noqa: PLC0415  # loads Prometheus' library

        with self._writing:
            if (kept := self.kept()) is not None:
                return kept
            began = self._clock.monotonic()
            written = text(self.snapshot())
            took = self._clock.monotonic() - began
            self._kept = written, began + min(LONGEST_KEPT_SECONDS, max(KEPT_SECONDS, KEPT_TIMES * took))
            return written

    def snapshot(self) -> Mapping[str, _Rows]:
        """Return all metrics of the catalogue as they stand, by name and labels."""
        rows: dict[str, _Rows] = {}
        for name, metric in CATALOGUE.items():
            if metric.kind == COUNTER:
                rows[name] = self._counts.counters(name)
            elif metric.kind in (HISTOGRAM, SUMMARY):
                rows[name] = self._counts.distributions(name)
            else:
                rows[name] = {}
        for name, gauge in {**self._own(), **self._of_service(self._sources.watch.seen)}.items():
            values: dict[Labels, float] = gauge if isinstance(gauge, dict) else {(): float(gauge)}
            rows[name] = values
        return rows

    def _own(self) -> dict[str, float | dict[Labels, float]]:
        """Return the gauges of this replica."""
        now, sources = self._clock.monotonic(), self._sources
        elector, workers = sources.elector, sources.workers
        lease = elector.current()
        observed = elector.observed() if elector.database_time.known else None
        term = lease.term if lease is not None else observed[1] if observed is not None else 0
        stuck = Counter(attempt.job_id for attempt in workers.stuck())
        gauges: dict[str, float | dict[Labels, float]] = {
            "scheduler_build_info": {(__version__, platform.python_version()): 1.0},
            "scheduler_replica_info": {(elector.instance_id, str(elector.lock_id), self._service): 1.0},
            "scheduler_jobs": self._job_count,
            "scheduler_thread_step_age_seconds": {
                (thread,): max(0.0, now - stepped_at()) for thread, stepped_at in sources.stepped_at.items()
            },
            "scheduler_leader": lease is not None,
            "scheduler_term": term,
            "scheduler_lease_trust_remaining_seconds": max(0.0, lease.trusted_until - now) if lease else 0.0,
            "scheduler_store_unavailable": self._counts.unavailable(),
            "scheduler_attempts_running": len(workers.registry()),
            "scheduler_workers_free": workers.free_count,
            "scheduler_processes_free": workers.free_process_count,
            "scheduler_results_unwritten": sources.results.pending_count,
            "scheduler_threads_stuck": stuck.total(),
            "scheduler_job_threads_stuck": {(job_id,): float(count) for job_id, count in stuck.items()},
            "scheduler_config_info": {(self._config_hash,): 1.0},
            "scheduler_config_drift": self._counts.drift,
            "scheduler_config_rejected": self._counts.rejected,
        }
        if elector.database_time.known:
            gauges["scheduler_clock_difference_seconds"] = elector.database_time.ahead_of_wall().total_seconds()
        return gauges

    def _of_service(self, seen: Seen | None) -> dict[str, float | dict[Labels, float]]:
        """Return the gauges that come from the last sample, with ages as of now."""
        if seen is None:
            return {}
        age = max(0.0, self._clock.monotonic() - seen.at)
        now = seen.now + timedelta(seconds=age)

        def since(moment: datetime) -> float:
            return max(0.0, (now - moment).total_seconds())

        overdue = {job_id: one.overdue_seconds(now) for job_id, one in seen.fortunes.items() if one.overdue_at}
        return {
            "scheduler_sample_age_seconds": age,
            "scheduler_leader_idle": seen.idle is not None,
            # As of the sample: whether that tick is still not settled, only the next one can say.
            "scheduler_oldest_unsettled_tick_age_seconds": (
                0.0 if seen.oldest is None else (seen.now - seen.oldest.due_at).total_seconds()
            ),
            "scheduler_replicas": seen.replica_count,
            "scheduler_runs_waiting": seen.waiting_count,
            "scheduler_runs_due": seen.due_count,
            "scheduler_runs_running": seen.running_count,
            "scheduler_job_last_success_age_seconds": {
                (job_id,): since(one.counted_from) for job_id, one in seen.fortunes.items()
            },
            "scheduler_job_success_overdue_seconds": {
                (job_id,): seconds for job_id, seconds in overdue.items() if seconds and job_id not in seen.paused
            },
            "scheduler_job_failures_in_a_row": {
                (job_id,): float(one.failures_in_a_row)
                for job_id, one in seen.fortunes.items()
                if one.failures_in_a_row
            },
            "scheduler_job_paused": {(job_id,): 1.0 for job_id in sorted(seen.paused)},
        }
