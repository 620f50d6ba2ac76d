"""A seed decides everything, and what it decides can be configured."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scheduler_service import config, schedule
from tests.chaos.driver import ELECTION, WORKERS
from tests.chaos.jobs import AtSeconds, Every
from tests.chaos.plan import FAULTS, REQUESTS, plan
from tests.faults.fleet import Fleet

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize("sqlite", [False, True])
def test_the_same_seed_gives_the_same_plan_and_another_another(sqlite: bool) -> None:
    assert plan(7, 5, 4, sqlite=sqlite) == plan(7, 5, 4, sqlite=sqlite)
    assert plan(7, 5, 4, sqlite=sqlite).steps != plan(8, 5, 4, sqlite=sqlite).steps
    assert plan(7, 5, 4, sqlite=sqlite).jobs != plan(8, 5, 4, sqlite=sqlite).jobs


def test_an_hour_has_every_fault_and_every_request() -> None:
    assert {step.what for step in plan(1, 60, 4).steps} == {*FAULTS, *REQUESTS}
    on_sqlite = {name for name, fault in FAULTS.items() if fault.on_sqlite}
    assert {step.what for step in plan(1, 60, 4, sqlite=True).steps} == {*on_sqlite, *REQUESTS}


def test_a_plan_has_every_kind_of_job_with_every_overlap_policy() -> None:
    jobs = plan(1, 1, 4).jobs
    assert len({(job.kind, job.overlap) for job in jobs}) == 4 * 4
    assert {bool(job.jitter) for job in jobs} == {True, False}


def test_steps_come_in_order_and_within_the_time() -> None:
    steps = plan(3, 2, 4).steps
    assert list(steps) == sorted(steps, key=lambda step: step.at)
    assert steps[0].at >= 0
    assert steps[-1].at < 120


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_drawn_is_a_configuration_without_a_warning(seed: int, tmp_path: Path) -> None:
    drawn = plan(seed, 5, 4)
    edited = {step.edit.name: step.edit for step in drawn.steps if step.edit is not None}
    for jobs in (drawn.jobs, [edited.get(job.name, job) for job in drawn.jobs]):
        settings = {job.name: job.config(tmp_path / "tally") for job in jobs}
        fleet = Fleet(tmp_path, "sqlite:///ledger.db", settings, election=ELECTION, workers=WORKERS)
        found = config.load(fleet.config_path, {**os.environ, "REPLICA": "one"})
        assert not found.warnings, found.warnings
        assert {job.id for job in found.jobs} == set(settings)


@pytest.mark.parametrize(
    ("when", "seconds"), [(Every(1500, 333), 1.5), (AtSeconds((0, 7, 55)), 5), (AtSeconds((9,)), 60)]
)
def test_the_shortest_gap_between_two_ticks_is_found(when: Every | AtSeconds, seconds: float) -> None:
    assert when.shortest_gap() == seconds


@pytest.mark.parametrize("when", [Every(700), Every(1500, 333), AtSeconds((0, 7, 59))], ids=str)
def test_our_ticks_are_those_of_the_schedule(when: Every | AtSeconds) -> None:
    # The two were written apart from each other; only so is one a measure of the other.
    settings = when.config()
    if isinstance(when, Every):
        theirs = schedule.every(timedelta(milliseconds=when.milliseconds), timedelta(milliseconds=when.offset))
    else:
        theirs = schedule.cron(settings["cron"], "UTC")
    until = NOON + timedelta(minutes=3)
    assert list(when.ticks(NOON, until)) == theirs.between(NOON, until, 1000)
    (tick, *_) = when.ticks(NOON, until)
    assert tick not in when.ticks(tick, until), "from there on, without it"


def test_a_plan_can_be_shown() -> None:
    drawn = plan(2, 1, 4)
    assert json.dumps([str(step) for step in drawn.steps]).count("trigger") > 0
    assert drawn.command == "python -m tests.chaos --seed 2 --minutes 1 --replicas 4"
