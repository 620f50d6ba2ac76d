"""`python -m benchmarks`, as it is typed, and what `docs/performance.md` has of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import EXPERIMENTS, MARK, NOT_QUICK, page
from benchmarks.figures import HEAD, table
from benchmarks.growth.__main__ import SUBJECTS, mark
from benchmarks.growth.curves import picture
from benchmarks.growth.curves import table as table_of_sizes
from benchmarks.records import Record, found_in
from tests.faults.fleet import ROOT

DOCS = ROOT / "docs"


def test_the_table_and_the_file_say_the_same_and_the_page_too(tmp_path: Path) -> None:
    file, written = tmp_path / "figures.json", tmp_path / "page.md"
    written.write_text(f"<!-- {MARK} -->\n\n<!-- /{MARK} -->\n")
    printed = _benchmarks("--only", "launch", "--quick", "--json", str(file), "--page", str(written))
    found = json.loads(file.read_text())
    rows = found["parts"]["launch"]["rows"]
    assert printed == table(rows)
    assert printed.split("\n")[0].count("|") == len(HEAD) + 1
    start, memory = rows
    for row in (start, memory):
        assert row["n"] == row["plain"]["n"] == 2
        assert 0 < row["min"] <= row["p50"] <= row["p99"] <= row["max"]
        assert 0 < row["plain"]["p50"] < row["p50"], "plain APScheduler does less"
        assert row["reached"] is all(row[measure] <= most for measure, most in row["target"].items())
    assert memory["plain"]["p50"] > 5.0, "MiB"
    within = found_in(written, MARK)
    assert within.endswith(printed)
    assert found["machine"]["processor"] in within
    assert found["machine"]["python"] in within


def test_a_name_that_is_none_is_answered_with_those_that_are() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _benchmarks("--only", "speed")
    assert caught.value.returncode == 2
    assert all(repr(name) in caught.value.stderr for name in EXPERIMENTS)


def test_what_quick_leaves_out_can_be_asked_for() -> None:
    assert set(NOT_QUICK) < set(EXPERIMENTS)


def test_the_page_has_the_figures_of_its_file() -> None:
    assert found_in(DOCS / "performance.md", MARK) == page(_record("performance.json"))


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_page_and_its_pictures_have_the_curves_of_their_file(name: str) -> None:
    subject = SUBJECTS[name]
    rows = _record("growth.json").rows([name])
    assert found_in(DOCS / "performance.md", mark(subject)) == table_of_sizes(subject, rows)
    assert (DOCS / "images" / f"growth-{name}.svg").read_text() == picture(subject, rows)


def _record(name: str) -> Record:
    path = DOCS / name
    return Record.read(path, json.loads(path.read_text())["machine"])


def _benchmarks(*arguments: str) -> str:
    command = (sys.executable, "-m", "benchmarks", *arguments)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")
