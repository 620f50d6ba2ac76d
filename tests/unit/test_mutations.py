"""The list of mutations is true: each still applies, its tests are there, and a trial tells right from wrong."""

from __future__ import annotations

import ast
import functools
import os
import re
from pathlib import Path

import pytest

from tests import mutations
from tests.mutations import MUTATIONS
from tests.mutations.__main__ import ROOT, main
from tests.mutations.mutation import MisfitError, Mutation, mutation
from tests.mutations.trial import Outcome, Trials

BY_NAME = {one.name: one for one in MUTATIONS}
CLOCK = "scheduler_service/clock.py"
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
    page = (ROOT / "docs" / "guarantees.md").read_text().partition("## That the tests can fail")[2]
    page = page.partition("\n## ")[0]
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


def test_a_bug_is_caught_in_a_copy_of_the_tree(tmp_path: Path) -> None:
    before = (ROOT / CLOCK).read_text()
    trials = Trials(ROOT, tmp_path, os.environ)
    trials.pass_unmutated([BY_NAME["wall-clock"]])
    verdict = trials.attempt(BY_NAME["wall-clock"])
    assert (verdict.outcome, verdict.caught_by) == (Outcome.CAUGHT, BY_NAME["wall-clock"].tests), verdict
    assert (ROOT / CLOCK).read_text() == before


ONE, TWO = "tests/test_answers.py::test_one", "tests/test_answers.py::test_two"
ANSWERS = "scheduler_service/__init__.py"


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    """Trials of a tree that is small enough to be tried often."""
    root = tmp_path / "tree"
    (root / "tests").mkdir(parents=True)
    (root / "scheduler_service").mkdir()
    (root / ANSWERS).write_text("def one():\n    return 1\n\n\ndef two():\n    return one() * 2\n")
    (root / "tests" / "test_answers.py").write_text(
        "import scheduler_service\n\n\n"
        "def test_one():\n    assert scheduler_service.one() == 1\n\n\n"
        "def test_two():\n    assert scheduler_service.two() == 2\n"
    )
    return Trials(root, tmp_path / "copies", {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})


@pytest.mark.parametrize(
    ("old", "new", "tests", "outcome"),
    [
        ("return 1", "return 3", (ONE, TWO), Outcome.CAUGHT),
        ("one() * 2", "one() * 4", (ONE, TWO), Outcome.SURVIVED),
        ("return 1", "return 1.0", (ONE,), Outcome.SURVIVED),
        ("return 1", "return nonsense", (ONE,), Outcome.NONSENSE),
        ("def one", "import nonsense\n\n\ndef one", (ONE,), Outcome.NONSENSE),
    ],
    ids=["noticed by both", "noticed by one alone", "not noticed", "senseless", "not even begun"],
)
def test_only_what_each_named_test_notices_is_caught(
    trials: Trials, old: str, new: str, tests: tuple[str, ...], outcome: Outcome
) -> None:
    tried = mutation("tried", "tried", ANSWERS, old, new, *tests)
    trials.pass_unmutated([tried])
    verdict = trials.attempt(tried)
    assert verdict.outcome is outcome, verdict


def test_a_test_that_does_not_pass_without_a_bug_is_an_error(trials: Trials) -> None:
    named = mutation("tried", "tried", ANSWERS, "return 1", "return 2", ONE, TWO.replace("two", "three"))
    with pytest.raises(MisfitError, match=r"do not pass without any mutation: .*::test_three"):
        trials.pass_unmutated([named])
