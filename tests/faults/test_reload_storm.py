"""Hundreds of edits, right and wrong, under jobs of `every: 200ms`: the ledger equals the schedule all the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.evidence import PASSING, tally_jobs
from tests.faults.stories import World
from tests.servers import PostgresServer

SEED = 20261126
PASSING_COUNT = 5
ANSWERS = ("config_reloaded", "config_unchanged", "config_rejected", "config_restored")

Jobs = dict[str, Any]


@dataclass
class Storm:
    """Edits the configuration of a world again and again."""

    world: World
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    edit_count: int = 0

    def blow(self, count: int) -> None:
        """Make so many edits, every fourth of them wrong; wait for an answer to most of them."""
        for _ in range(count):
            text = self._text()
            if self.rng.random() < 0.25:
                text = self._spoilt(text)
            self._write(text)
            if self.rng.random() < 0.8:
                self._ask()

    def calm(self) -> None:
        """Make an edit that is right and has every job, and wait until everybody has taken it."""
        self._write(self._text(everything=True))
        self._ask()

    def _text(self, *, everything: bool = False) -> str:
        self.edit_count += 1
        jobs = tally_jobs(self.world.tally)
        for job in self.rng.sample(sorted(jobs), 3):
            jobs[job]["description"] = f"edit {self.edit_count}"
            jobs[job]["kwargs"]["seconds"] = 0.03 * self.rng.randrange(5)
        for number in range(PASSING_COUNT):
            if everything or self.rng.random() < 0.5:
                jobs[f"{PASSING}-{number}"] = self._passing(everything=everything)
        return self.world.fleet.text(jobs)

    def _passing(self, *, everything: bool) -> Jobs:
        return {
            "run": "tally:note",
            "kwargs": {"path": str(self.world.tally), "seconds": 0.0},
            "every": self.rng.choice(["200ms", "400ms", "1s"]),
            "overlap": self.rng.choice(["skip", "allow"]),
            "enabled": everything or self.rng.random() < 0.8,
        }

    def _spoilt(self, text: str) -> str:
        spoil: Callable[[], str] = self.rng.choice(
            [
                lambda: text[: self.rng.randrange(len(text))],
                lambda: text.replace("200ms", "200", 1),
                lambda: text.replace('"overlap"', '"overlpa"', 1),
                lambda: text.replace("tally:note", "nowhere:note", 1),
                lambda: text.replace('"seconds"', '"hours"', 1),
                lambda: "",
            ]
        )
        return spoil()

    def _write(self, text: str) -> None:
        path = self.world.fleet.config_path
        if self.rng.random() < 0.5:
            other = path.with_suffix(".new")
            other.write_text(text)
            other.replace(path)
            return
        middle = self.rng.randrange(len(text) + 1)
        with path.open("w") as file:  # as an editor that writes in place
            file.write(text[:middle])
            file.flush()
            file.write(text[middle:])

    def _ask(self) -> None:
        mark = self.world.fleet.mark()
        living = [replica for replica in self.world.fleet.replicas if replica.alive]
        for replica in living:
            replica.reload()
        self.world.fleet.wait_until(lambda: self._answered(mark) >= {replica.number for replica in living})

    def _answered(self, mark: int) -> set[int]:
        return {who.number for name in ANSWERS for who, _ in self.world.fleet.said(name, mark)}


def assert_all_is_well(world: World) -> None:
    """Fail unless ledger and side effects equal the schedule, and all come to have the same configuration."""
    world.fleet.wait_until(lambda: len(_hashes(world)) == 1)
    account = world.finish()
    told = {name: sum(1 for _ in world.fleet.said(name)) for name in ANSWERS}
    print(f"{account.tick_count} ticks: {dict(account.states)}; {told}")
    assert not account.problems, "\n".join(account.problems[:20])
    assert account.states["missed"] == 0
    assert account.states["succeeded"] > 0
    assert told["config_reloaded"] > 0
    assert told["config_rejected"] > 0


def _hashes(world: World) -> set[str]:
    living = {replica.instance for replica in world.fleet.replicas if replica.alive}
    rows = world.books.rows("select instance_id, config_hash from {p}replica")
    return {config_hash for instance, config_hash in rows if instance in living}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """One replica at work."""
    world = World.at_work(tmp_path, f"sqlite:///{tmp_path / 'scheduler.db'}")
    with world.fleet:
        world.fleet.start()
        world.settled_past_now()
        yield world


def test_a_storm_of_edits_loses_no_tick_and_runs_none_twice(alone: World) -> None:
    storm = Storm(alone)
    storm.blow(100)
    storm.calm()
    assert_all_is_well(alone)


@pytest.fixture
def three(tmp_path: Path, own_server: PostgresServer) -> Iterator[World]:
    """Three replicas at work."""
    world = World.at_work(tmp_path, own_server.url, own_server)
    with world.fleet:
        world.fleet.start(3)
        world.settled_past_now()
        yield world


@pytest.mark.long
def test_neither_does_a_long_storm_over_three_replicas_whose_leader_is_killed_in_it(three: World) -> None:
    storm = Storm(three)
    for _ in range(4):
        storm.blow(125)
        leader = three.fleet.leader()
        term = three.fleet.term(leader)
        leader.kill()  # whatever the file holds now
        three.fleet.next_leader(term)
        storm.blow(5)
        storm.calm()
        three.fleet.start()  # a replica does not start with a wrong file
    assert storm.edit_count >= 500
    assert_all_is_well(three)
