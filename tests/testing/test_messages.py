"""What a failing test is told: which ticks were expected, which ran, and why the others did not."""

from __future__ import annotations

import pytest

from scheduler_service.config import ConfigError
from scheduler_service.testing import Runs, Scheduler


def night_without_a_leader(worlds: Scheduler) -> Runs:
    job = {"command": "true", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "catch_up": "none"}
    world = worlds.jobs({"report": job})
    world.no_leader("2026-03-29T00:30Z", "2026-03-29T02:30Z")
    return world.run("2026-03-28T00:00Z", "2026-03-30T12:00Z")


def message(assertion: pytest.ExceptionInfo[AssertionError]) -> str:
    return str(assertion.value)


def test_a_tick_that_did_not_run_is_explained(worlds: Scheduler) -> None:
    runs = night_without_a_leader(worlds)
    with pytest.raises(AssertionError) as told:
        runs.assert_ran("report", at=["2026-03-28T01:30Z", "2026-03-29T01:00Z"])
    assert message(told).splitlines() == [
        "report did not run as expected:",
        "  expected to run, and did not:",
        "    2026-03-29T01:00:00Z (Sun 03:00:00+0200 Europe/Berlin): missed (policy). The tick was missed: no replica "
        "led from 2026-03-29T00:30:00Z until replica-2 was elected at 2026-03-29T02:30:00Z; catch_up 'none' runs "
        "nothing that is late.",
        "  not expected to run, and did:",
        "    2026-03-30T00:30:00Z (Mon 02:30:00+0200 Europe/Berlin): succeeded. It was started on replica-2 at "
        "2026-03-30T00:30:00Z, 0ms after it was due, and ended well after 0ms.",
        "  as expected: 1 of 2",
    ]


def test_a_moment_that_is_no_tick_is_told_with_its_neighbours(worlds: Scheduler) -> None:
    runs = night_without_a_leader(worlds)
    with pytest.raises(AssertionError) as told:
        runs.assert_missed("report", at=["2026-03-29T01:30Z"], reason="policy")
    assert message(told).startswith(
        "report was not missed (policy) as expected:\n  expected to be missed (policy), and was not:\n"
    )
    assert "  missed (policy), unexpectedly:\n    2026-03-29T01:00:00Z" in message(told)
    assert "no tick. The schedule '30 2 * * *' (Europe/Berlin) has no tick at 2026-03-29T01:30:00Z." in message(told)
    assert "the tick before is 2026-03-29T01:00:00Z, the next 2026-03-30T00:30:00Z" in message(told)


def test_a_long_list_is_cut(worlds: Scheduler) -> None:
    runs = worlds.jobs({"a": {"command": "true", "every": "1m"}}).run("2026-05-05T12:00Z", "2026-05-05T14:00Z")
    with pytest.raises(AssertionError) as told:
        runs.assert_ran("a", at=[])
    assert message(told).count("\n") < 30
    assert "… and 100 more" in message(told)


def test_the_same_moment_may_be_written_in_any_zone(worlds: Scheduler) -> None:
    runs = night_without_a_leader(worlds)
    runs.assert_ran("report", at=["2026-03-28T02:30+01:00", "2026-03-30T02:30+02:00"])
    runs.assert_missed("report", at=["2026-03-29T03:00+02:00"])
    runs.assert_skipped("report", at=[])


def test_not_every_run_succeeded_names_those_that_did_not(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": {"command": "true", "every": "10m"}})
    world.ends("a", ["succeeded", ValueError("no rows"), "succeeded"])
    runs = world.run("2026-05-05T12:00Z", "2026-05-05T12:30Z")
    with pytest.raises(AssertionError) as told:
        runs.assert_all_succeeded("a")
    assert message(told) == (
        "not every run of a succeeded:\n"
        "  2026-05-05T12:20:00Z: failed. It was started on replica-1 at 2026-05-05T12:20:00Z, 0ms after it was due, "
        "and failed after 0ms: ValueError: no rows."
    )


def test_unknown_jobs_and_reasons_are_told(worlds: Scheduler) -> None:
    runs = night_without_a_leader(worlds)
    with pytest.raises(ValueError, match="there is no job 'reprot' in this simulation; it has report"):
        runs.assert_ran("reprot", at=[])
    with pytest.raises(ValueError, match="'late' is no reason: write one of queued, "):
        runs.assert_missed("report", at=[], reason="late")


def test_a_wrong_configuration_is_told_as_the_service_tells_it(worlds: Scheduler) -> None:
    with pytest.raises(ConfigError) as told:
        worlds.jobs({"a": {"command": "true", "every": "5m", "catchup": "none"}})
    assert str(told.value) == (
        "the configuration in the test: jobs.a.catchup: no such setting; did you mean 'catch_up'?"
    )
