"""What a soak draws, compares and paints."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import psutil

from scheduler_service import config
from tests.chaos.drawing import POINTS, draw
from tests.chaos.driver import ELECTION, WORKERS
from tests.chaos.plan import plan_soak
from tests.chaos.sampling import Samples, process_figures
from tests.chaos.soak import quarters, text
from tests.faults.fleet import Fleet


def test_a_soak_has_a_fault_a_minute_and_jobs_that_can_be_configured(tmp_path: Path) -> None:
    drawn = plan_soak(1, 60, 4, 50)
    assert drawn == plan_soak(1, 60, 4, 50)
    assert [step.at for step in drawn.steps] == [60.0 * minute + 30.0 for minute in range(60)]
    jobs = {job.name: job.config(tmp_path / "tally") for job in drawn.jobs}
    fleet = Fleet(tmp_path, "sqlite:///ledger.db", jobs, election=ELECTION, workers=WORKERS)
    found = config.load(fleet.config_path, {**os.environ, "REPLICA": "one"})
    assert not found.warnings, found.warnings
    assert len(found.jobs) == 50


def test_quarters_compare_the_beginning_of_a_series_with_its_end() -> None:
    samples = Samples()
    samples.processes["memory, MiB"]["replica 1"] = [(10.0 * number, 50.0 + number) for number in range(40)]
    samples.processes["memory, MiB"]["replica 2"] = [(10.0 * number, 60.0) for number in range(40)]
    samples.processes["memory, MiB"]["replica 3"] = [(0.0, 1.0), (10.0, 999.0)]  # did not live long enough
    samples.database["dead rows"]["run"] = [(10.0 * number, 7.0) for number in range(40)]
    memory, dead = quarters(samples)
    assert memory["series"] == "memory, MiB, of 2 replicas"
    assert memory["most_grown"] == 30.0
    assert (memory["first"], memory["last"]) == ((54.5 + 60.0) / 2, (84.5 + 60.0) / 2)
    assert (dead["first"], dead["last"], dead["most_grown"]) == (7.0, 7.0, 0.0)
    assert "| run: dead rows | 7.0 | 7.0 | +0.0 |" in text([memory, dead])


def test_tables_are_compared_when_history_is_full() -> None:
    samples = Samples()
    filling = [(10.0 * number, min(90.0, float(number))) for number in range(360)]
    samples.database["live rows"]["run"] = filling
    (rows,) = quarters(samples)
    assert (rows["first"], rows["last"]) == (90.0, 90.0)
    samples.database["live rows"]["run"] = filling[:80]
    (rows,) = quarters(samples)
    assert rows["first"] < rows["last"], "too short to become full: told as it is"


def test_a_picture_has_a_line_for_each_series_and_keeps_the_peak_of_a_long_one() -> None:
    line = [(float(number), 1.0) for number in range(1000)]
    line[777] = (777.0, 100.0)
    image = ElementTree.fromstring(draw("a < b", [("first", {"x": line, "y": line[:5]}), ("second", {})], [5.0]))
    lines = image.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    points = lines[0].attrib["points"].split()
    assert len(points) == POINTS
    heights = [float(point.split(",")[1]) for point in points]
    assert sum(height < min(heights) + 1.0 for height in heights) == 1, "one peak, and it can be seen"


def test_a_process_is_looked_at_without_its_help() -> None:
    figures = process_figures(os.getpid())
    assert figures["memory, MiB"] * 2**20 < psutil.virtual_memory().total
    assert figures["threads"] >= 1
    before = figures["file descriptors"]
    with Path("/dev/null").open():
        assert process_figures(os.getpid())["file descriptors"] == before + 1
