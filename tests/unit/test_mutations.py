"""The list of mutations is true: each still applies, its tests are there, and a trial tells right from wrong."""

from __future__ import annotations

import ast
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import mutations
from tests.mutations import MUTATIONS
from tests.mutations.__main__ import ROOT, main
from tests.mutations.mutation import MisfitError, Mutation, mutation
from tests.mutations.trial import Outcome, Trials

BY_NAME = {one.name: one for one in MUTATIONS}
CLOCK = "scheduler_service/clock.py"
OF_THE_CLOCK = "tests/unit/test_clock.py::test_the_boot_clock_counts_suspended_time_and_no_steps"
TIME = "return time.clock_gettime(self._id)"


@functools.cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def is_there(test: str) -> bool:
    path, _, name = test.partition("::")
    return (ROOT / path).is_file() and name.partition("[")[0].rpartition("::")[2] in functions(ROOT / path)


def misfit(one: Mutation) -> str | None:
    try:
        one.texts(ROOT)
    except MisfitError as error:
        return str(error)
    return None


def test_every_mutation_still_applies_once() -> None:
    assert [found for one in MUTATIONS if (found := misfit(one))] == []


def test_every_mutation_has_a_name_of_its_own_and_tests_that_are_there() -> None:
    assert len(BY_NAME) == len({one.bug for one in MUTATIONS}) == len(MUTATIONS) >= 40
    assert [one.name for one in MUTATIONS if not one.tests] == []
    assert [(one.name, test) for one in MUTATIONS for test in one.tests if not is_there(test)] == []


def test_the_page_counts_them() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text()
    counted = {name: int(count) for name, count in re.findall(r"(?m)^\| `(\w+)` \|.*\| (\d+) \|$", page)}
    areas = ("election", "fencing", "settling", "ticks", "starting", "ending", "asking")
    assert counted == {area: len(getattr(mutations, area).MUTATIONS) for area in areas}
    assert sum(counted.values()) == len(MUTATIONS)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("no such line", "", "occurs 0 times"),
        ("time.", "", "occurs "),
        (TIME, "return (", "is no Python"),
    ],
)
def test_a_mutation_that_does_not_fit_is_an_error(old: str, new: str, said: str) -> None:
    with pytest.raises(MisfitError, match=said):
        mutation("x", "x", CLOCK, old, new).texts(ROOT)


def test_a_name_that_is_not_on_the_list_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "wall-clock", "wall-klock"]) == 2
    assert "no such mutation: wall-klock" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    before = (ROOT / CLOCK).read_text()
    yield Trials(ROOT, tmp_path_factory.mktemp("mutations"), os.environ)
    assert (ROOT / CLOCK).read_text() == before


def test_a_bug_is_caught_by_its_test(trials: Trials) -> None:
    trials.pass_unmutated([BY_NAME["wall-clock"]])
    verdict = trials.attempt(BY_NAME["wall-clock"])
    assert (verdict.outcome, verdict.caught_by) == (Outcome.CAUGHT, (OF_THE_CLOCK,)), verdict


def test_a_bug_that_no_test_notices_survives(trials: Trials) -> None:
    unnoticed = mutation("harmless", "the same time", CLOCK, TIME, TIME + " + 0.0", OF_THE_CLOCK)
    assert trials.attempt(unnoticed).outcome is Outcome.SURVIVED


def test_a_bug_that_makes_no_sense_is_not_caught(trials: Trials) -> None:
    senseless = mutation("senseless", "a name that is not there", CLOCK, TIME, "return nonsense", OF_THE_CLOCK)
    assert trials.attempt(senseless).outcome is Outcome.NONSENSE


def test_a_test_that_fails_without_a_bug_is_an_error(trials: Trials) -> None:
    with pytest.raises(MisfitError, match=r"do not pass without any mutation: .*::test_gone"):
        trials.pass_unmutated([mutation("x", "x", CLOCK, TIME, TIME, "tests/unit/test_clock.py::test_gone")])
