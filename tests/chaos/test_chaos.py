"""Random jobs under random faults, from one seed: short ones here, longer ones by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import report
from tests.chaos.__main__ import run
from tests.chaos.plan import plan

SHORT_SECONDS = 9


def assert_nothing_was_broken(
    seed: int, minutes: float, folder: Path, *, sqlite: bool = False, replicas: int = 4
) -> None:
    drawn = plan(seed, minutes, replicas, sqlite=sqlite)
    outcome = run(drawn, folder)
    print(report.text(report.document(drawn, outcome.diary, outcome.records, outcome.verdict)))
    assert not outcome.verdict.violations, "\n".join(map(str, outcome.verdict.violations[:20]))
    assert outcome.diary.deeds, "nobody was hurt"
    assert outcome.verdict.attempts["succeeded"] > 0
    assert outcome.verdict.tick_count > 0


def test_a_short_storm_breaks_no_promise(tmp_path: Path) -> None:
    assert_nothing_was_broken(13, SHORT_SECONDS / 60, tmp_path, replicas=3)


@pytest.mark.long
@pytest.mark.parametrize("sqlite", [False, True], ids=["postgresql", "sqlite"])
def test_neither_do_minutes_of_it(sqlite: bool, tmp_path: Path) -> None:
    assert_nothing_was_broken(2, 3.0, tmp_path, sqlite=sqlite)
