"""I10: the wall clocks of replicas are an hour off, this way and that, or jump, and decide nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.false_clock import FalseClock, needs_libfaketime
from tests.faults.fleet import FAST_ELECTION, Entry, Replica
from tests.faults.stories import World, kill
from tests.servers import PostgresServer

HOUR = 3600.0
pytestmark = needs_libfaketime


@pytest.fixture
def world(tmp_path: Path, own_server: PostgresServer) -> Iterator[World]:
    """A world without replicas yet, whose lease outlasts the pauses of a slow machine."""
    election = {**FAST_ELECTION, "lease_duration": "30s"}
    world = World.at_work(tmp_path, own_server.url, own_server, election=election)
    with world.fleet:
        yield world


@pytest.mark.long
def test_replicas_whose_clocks_are_an_hour_off_lead_as_well_as_any(world: World, tmp_path: Path) -> None:
    for number, seconds in enumerate((HOUR, -HOUR)):
        clock = FalseClock(tmp_path / f"clock-{number}")
        clock.step(seconds)
        world.fleet.start(1, clock.environment)
    started = [replica.wait_for("service_started") for replica in world.fleet.replicas]
    assert [_hours_off(line) for line in started] == [1, -1]
    world.settled_past_now()
    # The one ahead is killed, and the one behind goes on.
    kill(world)
    world.fleet.replicas[1].wait_for("leader_elected")
    world.assert_all_is_well()


def test_a_leader_whose_clock_jumps_in_the_middle_of_its_work_goes_on_in_its_term(world: World, tmp_path: Path) -> None:
    clock = FalseClock(tmp_path / "clock")
    world.fleet.start(1, clock.environment)
    world.fleet.start(1)
    leader = world.fleet.replicas[0]
    for seconds in (HOUR, -HOUR, 0.0):
        assert world.leader_in_a_run() is leader
        mark = world.fleet.mark()
        clock.step(seconds)
        world.settled_past_now()
        # Its timers are set anew, by how far the database's clock is now from its own; those of its election may come
        # after the mark, when its jobs run already.
        _wait_for_timers(world, leader, -seconds, mark)
    assert [line["term"] for _, line in world.fleet.said("leader_elected")] == [1]
    world.assert_all_is_well()


def _wait_for_timers(world: World, leader: Replica, offset_seconds: float, mark: int) -> None:
    def are_set() -> bool:
        told = world.fleet.said("timetable_armed", mark)
        return any(who is leader and round(line["offset_seconds"]) == offset_seconds for who, line in told)

    world.fleet.wait_until(are_set)


def _hours_off(line: Entry) -> int:
    return round((datetime.fromisoformat(line["timestamp"]) - datetime.now(UTC)) / timedelta(hours=1))
