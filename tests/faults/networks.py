"""What is done to the line between the leader and its database, each time until it has passed.

Each replica of the world has a line of its own (`World.behind_lines`).
"""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.fleet import LIMIT_SECONDS
from tests.faults.stories import Fault, World
from tests.relay import Relay

SLOW_SECONDS = 0.04  # one way


def swallow_everything(world: World) -> None:
    """Nothing gets through until another leads; then what was kept back arrives."""
    _swallow_past_the_lease(world, Relay.stall)


def swallow_requests(world: World) -> None:
    """What the leader sends does not arrive until another leads, and arrives then."""
    _swallow_past_the_lease(world, lambda line: line.requests.stall())


def swallow_replies(world: World) -> None:
    """What the leader asks is done, and it learns of it when another leads."""
    _swallow_past_the_lease(world, lambda line: line.replies.stall())


def cut(world: World) -> None:
    """All the leader's connections end at once; it may connect again."""
    _end_the_connections(world, Relay.cut)


def reset(world: World) -> None:
    """All the leader's connections are reset (RST) at once; it may connect again."""
    _end_the_connections(world, Relay.reset)


def slow_down(world: World) -> None:
    """Every packet of the leader's takes 40 ms each way, for as long as it takes to settle five times."""
    line = world.lines[world.leader_in_a_run().number]
    line.delay(SLOW_SECONDS)
    for _ in range(5):
        world.settled_past_now()
    line.heal()
    world.settled_past_now()


def drop_replies(world: World) -> None:
    """Ten statements of the leader's are committed, and instead of the answer it gets the end of its connection."""
    line = world.lines[world.leader_in_a_run().number]
    line.drop_replies(10)
    line.await_drops(LIMIT_SECONDS)
    world.settled_past_now()


ON_LINES: tuple[Fault, ...] = (
    swallow_everything,
    swallow_requests,
    swallow_replies,
    cut,
    reset,
    slow_down,
    drop_replies,
)


def _swallow_past_the_lease(world: World, stall: Callable[[Relay], None]) -> None:
    leader = world.leader_in_a_run()
    world.frozen_pids.add(leader.pid)  # I7 holds only for replicas that reach the database
    term = world.fleet.term(leader)
    stall(world.lines[leader.number])
    leader.wait_for("leadership_lost", term=term)
    world.fleet.next_leader(term)
    world.lines[leader.number].heal()
    world.settled_past_now()


def _end_the_connections(world: World, end: Callable[[Relay], None]) -> None:
    leader = world.fleet.leader()
    mark = world.fleet.mark()
    end(world.lines[leader.number])
    world.fleet.wait_for_doubt(leader, mark)
    world.settled_past_now()
