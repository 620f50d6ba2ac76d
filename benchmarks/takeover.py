"""How long nobody decides after a leader is killed, and after one is asked to end.

    python -m benchmarks.takeover [--trials 20] [--sqlite]

Three replicas with the default election settings share a PostgreSQL server of their own and a hundred
jobs, of which one comes due every 10 ms.  The leader gets SIGKILL, in a second series SIGTERM.  The time
runs from just before the signal, on the database's clock, to the first tick that the next leader decided,
as the ledger has it (`decided_at`), and in a second column to its election (`acquired_at`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.evidence import Books
from tests.faults.fleet import Fleet, Replica
from tests.servers import PostgresServer

REPLICAS = 3
JOBS = {
    f"job-{number:02}": {"run": "tally:nothing", "every": "1s", "offset": f"{10 * number}ms"} for number in range(100)
}


def main() -> None:
    """Run both series and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20, help="how often the leader is hurt in each series")
    parser.add_argument("--sqlite", action="store_true", help="on one SQLite file; a killed leader's lease must expire")
    options = parser.parse_args()
    print(f"{'milliseconds from':20} {'to':20} {'n':>4} {'min':>8} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8}")
    with tempfile.TemporaryDirectory(prefix="takeover-") as folder:
        if options.sqlite:
            _series(Path(folder), f"sqlite:///{folder}/scheduler.db", options.trials)
        else:
            with PostgresServer() as server:
                _series(Path(folder), server.url, options.trials)


def _series(folder: Path, url: str, trials: int) -> None:
    books = Books(url)
    with Fleet(folder, url, JOBS, election={}) as fleet:
        fleet.start(REPLICAS)
        for signal_name, hurt in (("kill -9", Replica.kill), ("SIGTERM", Replica.terminate)):
            elected, settled = [], []
            for _ in range(trials):
                to_election, to_settling = _trial(fleet, books, hurt)
                elected.append(to_election)
                settled.append(to_settling)
            _print(signal_name, "next leader", elected)
            _print(signal_name, "first settled tick", settled)


def _trial(fleet: Fleet, books: Books, hurt: Callable[[Replica], None]) -> tuple[float, float]:
    leader = fleet.leader()
    term = fleet.term(leader)
    # A fault follows the next only when the replicas know the leader, watch its session, and it has settled.
    fleet.wait_until(lambda: books.first_decision(leader.instance))
    fleet.wait_until(lambda: _watching(books) == REPLICAS - 1)
    began = books.now()
    hurt(leader)
    successor = fleet.next_leader(term)
    # By its log, so that nobody asks the database meanwhile.
    successor.wait_for("run_started")
    first = fleet.wait_until(lambda: books.first_decision(successor.instance))
    acquired = books.elected_at(successor.instance)
    leader.wait()
    fleet.start()
    return (acquired - began).total_seconds(), (first - began).total_seconds()


def _watching(books: Books) -> int:
    if books.on_sqlite:
        return REPLICAS - 1
    ((count,),) = books.rows("select count(*) from pg_locks where locktype = 'advisory' and not granted")
    return int(count)


def _print(signal_name: str, event: str, seconds: Sequence[float]) -> None:
    ordered = sorted(1000 * one for one in seconds)

    def percentile(percent: int) -> float:
        if len(ordered) == 1:
            return ordered[0]
        return statistics.quantiles(ordered, n=100, method="inclusive")[percent - 1]

    figures = (ordered[0], percentile(50), percentile(90), percentile(99), ordered[-1])
    print(f"{signal_name:20} {event:20} {len(ordered):4} " + " ".join(f"{one:8.1f}" for one in figures), flush=True)


if __name__ == "__main__":
    main()
