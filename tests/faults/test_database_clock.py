"""The database's clock is stepped, forwards and backwards, by more than the lease: what holds then all the same.

I1 is promised only while that clock is not stepped.  The fence looks at no clock of ours, and `settled_until` only
grows: so no tick is decided twice, and none is left out.  What a step does cost is described in docs/guarantees.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.evidence import Books, tally_jobs
from tests.faults.false_clock import FalseClock, needs_libfaketime
from tests.faults.fleet import Fleet
from tests.faults.stories import World
from tests.servers import PostgresServer

pytestmark = needs_libfaketime
STEP = 5.0  # the lease lasts 3 s
HOUR = 3600.0


@dataclass
class Stepped:
    """Replicas at work on a server whose clock can be set."""

    world: World
    clock: FalseClock


@contextlib.contextmanager
def _at_work(folder: Path, **sections: Mapping[str, Any]) -> Iterator[Stepped]:
    server = PostgresServer()
    clock = FalseClock(server.folder / "clock")
    server.environment.update(clock.environment)
    tally = folder / "tally"
    with server:
        history = {"keep_runs": 1_000_000}
        with Fleet(folder, server.url, tally_jobs(tally), history=history, **sections) as fleet:
            fleet.start(3)
            world = World(fleet, Books(server.url), tally, server)
            world.settled_past_now()
            yield Stepped(world, clock)


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[Stepped]:
    """Three replicas at work."""
    with _at_work(tmp_path) as stepped:
        yield stepped


def test_no_tick_is_decided_twice_or_left_out_though_the_databases_clock_is_stepped(stepped: Stepped) -> None:
    _step_forwards_and_back(stepped, STEP)
    stepped.world.assert_all_is_well()


@pytest.mark.long
def test_neither_if_it_is_stepped_five_times(stepped: Stepped) -> None:
    for _ in range(5):
        _step_forwards_and_back(stepped, STEP)
    stepped.world.assert_all_is_well()


@pytest.mark.long
def test_an_hour_that_was_decided_already_is_not_decided_again(tmp_path: Path) -> None:
    # A grace that makes all but the newest ticks of that hour missed: to run them would take the hour.
    with _at_work(tmp_path, defaults={"misfire_grace": "1s"}) as stepped:
        world, clock = stepped.world, stepped.clock
        _step_forwards(stepped, HOUR)
        mark = world.fleet.mark()
        clock.step(0.0)
        told = world.fleet.wait_for("database_clock_stepped", since=mark)
        assert -HOUR - 0.1 < told["seconds"] < 0
        world.fleet.leader()
        clock.step(HOUR)
        account = world.finish()
        print(f"{account.tick_count} ticks: {dict(account.states)}")
        assert not account.problems, "\n".join(account.problems[:20])


def _step_forwards_and_back(stepped: Stepped, seconds: float) -> None:
    world, clock = stepped.world, stepped.clock
    _step_forwards(stepped, seconds)
    world.leader_in_a_run()
    # No lease may stand for as long as its row says now.  What was decided stays so: nothing more is due until the
    # clock has come as far again.
    decided_until = world.books.settled_until()
    assert decided_until is not None
    clock.step(0.0)
    assert world.books.now() < decided_until
    world.fleet.wait_until(lambda: (until := world.books.settled_until()) is not None and until > decided_until)
    world.settled_past_now()


def _step_forwards(stepped: Stepped, seconds: float) -> None:
    """The lease has expired at once, and all ticks of the time that never was are due."""
    world = stepped.world
    leader = world.leader_in_a_run()
    term, mark = world.fleet.term(leader), world.fleet.mark()
    stepped.clock.step(seconds)
    leader.wait_for("leadership_lost", term=term)
    world.fleet.next_leader(term)
    # A replica may tell only now of the step back before: it told nobody for as long as nobody was answered.
    steps = world.fleet.wait_until(
        lambda: [
            entry["seconds"] for _, entry in world.fleet.said("database_clock_stepped", mark) if entry["seconds"] > 0
        ]
    )
    assert steps[0] < seconds + 0.1  # what is certain: answers that took their time blur it
    world.settled_past_now()
