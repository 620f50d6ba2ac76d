"""The plugin as people have it: in a project of theirs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PLUGIN = "scheduler_service.testing.plugin"

CONFIG = """
version: 1
database:
  url: postgresql://scheduler:${DATABASE_PASSWORD}@db.example.com/scheduler
jobs:
  report:
    run: report:main
    kwargs: {recipient: "${RECIPIENT:-ops@example.com}"}
    cron: "30 2 * * *"
    timezone: Europe/Berlin
    catch_up_window: 6h
"""

TESTS = """
NIGHT = "2026-03-29T01:00Z"

def test_the_report_survives_a_night_without_a_leader(scheduler):
    world = scheduler.load("config.yaml", environ={"DATABASE_PASSWORD": "secret"})
    world.no_leader("2026-03-29T00:30Z", "2026-03-29T02:30Z")
    runs = world.run("2026-03-28T12:00Z", "2026-03-29T12:00Z")
    runs.assert_ran("report", at=[NIGHT])
    (run,) = runs.of("report")
    assert run.kwargs == {"recipient": "ops@example.com"}
    assert "no replica led" in runs.why("report", NIGHT)

def test_that_is_wrong(scheduler):
    world = scheduler.load("config.yaml", environ={"DATABASE_PASSWORD": "secret"})
    world.run("2026-03-28T12:00Z", "2026-03-29T12:00Z").assert_ran("report", at=[])
"""


def run_with_plugin(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", PLUGIN, *arguments)


@pytest.mark.usefixtures("alone")
def test_the_fixture_reads_the_projects_configuration(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", config=CONFIG)
    pytester.makepyfile(TESTS)
    result = run_with_plugin(pytester, "-W", "error")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">*assert_ran(*",
            "E *AssertionError: report did not run as expected:",
            "E *not expected to run, and did:",
            "E *2026-03-29T01:00:00Z (Sun 03:00:00+0200 Europe/Berlin): succeeded. It was started on replica-1*",
        ]
    )
    result.stdout.no_fnmatch_line("*_compare*")  # the traceback ends in the test


@pytest.mark.usefixtures("alone")
def test_a_variable_that_the_test_does_not_give_is_told(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "of this machine")
    pytester.makefile(".yaml", config=CONFIG)
    pytester.makepyfile("def test_it(scheduler):\n    scheduler.load('config.yaml')\n")
    result = run_with_plugin(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*DATABASE_PASSWORD*not set*"])


def test_the_fixture_is_listed_with_its_word(pytester: pytest.Pytester) -> None:
    result = run_with_plugin(pytester, "--fixtures")
    result.stdout.fnmatch_lines(["scheduler*", "*configurations on a fake clock*"])


def test_pytest_starts_without_what_only_a_simulation_needs() -> None:
    code = f"import sys, {PLUGIN}; print([name for name in ('sqlalchemy', 'apscheduler') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_service_starts_without_pytest() -> None:
    code = "import sys, scheduler_service.testing, scheduler_service.cli; print('pytest' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_the_package_tells_pytest_of_the_plugin() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    # Named as the module: else `-p` with the module's name would load it a second time, and pytest refuse.
    assert project["project"]["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}
