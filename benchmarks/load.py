"""What 200 requests a second for metrics and pages cost the jobs' timing.

    python -m benchmarks.load [--rounds 5] [--seconds 20] [--rate 200]

A leader starts ten jobs of `every: 200ms` on a PostgreSQL server of its own, and a standby stands by.  Stretches
without requests, with requests to the standby and with requests to the leader take turns, so that whatever else the
machine does falls on all of them.  Half of the requests are for /metrics, half for /.  The delay is from the moment at
which a run was due to its start, as the ledger has it.  Clients, database and replicas share the processors: what the
requests to the standby cost is what the processors lack, and only the rest is the leader's own.  The price of a request
is what the standby takes of a processor while it is asked, less what it takes otherwise; it hardly depends on what else
the machine does.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.processors import busy_seconds
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet
from tests.servers import PostgresServer

JOBS = {
    f"job-{number}": {"run": "tally:nothing", "every": "200ms", "offset": f"{20 * number}ms"} for number in range(10)
}
PATHS = ("/metrics", "/")
CLIENTS = 8
SETTLING_SECONDS = 3.0  # before the first stretch, for what a start brings along
DELAYS = """
select extract(epoch from a.started_at - r.due_at) from {p}run_attempt a join {p}run r on r.id = a.run_id
where r.kind = 'scheduled' and r.due_at >= '{began}' and r.due_at < '{ended}'
"""


class Load:
    """Clients that ask at a rate, all together, until the end of a block."""

    def __init__(self, url: str, rate: float) -> None:
        self._address = urlsplit(url)
        self._gap_seconds = CLIENTS / rate
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        self.seconds: list[float] = []  # that answers took

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=60)
        due = time.monotonic() + self._gap_seconds * number / CLIENTS
        count = number
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            began = time.perf_counter()
            connection.request("GET", PATHS[count % len(PATHS)], headers={"Accept-Encoding": "gzip"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != http.client.OK:
                raise RuntimeError(f"{PATHS[count % len(PATHS)]} answered {answer.status}")
            self.seconds.append(time.perf_counter() - began)
            due += self._gap_seconds
            count += 1
        connection.close()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="stretches of each kind")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a stretch")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-") as folder, PostgresServer() as server:
        _measure(Path(folder), server.url, options)


def _measure(folder: Path, url: str, options: argparse.Namespace) -> None:
    books = Books(url)
    found: dict[str, list[float]] = {"quiet": [], "standby asked": [], "leader asked": []}
    answers: list[float] = []
    prices: list[float] = []
    with Fleet(folder, url, JOBS, election={}, http={"enabled": True, "port": 0}) as fleet:
        fleet.start(2)
        leader = fleet.leader()
        (standby,) = (one for one in fleet.replicas if one is not leader)
        leader.wait_for("run_started")
        time.sleep(SETTLING_SECONDS)
        for _ in range(options.rounds):
            before = busy_seconds([standby.pid])
            found["quiet"] += delays(books, *_stretch(books, options.seconds))
            quiet = busy_seconds([standby.pid]) - before
            for name, replica in (("standby asked", standby), ("leader asked", leader)):
                before = busy_seconds([standby.pid])
                with Load(str(replica.wait_for("service_started")["http"]), options.rate) as load:
                    moments = _stretch(books, options.seconds)
                if replica is standby:
                    prices.append((busy_seconds([standby.pid]) - before - quiet) / len(load.seconds))
                found[name] += delays(books, *moments)
                answers += load.seconds
    print(f"{'milliseconds':22} {'n':>6} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8}")
    for name, seconds in found.items():
        _print(f"delay, {name}", seconds)
    _print("answers", answers)
    for name in ("quiet", "standby asked"):
        ratios = [percentile(found["leader asked"], at) / percentile(found[name], at) for at in (50, 90, 99)]
        print(f"{'leader / ' + name:22} {'':6} " + " ".join(f"{ratio:8.2f}" for ratio in ratios))
    rate = len(answers) / (2 * options.rounds * options.seconds)
    price = 1000 * statistics.median(prices)
    print(f"{rate:.0f} requests a second, each {price:.2f} ms of a processor")


def _stretch(books: Books, seconds: float) -> tuple[datetime, datetime]:
    began = books.now()
    time.sleep(seconds)
    return began, books.now()


def delays(books: Books, began: datetime, ended: datetime) -> list[float]:
    """Return by how many seconds each run that was due between two moments began late, where it has begun."""
    return [float(seconds) for (seconds,) in books.rows(DELAYS.format(p="{p}", began=began, ended=ended))]


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Return the value that so many of a hundred do not exceed."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


def _print(name: str, seconds: Sequence[float]) -> None:
    figures = [*(percentile(seconds, at) for at in (50, 90, 99)), max(seconds)]
    print(f"{name:22} {len(seconds):6} " + " ".join(f"{1000 * one:8.1f}" for one in figures), flush=True)


if __name__ == "__main__":
    main()
