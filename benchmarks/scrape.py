"""How long a scrape takes with 10,000 jobs, and what it costs those who count meanwhile.

python -m benchmarks.scrape [JOBS]
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from scheduler_service import schedule as schedules
from scheduler_service.clock import BootClock, DatabaseTime
from scheduler_service.events import Events
from scheduler_service.metrics import Metrics, Sources
from scheduler_service.metrics.exposition import text
from scheduler_service.model import JobSpec
from scheduler_service.watch import Fortune, Seen
from tests.prometheus import registry

ROUNDS = 5
NOW = datetime.now(UTC)


def sources(job_ids: list[str], clock: BootClock) -> Any:
    """Return parts of a service at rest that has seen every job."""
    fortunes = {job_id: Fortune(NOW, 0, NOW, NOW + timedelta(days=1)) for job_id in job_ids}
    seen = Seen(NOW, clock.monotonic(), 0, 0, 0, 3, None, None, (), frozenset(), fortunes)
    elector = SimpleNamespace(
        current=lambda: None, observed=lambda: None, database_time=DatabaseTime(clock), instance_id="me-1", lock_id=1
    )
    workers = SimpleNamespace(stuck=tuple, registry=dict, free_count=20, free_process_count=4)
    return Sources(elector, workers, SimpleNamespace(pending_count=0), SimpleNamespace(seen=seen), {})  # type: ignore[arg-type]


def ran(events: Events, job_id: str) -> None:
    """Tell of a tick and its run."""
    run = {"job": job_id, "run": 1, "scheduled_at": NOW, "attempt": 1}
    events.emit("tick_chosen", job=job_id, scheduled_at=NOW, kind="scheduled")
    events.emit("run_started", **run, kind="scheduled", delay_seconds=0.01)
    events.emit("run_finished", **run, state="succeeded", duration_seconds=0.1)


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    job_ids = [f"team.job-{number:05}" for number in range(count)]
    every = schedules.every(timedelta(minutes=1))
    specs = [JobSpec(id=job_id, run="jobs:main", schedule=every) for job_id in job_ids]
    clock, events = BootClock(), Events()
    metrics = Metrics(sources(job_ids, clock), clock, specs, "hash", "scheduler")
    events.subscribe(metrics.on_event)
    began = time.perf_counter()
    for job_id in job_ids:
        ran(events, job_id)
    per_event = (time.perf_counter() - began) / (3 * count)
    from prometheus_client import generate_latest  # noqa: PLC0415  # after the events, as in a replica

    ours, theirs, waits = [], [], []
    stopping = threading.Event()

    def counting() -> None:
        while not stopping.wait(0.001):
            before = time.perf_counter()
            ran(events, job_ids[0])
            waits.append(time.perf_counter() - before)

    thread = threading.Thread(target=counting)
    thread.start()
    size = 0
    for _ in range(ROUNDS):
        before = time.perf_counter()
        size = len(text(metrics.snapshot()))
        ours.append(time.perf_counter() - before)
    stopping.set()
    thread.join()
    for _ in range(ROUNDS):
        before = time.perf_counter()
        generate_latest(registry(metrics.snapshot))
        theirs.append(time.perf_counter() - before)
    again = time.perf_counter()
    metrics.text()
    again = time.perf_counter()
    for _ in range(1000):
        metrics.text()
    again = (time.perf_counter() - again) / 1000
    print(f"{count:,} jobs, each of which ran: {size / 1e6:.1f} MB")
    print(f"a scrape                        {statistics.median(ours) * 1000:8.1f} ms")
    print(f"by the library's own writer     {statistics.median(theirs) * 1000:8.1f} ms")
    print(f"a scrape within the next second {again * 1e6:8.1f} us")
    print(f"an event, counted               {per_event * 1e6:8.1f} us")
    print(f"three events during a scrape    {max(waits) * 1000:8.1f} ms at most")


if __name__ == "__main__":
    main()
