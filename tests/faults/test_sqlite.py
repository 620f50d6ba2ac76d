"""Three replicas on one SQLite file, ten jobs of `every: 200ms`, killed and asked to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stories import ON_PROCESSES, Fault, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Three replicas at work."""
    world = World.at_work(tmp_path, f"sqlite:///{tmp_path / 'scheduler.db'}")
    with world.fleet:
        world.fleet.start(3)
        world.settled_past_now()
        yield world


def test_ledger_and_side_effects_equal_the_schedule_after_a_kill_and_a_drain(world: World) -> None:
    for fault in ON_PROCESSES:
        fault(world)
    world.assert_all_is_well()


@pytest.mark.long
@pytest.mark.parametrize("fault", ON_PROCESSES, ids=lambda fault: fault.__name__)
def test_ledger_and_side_effects_equal_the_schedule_after_the_same_fault_five_times(world: World, fault: Fault) -> None:
    for _ in range(5):
        fault(world)
    world.assert_all_is_well()
