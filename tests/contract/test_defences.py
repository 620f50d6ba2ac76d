"""What the tables refuse by themselves: the last line of defence, behind statements that never try it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, select

from scheduler_service.database import Database, StoreConflict
from scheduler_service.model import State
from scheduler_service.tables import run, run_attempt
from tests.contract.ledger_world import LOCK, World

ALONE = {"kind": "manual", "request_key": None}  # no tick and no key that another run could have


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def again(world: World, table: Any, **changes: Any) -> None:
    """Insert the only row of a table a second time, but for these changes."""
    (row,) = world.execute(select(table))
    world.execute(insert(table).values({**row._mapping, "id": row.id + 1, **changes}))


@pytest.mark.parametrize(
    ("table", "known", "free"),
    [
        (run, {"slot_held": False, "exclusive": False, "request_key": None}, {"kind": "manual"}),
        (run, {**ALONE, "slot_held": True, "exclusive": True, "slot": 5}, {"exclusive": False}),
        (run, {**ALONE, "slot_held": True, "exclusive": False}, {"slot": 1}),
        (run, {"kind": "manual", "slot_held": False, "request_key": "k"}, {"request_key": "l"}),
        (run_attempt, {}, {"attempt": 2}),
    ],
    ids=["a tick twice", "two runs that are to be alone", "a slot twice", "a key twice", "a start twice"],
)
def test_the_tables_refuse(world: World, table: Any, known: dict[str, Any], free: dict[str, Any]) -> None:
    attempt = world.started()
    world.execute(run.update().values(request_key="k"))
    assert (attempt.attempt, world.row(run, id=attempt.run_id).slot, LOCK) == (1, 0, 7)
    with pytest.raises(StoreConflict):
        again(world, table, **known)
    again(world, table, **{**known, **free})
    assert State(world.row(run, id=attempt.run_id).state) is State.RUNNING
