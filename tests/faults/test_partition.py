"""The leader alone is cut off from a PostgreSQL that everybody else reaches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.fleet import Replica
from tests.faults.stories import World
from tests.relay import Relay


@dataclass
class Network:
    """Three replicas, each with a line of its own to the database."""

    world: World
    lines: dict[int, Relay]

    def line_of(self, replica: Replica) -> Relay:
        return self.lines[replica.number]


@pytest.fixture
def network(tmp_path: Path, postgres_url: str) -> Iterator[Network]:
    """Three replicas at work."""
    world = World.at_work(tmp_path, postgres_url, replicas_url="${DATABASE}")
    with contextlib.ExitStack() as closing:
        lines = {}
        closing.enter_context(world.fleet)
        for number in (1, 2, 3):
            lines[number] = closing.enter_context(Relay(postgres_url))
            world.fleet.start(1, {"DATABASE": lines[number].url})
        world.settled_past_now()
        yield Network(world, lines)


def test_what_a_cut_off_leader_sent_and_arrives_after_its_term_changes_nothing(network: Network) -> None:
    _stall_the_leader(network)
    _cut_the_leader_off(network)
    network.world.assert_all_is_well()


@pytest.mark.long
def test_neither_if_it_happens_five_times(network: Network) -> None:
    for _ in range(5):
        _stall_the_leader(network)
        _cut_the_leader_off(network)
    network.world.assert_all_is_well()


def _stall_the_leader(network: Network) -> None:
    """Its network swallows every packet until another leads, and delivers them then."""
    world = network.world
    leader = world.leader_in_a_run()
    world.frozen_pids.add(leader.pid)  # I7 holds only for replicas that reach the database
    term = world.fleet.term(leader)
    network.line_of(leader).stall()
    leader.wait_for("leadership_lost", term=term)
    world.fleet.next_leader(term)
    network.line_of(leader).heal()
    world.settled_past_now()


def _cut_the_leader_off(network: Network) -> None:
    """All its connections end at once; it may connect again."""
    world = network.world
    leader = world.fleet.leader()
    mark = world.fleet.mark()
    network.line_of(leader).cut()
    leader.wait_for("leadership_suspect", since=mark)
    world.settled_past_now()
