"""How late runs begin, and what the processors do, at a rate of ticks that are spread over each second.

As many no-op jobs as ticks a second, `every: 1s`, each with an offset of its own, on a PostgreSQL server of their own
and with the default settings.  What was not started when the stretch was over is behind.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.growth.curves import Measured, Subject
from benchmarks.launches import await_settled, launch
from benchmarks.load import delays, percentile
from benchmarks.processors import busy_seconds
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet
from tests.servers import PostgresServer

SETTLING_SECONDS, SECONDS = 5.0, 20.0
BEHIND = """
select count(*) from {p}run where due_at > '{began}' and due_at <= '{ended}' and state = 'waiting'"""


def measure(rate: int) -> Measured:
    """Let so many ticks a second come due for a while."""
    jobs = {
        f"job-{number:05}": {"run": "tally:nothing", "every": "1s", "offset": f"{1000 * number // rate}ms"}
        for number in range(rate)
    }
    with tempfile.TemporaryDirectory(prefix="growth-") as folder, PostgresServer() as server:
        books = Books(server.url)
        with Fleet(Path(folder), server.url, jobs, election={}) as fleet:
            replica, _ = launch(fleet)
            await_settled(fleet, books, replica)
            time.sleep(SETTLING_SECONDS)
            servers = [process.pid for process in server.processes()]
            began = books.now()
            ours, theirs = busy_seconds([replica.pid]), busy_seconds(servers)
            time.sleep(SECONDS)
            ended = books.now()
            ours, theirs = busy_seconds([replica.pid]) - ours, busy_seconds(servers) - theirs
            ((behind,),) = books.rows(BEHIND.format(p="{p}", began=began, ended=ended))
            late = delays(books, began, ended)
    return {
        "started a second": len(late) / SECONDS,
        "tick → start, p50, ms": 1000 * percentile(late, 50),
        "tick → start, p99, ms": 1000 * percentile(late, 99),
        "tick → start, max, ms": 1000 * max(late),
        "behind at the end": float(behind),
        "processor of the leader, %": 100 * ours / SECONDS,
        "processor of the database, %": 100 * theirs / SECONDS,
    }


SUBJECT = Subject("ticks", "ticks a second", (10, 25, 50, 100, 200, 400, 800, 1600), measure)
