"""What more replicas cost the database, and whether a takeover waits for them.

Replicas with the default settings are started one after another on a PostgreSQL server of their own, and share a
hundred jobs, of which one comes due every 10 ms, as in `benchmarks.takeover`.  For the statements they are given
20 jobs that never come due instead, and the server logs what it is asked.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.growth.curves import Measured, Subject
from benchmarks.takeover import JOBS, trial
from tests.chaos.sampling import process_figures
from tests.faults.asking import IDLE_JOBS, TALKING, statements_during
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet, Replica
from tests.servers import PostgresServer

TRIALS = 3
SECONDS = 30.0
SETTINGS = {"max_connections": "400"}
CONNECTIONS = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"


def measure(count: int) -> Measured:
    """Start so many replicas and see what they ask while idle; then others that work, and kill their leader."""
    found: dict[str, float] = {}
    with _fleet(count, idle=True) as (fleet, server):
        seen = "select count(*) from {p}replica where seen_at > started_at"
        fleet.wait_until(lambda: Books(server.url).rows(seen)[0][0] == count)
        said = statements_during(fleet, server, SECONDS)
        of_replicas = [said[f"replica-{one.number}"].total() / SECONDS for one in fleet.replicas]
        found["statements a second, all"] = sum(of_replicas)
        of_standbys = [rate for rate, one in zip(of_replicas, fleet.replicas, strict=True) if one is not fleet.leader()]
        if of_standbys:
            found["statements a second, one standby"] = statistics.mean(of_standbys)
        ((connections,),) = Books(server.url).rows(CONNECTIONS)
        found["connections"] = float(connections)
        memory = [process_figures(one.pid)["memory, MiB"] for one in fleet.replicas]
        found["memory of all replicas, MiB"] = sum(memory)
    if count > 1:
        with _fleet(count, idle=False) as (fleet, server):
            trials = [trial(fleet, Books(server.url), Replica.kill, count - 1) for _ in range(TRIALS)]
        found["kill -9 → next leader elected, p50, ms"] = 1000 * statistics.median(elected for elected, _ in trials)
        found["kill -9 → first settled tick, p50, ms"] = 1000 * statistics.median(settled for _, settled in trials)
    return found


@contextmanager
def _fleet(count: int, *, idle: bool) -> Iterator[tuple[Fleet, PostgresServer]]:
    with (
        tempfile.TemporaryDirectory(prefix="growth-") as folder,
        PostgresServer({**SETTINGS, **(TALKING if idle else {})}) as server,
        Fleet(
            Path(folder),
            f"{server.url}?application_name=${{REPLICA}}",
            IDLE_JOBS if idle else JOBS,
            election={},
        ) as fleet,
    ):
        for _ in range(count):
            fleet.start()
        yield fleet, server


SUBJECT = Subject("replicas", "replicas", (1, 3, 10, 25, 50), measure)
