"""The leader's host is gone without a word: no FIN, no RST, every packet to it and from it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.fleet import Replica
from tests.faults.stories import World
from tests.hosts import Host, why_no_hosts
from tests.servers import PostgresServer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(why_no_hosts() is not None, reason=str(why_no_hosts())),
]


@dataclass
class Site:
    """A replica on a host of its own, which leads, and two beside the server."""

    world: World
    host: Host
    distant: Replica

    def vanish(self, world: World) -> None:
        """The host is gone until another leads and the server has let go of its sessions; then it is back."""
        fleet, books = world.fleet, world.books
        assert world.leader_in_a_run() is self.distant
        term = fleet.term(self.distant)
        world.frozen_pids.add(self.distant.pid)  # I7 holds only for replicas that reach the database
        before = books.now()
        self.host.vanish()
        follower = fleet.next_leader(term)
        ((elected_at,),) = books.rows(f"select acquired_at from {{p}}leader_term where term = {fleet.term(follower)}")
        print(f"another led {(books.moment(elected_at) - before).total_seconds():.2f} s after the host was gone")
        self.distant.wait_for("leadership_lost", term=term)
        world.settled_past_now()
        sessions = f"select count(*) from pg_stat_activity where client_addr = '{self.host.address}'"
        fleet.wait_until(lambda: books.rows(sessions)[0][0] == 0)
        self.host.return_()
        fleet.wait_until(lambda: books.rows(sessions)[0][0] > 0)
        world.settled_past_now()

    def lead_again(self) -> None:
        """Let the distant replica lead, by replacing the others."""
        others = [one for one in self.world.fleet.replicas if one.alive and one is not self.distant]
        for other in others:
            other.terminate()
        for other in others:
            assert other.wait() == 0
        assert self.world.fleet.leader() is self.distant
        self.start_others()

    def start_others(self) -> None:
        assert self.world.server is not None
        self.world.fleet.start(2, {"DATABASE": self.world.server.url})
        self.world.settled_past_now()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Host() as host, PostgresServer({"listen_addresses": f"127.0.0.1,{host.here}"}) as server:
        server.admit(host.address)
        world = World.at_work(tmp_path, server.url, server, "${DATABASE}")
        with world.fleet:
            url = f"postgresql://postgres@{host.here}:{server.port}/postgres"
            (distant,) = world.fleet.start(1, {"DATABASE": url}, within=host.entry)
            site = Site(world, host, distant)
            site.start_others()
            yield site


def test_another_leads_when_the_leaders_host_has_vanished_and_nothing_runs_twice(site: Site) -> None:
    site.world.hurt(site.vanish)
    site.world.assert_all_is_well()


@pytest.mark.long
def test_neither_does_it_when_it_vanishes_five_times(site: Site) -> None:
    for number in range(5):
        if number:
            site.lead_again()
        site.world.hurt(site.vanish)
    site.world.assert_all_is_well()
