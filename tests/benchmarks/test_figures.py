"""What figures come to, and that table, file and page say the same of them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.figures import HEAD, Figure, machine, table
from benchmarks.growth.curves import Subject, merged, picture
from benchmarks.growth.curves import table as table_of_sizes
from benchmarks.records import Record, found_in, put_into

ELSEWHERE = {"processor": "another", "cores": 64}


def test_a_row_has_percentiles_and_says_whether_each_target_is_reached() -> None:
    hundred = [float(number) for number in range(1, 101)]
    row = Figure("kill -9", "ms", hundred, {"p50": 60.0, "p99": 50.0}, plain=[7.0]).row()
    assert (row["n"], row["p50"], row["max"]) == (100, 50.5, 100.0)
    assert 99.0 <= row["p99"] < 100.0
    assert row["plain"] == {"n": 1, "min": 7.0, "p50": 7.0, "p90": 7.0, "p99": 7.0, "max": 7.0}
    assert row["reached"] is False, "p99 is more than 50"
    assert Figure("kill -9", "ms", hundred, {"p50": 60.0}).row()["reached"] is True
    assert Figure("kill -9", "ms", hundred).row()["reached"] is None, "nothing was to be reached"


def test_the_table_says_what_the_rows_say() -> None:
    rows = [Figure("a start", "s", [1.25], {"p50": 1.0}, plain=[0.5, 1.5]).row(), Figure("b", "", [12345.6]).row()]
    head, _, first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in table(rows).split("\n"))
    assert tuple(head) == HEAD
    assert first == ["a start, s", "p50 ≤ 1", "1", "1.25", "1.25", "1.25", "1 / 1.49 / 1.50", "no"]
    assert second == ["b", "", "1", "12,346", "12,346", "12,346", "", ""]


def test_parts_that_are_measured_one_after_another_come_together_in_one_file(tmp_path: Path) -> None:
    path, here = tmp_path / "figures.json", machine()
    for name, value in (("second", 2.0), ("first", 1.0), ("second", 3.0)):
        record = Record.read(path, here)
        record.replace(name, [Figure(name, "ms", [value]).row()], quick=False, load=0.5)
        record.write()
    rows = Record.read(path, here).rows(["first", "second", "third"])
    assert [(row["what"], row["max"]) for row in rows] == [("first", 1.0), ("second", 3.0)]


def test_figures_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    Record(ELSEWHERE, path).write()
    with pytest.raises(ValueError, match="was measured on"):
        Record.read(path, machine())


def test_a_table_is_put_between_its_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- this -->\nold\nlines\n<!-- /this -->\n<!-- that -->\nkept\n<!-- /that -->\n")
    put_into(page, "this", "new")
    assert page.read_text() == "before\n<!-- this -->\nnew\n<!-- /this -->\n<!-- that -->\nkept\n<!-- /that -->\n"
    assert (found_in(page, "this"), found_in(page, "that")) == ("new", "kept")
    with pytest.raises(ValueError, match="has no <!-- other -->"):
        put_into(page, "other", "new")


def test_a_size_measured_again_replaces_its_line_and_the_picture_has_a_point_for_each() -> None:
    subject = Subject("rows", "rows", (), lambda size: {})
    rows = merged([], 1000, {"settle, ms": 9.0}, 0.0)
    for size, value in ((0, 1.0), (1000, 2.0), (10_000, 3.0)):
        rows = merged(rows, size, {"settle, ms": value}, 1.25)
    lines = table_of_sizes(subject, rows).split("\n")
    assert [line.replace(" ", "") for line in lines[2:]] == ["|0|1|1.2|", "|1,000|2|1.2|", "|10,000|3|1.2|"]
    (line,) = ElementTree.fromstring(picture(subject, rows)).findall("{http://www.w3.org/2000/svg}polyline")
    across = [float(point.split(",")[0]) for point in line.attrib["points"].split()]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2), "ten times as much is as far again"
