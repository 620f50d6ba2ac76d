"""The primary dies and its standby is promoted; replicas reach whichever takes writes by one URL."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.faults.evidence import Books, Effect, compare, effects
from tests.faults.stories import World
from tests.relay import Relay
from tests.servers import PostgresServer
from tests.standbys import StandbyServer, require_the_standby


@dataclass(frozen=True)
class Between:
    """A moment between the primary's end and the promotion, on the database's clock and on the boot clock."""

    at: datetime
    boot_seconds: float


@dataclass
class Pair:
    """Three replicas at work on a primary that a standby follows over a line of its own."""

    world: World
    primary: PostgresServer
    standby: StandbyServer
    line: Relay
    closing: contextlib.ExitStack

    def promote(self) -> Between:
        """Kill the primary and promote the standby; return a moment in between."""
        self.primary.kill()
        with self.standby.connect() as connection:
            (moment,) = connection.execute("select clock_timestamp()").fetchone()
        between = Between(moment, time.clock_gettime(time.CLOCK_BOOTTIME))
        self.standby.promote()
        self.world.books = Books(self.standby.url)
        self.world.server = self.standby
        return between

    def follow_again(self) -> None:
        """Put a new standby in the place of the dead primary, and let commits wait for it."""
        self.primary.close()
        self.primary, port = self.standby, self.primary.port
        self.line = self.closing.enter_context(Relay(self.primary.url))
        self.standby = self.closing.enter_context(StandbyServer(self.line.url, port))
        require_the_standby(self.primary)


@pytest.fixture
def pair(tmp_path: Path, own_server: PostgresServer) -> Iterator[Pair]:
    """Three replicas at work."""
    with contextlib.ExitStack() as closing:
        line = closing.enter_context(Relay(own_server.url))
        standby = closing.enter_context(StandbyServer(line.url))
        hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in (own_server, standby))
        either = f"postgresql://postgres@/postgres?{hosts}&target_session_attrs=read-write"
        world = World.at_work(tmp_path, own_server.url, own_server, either)
        closing.enter_context(world.fleet)
        world.fleet.start(3)
        world.settled_past_now()
        yield Pair(world, own_server, standby, line, closing)


def test_a_synchronous_standby_that_is_promoted_has_forgotten_nothing(pair: Pair) -> None:
    require_the_standby(pair.primary)
    _lose_the_primary(pair)
    pair.world.assert_all_is_well()


@pytest.mark.long
def test_neither_if_it_happens_five_times_and_commits_hang_before(pair: Pair) -> None:
    require_the_standby(pair.primary)
    for number in range(5):
        if number:
            pair.follow_again()
        _lose_the_primary_while_commits_hang(pair)
    pair.world.assert_all_is_well()


def test_what_an_asynchronous_standby_forgot_may_run_again_and_nothing_else(pair: Pair) -> None:
    pair.line.stall()
    pair.world.leader_in_a_run()
    pair.world.settled_past_now()
    _assert_that_only_what_was_forgotten_ran_again(pair)


@pytest.mark.long
def test_neither_if_it_forgot_a_term_too(pair: Pair) -> None:
    fleet = pair.world.fleet
    pair.line.stall()
    leader = pair.world.leader_in_a_run()
    term = fleet.term(leader)
    leader.kill()
    fleet.next_leader(term)
    pair.world.settled_past_now()
    _assert_that_only_what_was_forgotten_ran_again(pair)


def _assert_that_only_what_was_forgotten_ran_again(pair: Pair) -> None:
    world = pair.world
    world.leader_in_a_run()
    between = pair.promote()
    world.settled_past_now()
    world.come_to_an_end()
    kept, forgotten = _told_apart(world, between)
    account = compare(world.books, kept, world.fleet)
    print(f"{account.tick_count} ticks: {dict(account.states)}")
    # Of what the database has, every promise holds; what it forgot has run once beside that.
    assert not account.problems, "\n".join(account.problems[:20])
    beginnings = Counter((line.job, line.scheduled_at) for line in forgotten)
    assert forgotten
    assert max(beginnings.values()) == 1
    known = effects(kept)
    ticks = {(line.job, line.scheduled_at) for line in known}
    numbers = {line.fence for line in known}
    print(
        f"{len(forgotten)} starts were forgotten: {len(beginnings.keys() & ticks)} of their ticks ran again, "
        f"{len({line.fence for line in forgotten} & numbers)} of their numbers were given again"
    )


def _lose_the_primary(pair: Pair) -> None:
    pair.world.leader_in_a_run()
    pair.promote()
    pair.world.settled_past_now()


def _lose_the_primary_while_commits_hang(pair: Pair) -> None:
    """What was committed and not told to anybody is forgotten."""
    leader = pair.world.leader_in_a_run()
    mark = pair.world.fleet.mark()
    pair.line.stall()
    leader.wait_for("leadership_suspect", since=mark)
    pair.promote()
    pair.world.settled_past_now()


def _told_apart(world: World, between: Between) -> tuple[Path, list[Effect]]:
    """Return a tally without what was forgotten, and the beginnings of that."""
    rows = world.books.rows("select id, run_id, started_at from {p}run_attempt")
    known = {(fence, run_id) for fence, run_id, _ in rows}
    known_before = {
        (fence, run_id) for fence, run_id, started_at in rows if world.books.moment(started_at) < between.at
    }
    kept, forgotten = [], []
    going: Counter[tuple[int, int, int]] = Counter()
    for text, line in zip(world.tally.read_text().splitlines(), effects(world.tally), strict=True):
        key = (line.fence, line.run_id, line.pid)
        # Numbers may have been given again, so what began before the promotion must have been started before.
        if line.what == "begin" and key[:2] not in (known_before if line.at < between.boot_seconds else known):
            forgotten.append(line)
            going[key] += 1
        elif line.what == "end" and going[key]:
            going[key] -= 1
        else:
            kept.append(text)
    path = world.tally.with_name("tally-of-what-is-known")
    path.write_text("".join(f"{text}\n" for text in kept))
    return path, forgotten
