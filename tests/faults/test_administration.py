"""An administrator deletes, locks, revokes and ends, under three replicas with the least rights that they need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.administration import (
    MOMENTARY,
    MOST_CONNECTIONS,
    PAST_THE_LEASE,
    every_connection_taken,
    world_with_few_rights,
)
from tests.faults.stories import Fault, World
from tests.servers import PostgresServer


@pytest.fixture
def empty_world(tmp_path: Path) -> Iterator[World]:
    """A world without replicas yet."""
    with PostgresServer({"max_connections": str(MOST_CONNECTIONS)}) as server:
        world = world_with_few_rights(tmp_path, server)
        with world.fleet:
            yield world


@pytest.fixture
def world(empty_world: World) -> World:
    """Three replicas at work."""
    empty_world.fleet.start(3)
    empty_world.settled_past_now()
    return empty_world


def test_ledger_and_side_effects_equal_the_schedule_whatever_an_administrator_does_for_a_moment(world: World) -> None:
    for fault in MOMENTARY:
        fault(world)
    world.assert_all_is_well()


def test_a_replica_that_finds_no_connection_at_its_start_waits_for_one(empty_world: World) -> None:
    starting = threading.Thread(target=empty_world.fleet.start, name="starting")
    with every_connection_taken(empty_world):
        starting.start()
        empty_world.fleet.wait_for("store_unavailable", part="start")
    starting.join()
    empty_world.leader_in_a_run()
    empty_world.assert_all_is_well()


@pytest.mark.long
@pytest.mark.parametrize("fault", [*MOMENTARY, *PAST_THE_LEASE], ids=lambda fault: fault.__name__)
def test_ledger_and_side_effects_equal_the_schedule_after_the_same_deed_three_times(world: World, fault: Fault) -> None:
    for _ in range(3):
        fault(world)
    world.assert_all_is_well()
