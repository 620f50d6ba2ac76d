"""How long nobody decides after a leader is killed, and after one is asked to end.

    python -m benchmarks.takeover [--trials 20] [--sqlite]

Three replicas with the default election settings share a PostgreSQL server of their own and a hundred
jobs, of which one comes due every 10 ms.  They may overlap: a job that may not, and ran on the killed leader,
is not settled before that run counts as lost, and trials follow each other sooner.  The leader gets SIGKILL,
in a second series SIGTERM.  The time runs from just before the signal, on the database's clock, to the first
tick that the next leader decided, as the ledger has it (`decided_at`), and in a second column to its election
(`acquired_at`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Figure
from tests.chaos.report import distribution
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet, Replica
from tests.servers import PostgresServer

REPLICAS = 3
TRIALS, QUICK_TRIALS = 20, 2
TARGET = {"p50": 20.0, "p99": 100.0}  # milliseconds
JOBS = {
    f"job-{number:02}": {"run": "tally:nothing", "every": "1s", "offset": f"{10 * number}ms", "overlap": "allow"}
    for number in range(100)
}


def main() -> None:
    """Run both series and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=TRIALS, help="how often the leader is hurt in each series")
    parser.add_argument("--sqlite", action="store_true", help="on one SQLite file; a killed leader's lease must expire")
    options = parser.parse_args()
    print(f"{'milliseconds from':20} {'to':20} {'n':>4} {'min':>8} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8}")
    with tempfile.TemporaryDirectory(prefix="takeover-") as folder:
        if options.sqlite:
            _print_all(Path(folder), f"sqlite:///{folder}/scheduler.db", options.trials)
        else:
            with PostgresServer() as server:
                _print_all(Path(folder), server.url, options.trials)


def figures(*, quick: bool) -> Iterator[Figure]:
    """Measure the rows of the design that speak of a leader's end."""
    with tempfile.TemporaryDirectory(prefix="takeover-") as folder, PostgresServer() as server:
        for signal_name, elected, settled in series(Path(folder), server.url, QUICK_TRIALS if quick else TRIALS):
            of_settling = TARGET if signal_name == "kill -9" else {}
            of_election = TARGET if signal_name == "SIGTERM" else {}
            yield Figure(f"{signal_name} → next leader elected", "ms", _milliseconds(elected), of_election)
            yield Figure(f"{signal_name} → its first settled tick", "ms", _milliseconds(settled), of_settling)


def series(folder: Path, url: str, trials: int) -> Iterator[tuple[str, list[float], list[float]]]:
    """Give by signal the seconds to each election, and those to the first tick that the elected one settled."""
    books = Books(url)
    with Fleet(folder, url, JOBS, election={}) as fleet:
        fleet.start(REPLICAS)
        for signal_name, hurt in (("kill -9", Replica.kill), ("SIGTERM", Replica.terminate)):
            pairs = [trial(fleet, books, hurt, REPLICAS - 1) for _ in range(trials)]
            elected, settled = ([one[column] for one in pairs] for column in (0, 1))
            yield signal_name, elected, settled


def trial(fleet: Fleet, books: Books, hurt: Callable[[Replica], None], standby_count: int) -> tuple[float, float]:
    """Do as `follow` does, and start another replica."""
    found = follow(fleet, books, hurt, standby_count)
    fleet.start()
    return found


def follow(fleet: Fleet, books: Books, hurt: Callable[[Replica], None], standby_count: int) -> tuple[float, float]:
    """End the leader; return the seconds to the next election and to the first tick settled after it."""
    leader = fleet.leader()
    term = fleet.term(leader)
    # A fault follows the next only when the replicas know the leader, watch its session, and it has settled.
    fleet.wait_until(lambda: books.first_decision(leader.instance))
    fleet.wait_until(lambda: _watching(books, standby_count) == standby_count)
    began = books.now()
    hurt(leader)
    successor = fleet.next_leader(term)
    # By its log, so that nobody asks the database meanwhile.
    successor.wait_for("run_started")
    first = fleet.wait_until(lambda: books.first_decision(successor.instance))
    acquired = books.elected_at(successor.instance)
    leader.wait()
    return (acquired - began).total_seconds(), (first - began).total_seconds()


def _watching(books: Books, standby_count: int) -> int:
    if books.on_sqlite:
        return standby_count
    ((count,),) = books.rows("select count(*) from pg_locks where locktype = 'advisory' and not granted")
    return int(count)


def _milliseconds(seconds: Sequence[float]) -> list[float]:
    return [1000 * one for one in seconds]


def _print_all(folder: Path, url: str, trials: int) -> None:
    for signal_name, elected, settled in series(folder, url, trials):
        _print(signal_name, "next leader", elected)
        _print(signal_name, "first settled tick", settled)


def _print(signal_name: str, event: str, seconds: Sequence[float]) -> None:
    found = distribution(_milliseconds(seconds))
    shown = " ".join(f"{found[one]:8.1f}" for one in ("min", "p50", "p90", "p99", "max"))
    print(f"{signal_name:20} {event:20} {len(seconds):4} {shown}", flush=True)


if __name__ == "__main__":
    main()
