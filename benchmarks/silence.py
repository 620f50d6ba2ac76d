"""How long nobody decides after a leader falls silent: frozen, or cut off from the database.

    python -m benchmarks.silence [--trials 5]

As in `benchmarks.takeover`, but nobody is told: the leader's processes and connections stand, and its lease has to
expire.  Frozen is SIGSTOP; cut off is a line to the database on which nothing arrives any more, in either direction.
It ends when another replica has settled a tick.  The bound is that of the design, `lease_duration` and a second.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.figures import Figure, table
from benchmarks.takeover import JOBS, REPLICAS
from scheduler_service.config.settings import Election
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet, Replica
from tests.relay import Relay
from tests.servers import PostgresServer

TRIALS, QUICK_TRIALS = 5, 1
MOST_SECONDS = Election().lease_duration.total_seconds() + 1.0

Deed = Callable[[Replica], None]


def main() -> None:
    """Run both series and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=TRIALS, help="how often the leader falls silent in each series")
    print(table([figure.row() for figure in measure(parser.parse_args().trials)]))


def figures(*, quick: bool) -> Iterator[Figure]:
    """Measure the row of the design that speaks of frozen and partitioned leaders."""
    return measure(QUICK_TRIALS if quick else TRIALS)


def measure(trials: int) -> Iterator[Figure]:
    """Let the leader fall silent and come back, again and again."""
    with contextlib.ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="silence-")))
        server = closing.enter_context(PostgresServer())
        fleet = closing.enter_context(Fleet(folder, "${DATABASE}", JOBS, election={}))
        books, lines = Books(server.url), {}
        for number in range(1, REPLICAS + 1):
            line = lines[number] = closing.enter_context(Relay(server.url))
            fleet.start(1, {"DATABASE": line.url})
        for name, fall_silent, come_back in (
            ("frozen leader", Replica.freeze, Replica.thaw),
            ("cut off leader", lambda one: lines[one.number].stall(), lambda one: lines[one.number].heal()),
        ):
            pairs = [_trial(fleet, books, fall_silent, come_back) for _ in range(trials)]
            elected, settled = zip(*pairs, strict=True)
            yield Figure(f"{name} → next leader elected", "s", elected, {"max": MOST_SECONDS})
            yield Figure(f"{name} → its first settled tick", "s", settled)


def _trial(fleet: Fleet, books: Books, fall_silent: Deed, come_back: Deed) -> tuple[float, float]:
    leader = fleet.leader()
    term = fleet.term(leader)
    fleet.wait_until(lambda: _decided_in(books, term))
    began = books.now()
    fall_silent(leader)
    successor = fleet.next_leader(term)
    next_term = fleet.term(successor)
    fleet.wait_until(lambda: _decided_in(books, next_term))
    come_back(leader)
    leader.wait_for("leadership_lost", term=term)
    ((acquired,),) = books.rows(f"select acquired_at from {{p}}leader_term where term = {next_term}")  # noqa: S608
    ((first,),) = books.rows(FIRST.format(p="{p}", who=successor.instance, term=next_term))
    return (acquired - began).total_seconds(), (first - began).total_seconds()


# Who falls silent may lead again later: what it decided then is what it decided after it was elected again.
FIRST = """
select min(r.decided_at) from {p}run r where r.decided_by = '{who}'
   and r.decided_at >= (select acquired_at from {p}leader_term where term = {term})"""


def _decided_in(books: Books, term: int) -> bool:
    """Whether a tick was decided since the election to a term."""
    statement = "select count(*) from {p}run where decided_at > (select acquired_at from {p}leader_term where term = "
    return bool(books.rows(f"{statement}{term})")[0][0])


if __name__ == "__main__":
    main()
