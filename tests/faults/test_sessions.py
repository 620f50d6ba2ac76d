"""Single processes of the server are stopped, and leaders for less than their lease."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fleet import FAST_ELECTION
from tests.faults.stories import ON_SESSIONS, PATIENT_ELECTION, SHORT, Fault, World, freeze_the_postmaster
from tests.servers import PostgresServer


@pytest.fixture
def world(tmp_path: Path, own_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[World]:
    """Three replicas at work."""
    world = World.at_work(tmp_path, own_server.url, own_server, election=getattr(request, "param", FAST_ELECTION))
    with world.fleet:
        world.fleet.start(3)
        world.settled_past_now()
        yield world


PATIENT = pytest.mark.parametrize("world", [PATIENT_ELECTION], ids=["a lease of 60 s"], indirect=True)


@PATIENT
def test_what_is_shorter_than_the_lease_leaves_the_leader_its_term(world: World) -> None:
    _hurt_without_a_change(world, *SHORT)
    # Nobody waits for a lease of 60 s to expire: whoever is connected sees the leader's session end.
    world.hurt(freeze_the_postmaster)
    world.assert_all_is_well()


@PATIENT
@pytest.mark.long
@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: fault.__name__)
def test_neither_does_it_when_it_happens_five_times(world: World, fault: Fault) -> None:
    _hurt_without_a_change(world, *[fault] * 5)
    world.assert_all_is_well()


@pytest.mark.long
@pytest.mark.parametrize("fault", ON_SESSIONS, ids=lambda fault: fault.__name__)
def test_a_leader_is_followed_while_single_processes_of_the_server_stand_still(world: World, fault: Fault) -> None:
    for _ in range(5):
        world.hurt(fault)
    world.assert_all_is_well()


def _hurt_without_a_change(world: World, *faults: Fault) -> None:
    leader = world.fleet.leader()
    term = world.fleet.term(leader)
    for fault in faults:
        world.hurt(fault)
    assert [entry["term"] for _, entry in world.fleet.said("leader_elected")] == [term]
    assert world.fleet.leader() is leader
