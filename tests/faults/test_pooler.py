"""Every replica reaches the server by way of PgBouncer in transaction mode: sessions are lent for a statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.stories import Fault, World, freeze_past_the_lease, kill, restart_immediately, terminate
from tests.poolers import Pooler
from tests.servers import PostgresServer

pytestmark = pytest.mark.pgbouncer


@dataclass
class Pooled:
    """Three replicas at work behind a pooler."""

    world: World
    pooler: Pooler

    def restart_the_pooler(self, world: World) -> None:
        """SIGKILL it and start it again."""
        leader = world.leader_in_a_run()
        mark = world.fleet.mark()
        self.pooler.kill()
        world.fleet.wait_for_doubt(leader, mark)
        self.pooler.start()
        world.settled_past_now()

    def pooler_down_past_the_lease(self, world: World) -> None:
        """SIGKILL it and start it when the leader has given up."""
        leader = world.leader_in_a_run()
        term = world.fleet.term(leader)
        self.pooler.kill()
        leader.wait_for("leadership_lost", term=term)
        self.pooler.start()
        world.fleet.next_leader(term)
        world.settled_past_now()


@pytest.fixture
def pooled(tmp_path: Path, own_server: PostgresServer) -> Iterator[Pooled]:
    with Pooler(own_server.url) as pooler:
        world = World.at_work(tmp_path, own_server.url, own_server, pooler.url)
        with world.fleet as fleet:
            fleet.start(3)
            world.settled_past_now()
            yield Pooled(world, pooler)


def test_behind_a_pooler_leaders_and_pooler_are_killed_and_nothing_runs_twice(pooled: Pooled) -> None:
    # The end of a session tells nothing there: whoever follows has waited for the lease to expire.
    pooled.world.fleet.wait_for("crash_detection_off", reason="a pooler lends out the session: the lease has to expire")
    pooled.world.hurt(kill)
    pooled.world.hurt(pooled.restart_the_pooler)
    pooled.world.assert_all_is_well()
    ended = pooled.world.books.rows("select end_reason from {p}leader_term where ended_at is not null")
    assert ("session_gone",) not in ended


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", [kill, terminate, freeze_past_the_lease, restart_immediately], ids=lambda fault: fault.__name__
)
def test_neither_if_it_happens_five_times(pooled: Pooled, fault: Fault) -> None:
    for _ in range(5):
        pooled.world.hurt(fault)
    pooled.world.assert_all_is_well()


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", [Pooled.restart_the_pooler, Pooled.pooler_down_past_the_lease], ids=lambda fault: fault.__name__
)
def test_nor_if_it_happens_to_the_pooler_five_times(pooled: Pooled, fault: Callable[[Pooled, World], None]) -> None:
    for _ in range(5):
        pooled.world.hurt(getattr(pooled, fault.__name__))
    pooled.world.assert_all_is_well()
