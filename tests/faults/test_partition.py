"""The leader alone is cut off from a PostgreSQL that everybody else reaches, or reaches it badly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.networks import ON_LINES, cut, drop_replies, reset, swallow_everything
from tests.faults.stories import Fault, World


@pytest.fixture
def world(tmp_path: Path, postgres_url: str) -> Iterator[World]:
    """Three replicas at work, each with a line of its own to the database."""
    with World.behind_lines(tmp_path, postgres_url) as world:
        yield world


def test_what_a_cut_off_leader_sent_and_arrives_after_its_term_changes_nothing(world: World) -> None:
    for fault in (swallow_everything, cut, reset, drop_replies):
        world.hurt(fault)
    world.assert_all_is_well()


@pytest.mark.long
@pytest.mark.parametrize("fault", ON_LINES, ids=lambda fault: fault.__name__)
def test_neither_if_it_happens_five_times(world: World, fault: Fault) -> None:
    for _ in range(5):
        world.hurt(fault)
    world.assert_all_is_well()
