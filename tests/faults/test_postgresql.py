"""Three replicas on one PostgreSQL, ten jobs of `every: 200ms`, and bad luck of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stories import ON_POSTGRESQL, Fault, World
from tests.servers import PostgresServer


@pytest.fixture
def world(tmp_path: Path, own_server: PostgresServer) -> Iterator[World]:
    """Three replicas at work."""
    world = World.at_work(tmp_path, own_server.url, own_server)
    with world.fleet:
        world.fleet.start(3)
        world.settled_past_now()
        yield world


def test_ledger_and_side_effects_equal_the_schedule_whatever_happens_to_the_leader(world: World) -> None:
    for fault in ON_POSTGRESQL:
        fault(world)
    world.assert_all_is_well()


@pytest.mark.long
@pytest.mark.parametrize("fault", ON_POSTGRESQL, ids=lambda fault: fault.__name__)
def test_ledger_and_side_effects_equal_the_schedule_after_the_same_fault_five_times(world: World, fault: Fault) -> None:
    for _ in range(5):
        fault(world)
    world.assert_all_is_well()
