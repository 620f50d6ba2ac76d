"""The database's clock is stepped, forwards and backwards, by more than the lease: what holds then all the same.

I1 is promised only while that clock is not stepped.  The fence looks at no clock of ours, and `settled_until` only
grows: so no tick is decided twice, and none is left out.  What a step does cost is described in docs/guarantees.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.false_clock import FalseClock, needs_libfaketime
from tests.faults.stories import World
from tests.servers import PostgresServer

pytestmark = needs_libfaketime
STEP = 5.0  # the lease lasts 3 s


@dataclass
class Stepped:
    """Replicas at work on a server whose clock can be set."""

    world: World
    clock: FalseClock


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[Stepped]:
    """Three replicas at work."""
    server = PostgresServer()
    clock = FalseClock(server.folder / "clock")
    server.environment.update(clock.environment)
    with server:
        world = World.at_work(tmp_path, server.url, server)
        with world.fleet:
            world.fleet.start(3)
            world.settled_past_now()
            yield Stepped(world, clock)


def test_no_tick_is_decided_twice_or_left_out_though_the_databases_clock_is_stepped(stepped: Stepped) -> None:
    _step_forwards_and_back(stepped, STEP)
    stepped.world.assert_all_is_well()


@pytest.mark.long
def test_neither_if_it_is_stepped_five_times(stepped: Stepped) -> None:
    for _ in range(5):
        _step_forwards_and_back(stepped, STEP)
    stepped.world.assert_all_is_well()


def _step_forwards_and_back(stepped: Stepped, seconds: float) -> None:
    world, clock = stepped.world, stepped.clock
    leader = world.leader_in_a_run()
    term, mark = world.fleet.term(leader), world.fleet.mark()
    # The lease has expired at once, and all ticks of the time that never was are due.
    clock.step(seconds)
    leader.wait_for("leadership_lost", term=term)
    world.fleet.next_leader(term)
    told = world.fleet.wait_for("database_clock_stepped", since=mark)
    assert round(told["seconds"]) == seconds
    world.settled_past_now()
    world.leader_in_a_run()
    # No lease may stand for as long as its row says now.  What was decided stays so: nothing more is due until the
    # clock has come as far again.
    decided_until = world.books.settled_until()
    assert decided_until is not None
    clock.step(0.0)
    assert world.books.now() < decided_until
    world.fleet.wait_until(lambda: (until := world.books.settled_until()) is not None and until > decided_until)
    world.settled_past_now()
