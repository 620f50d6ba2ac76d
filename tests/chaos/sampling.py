"""What replicas and database take up, looked at every few seconds while a storm goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil
import psycopg

from tests.faults.evidence import Books
from tests.faults.fleet import Fleet, Replica

EVERY_SECONDS = 10.0
TABLES = ("run", "run_attempt", "run_output", "job_state", "leader_lease", "replica")
MIB = 1024 * 1024
_SIZES = """
select relname, pg_relation_size(relid) as bytes, pg_indexes_size(relid) as indexes, n_live_tup, n_dead_tup,
       autovacuum_count
  from pg_stat_user_tables where schemaname = 'scheduler'"""

Point = tuple[float, float]  # seconds from the beginning, value


@dataclass
class Samples:
    """Series of points: of each process, which begins anew with it, and of the database."""

    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    processes: dict[str, dict[str, list[Point]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    database: dict[str, dict[str, list[Point]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))


class Sampler:
    """Looks on a thread of its own, which may have to wait for the database."""

    def __init__(
        self,
        fleet: Fleet,
        books: Books,
        instance: Callable[[Replica], str | None],
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._fleet = fleet
        self._books = books
        self._instance = instance  # None for who is not at work yet
        self._every_seconds = every_seconds
        self._began = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.samples = Samples()

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look as long as this lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._thread.join(self._every_seconds)

    def look(self) -> None:
        """Take one sample of everything that answers."""
        for replica in self._fleet.replicas:
            if replica.alive and self._instance(replica) is not None:
                with contextlib.suppress(psutil.Error):
                    figures = process_figures(replica.pid)
                    if not figures["memory, MiB"]:
                        continue  # it is dying, and has given its memory back already
                    for name, value in figures.items():
                        self.samples.processes[name][f"replica {replica.number}"].append((self._now(), value))
        with contextlib.suppress(psycopg.Error):
            for name, table, value in self._tables():
                self.samples.database[name][table].append((self._now(), value))

    def _run(self) -> None:
        while not self._stopped.wait(self._every_seconds):
            self.look()

    def _now(self) -> float:
        return round(time.monotonic() - self._began, 1)

    def _tables(self) -> Iterator[tuple[str, str, float]]:
        for table, size, indexes, live, dead, vacuums in self._books.rows(_SIZES):
            if table in TABLES:
                yield "table, KiB", table, size / 1024
                yield "indexes, KiB", table, indexes / 1024
                yield "live rows", table, live
                yield "dead rows", table, dead
                yield "autovacuum runs", table, vacuums
        ((count,),) = self._books.rows(
            "select count(*) from pg_stat_activity where application_name like 'scheduler-service%'"
        )
        yield "connections", "all replicas", count


def process_figures(pid: int) -> Mapping[str, float]:
    """Return what a process takes up."""
    process = psutil.Process(pid)
    with process.oneshot():
        sockets = process.net_connections("tcp")
        return {
            "memory, MiB": process.memory_info().rss / MIB,
            "threads": process.num_threads(),
            "file descriptors": process.num_fds(),
            "connections": sum(one.status == psutil.CONN_ESTABLISHED for one in sockets),
        }
