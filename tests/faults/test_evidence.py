"""The comparison of schedule, ledger and side effects finds nothing in what is sound, and each thing tampered with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from scheduler_service.tables import to_microseconds
from tests.faults.evidence import EPOCH, INTERVAL, Books, compare
from tests.faults.fleet import Fleet

JOB = "exclusive-0"
START = EPOCH + timedelta(days=20_000)
TICKS = 5


@dataclass
class World:
    """A ledger on SQLite and a tally, written by hand: five ticks of one job, each of which ran."""

    books: Books
    tally: Path
    fleet: Fleet  # of nobody: nothing was told

    def problems(self) -> list[str]:
        return compare(self.books, self.tally, self.fleet).problems

    def lines(self) -> list[str]:
        return self.tally.read_text().splitlines()

    def write(self, lines: list[str]) -> None:
        self.tally.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def world(tmp_path: Path, migrated_sqlite_url: str) -> Iterator[World]:
    """A sound world."""
    world = World(Books(migrated_sqlite_url), tmp_path / "tally", Fleet(tmp_path, migrated_sqlite_url, {}))
    until = tick(TICKS)
    world.books.execute(
        "insert into job_state (lock_id, job_id, schedule, timezone, enabled, accountable_from, settled_until,"
        f" present_at) values (1, '{JOB}', 'every 200ms', 'UTC', 1, {micros(START)}, {micros(until)}, {micros(until)})"
    )
    lines = []
    for number in range(1, TICKS + 1):
        at = micros(tick(number))
        world.books.execute(
            "insert into run (id, lock_id, job_id, scheduled_at, due_at, kind, state, attempt, decided_at)"
            f" values ({number}, 1, '{JOB}', {at}, {at}, 'scheduled', 'succeeded', 1, {at})"
        )
        world.books.execute(
            "insert into run_attempt (id, run_id, attempt, term, instance_id, started_at, finished_at, state)"
            f" values ({number}, {number}, 1, 1, 'ann', {at}, {at}, 'succeeded')"
        )
        lines += [
            f"{JOB} {tick(number).isoformat()} {number} {number} 100 {what} {number}.0" for what in ("begin", "end")
        ]
    world.write(lines)
    with world.fleet:
        yield world


def tick(number: int) -> datetime:
    return START + number * INTERVAL


def micros(moment: datetime) -> int:
    return to_microseconds(moment)


def test_a_sound_world_has_no_problems(world: World) -> None:
    account = compare(world.books, world.tally, world.fleet)
    assert account.problems == []
    assert account.tick_count == TICKS
    assert account.states == {"succeeded": TICKS}


def test_a_doubled_beginning_is_found(world: World) -> None:
    lines = world.lines()
    world.write([*lines, lines[0]])
    assert any("ran 2 times" in problem for problem in world.problems())


def test_a_missing_tick_is_found(world: World) -> None:
    world.books.execute("delete from run_attempt where run_id = 3")
    world.books.execute("delete from run where id = 3")
    assert any("is due and was not decided" in problem for problem in world.problems())
    assert any("ran and is not in the ledger" in problem for problem in world.problems())


def test_a_tick_that_is_not_due_is_found(world: World) -> None:
    world.books.execute(f"update job_state set settled_until = {micros(tick(TICKS - 1))}")
    assert any("was decided and is not due" in problem for problem in world.problems())


def test_a_tick_in_two_rows_is_found(world: World) -> None:
    world.books.execute(
        "insert into run (id, lock_id, job_id, scheduled_at, until, due_at, kind, state, reason, decided_at)"
        f" select 50, 1, '{JOB}', {micros(tick(2)) - 1}, {micros(tick(3))}, due_at, 'range', 'missed', 'coalesced',"
        " decided_at from run where id = 2"
    )
    assert any("is in several rows" in problem for problem in world.problems())


def test_an_overlap_is_found(world: World) -> None:
    one, two, three, four, *others = world.lines()
    world.write([one, three, two, four, *others])
    assert any("began while" in problem for problem in world.problems())


def test_a_run_without_its_end_is_found(world: World) -> None:
    lines = world.lines()
    world.write(lines[:-1])
    assert any("left" in problem for problem in world.problems())


def test_the_fence_of_another_run_is_found(world: World) -> None:
    lines = world.lines()
    world.write([line.replace(" 1 1 100 ", " 2 1 100 ") for line in lines])
    assert any("with the fence 2" in problem for problem in world.problems())


def test_a_silent_loss_is_found(world: World) -> None:
    world.books.execute("update run_attempt set state = 'lost' where id = 2")
    world.books.execute("update run set state = 'lost' where id = 2")
    assert any("was lost in silence" in problem for problem in world.problems())


def test_a_skipped_tick_that_ran_is_found(world: World) -> None:
    world.books.execute("update run set state = 'skipped', reason = 'overlap' where id = 2")
    assert any("(run 2, skipped) ran" in problem for problem in world.problems())
