"""Worlds of random misfortunes: whatever happens, every tick is accounted for and no promise of a job is broken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from scheduler_service import schedule
from scheduler_service.testing import OrderError, Runs, Scheduler
from scheduler_service.testing.moments import iso

START = datetime(2026, 5, 5, 12, tzinfo=UTC)
END = START + timedelta(hours=1)
MINUTE = timedelta(minutes=1)

seconds = st.integers(1, 3599)
spans = st.tuples(seconds, st.integers(1, 1500))
orders = st.one_of(
    st.tuples(st.just("no_leader"), spans),
    st.tuples(st.just("database_outage"), spans),
    st.tuples(st.just("leader_crash"), spans),
    st.tuples(st.just("leader_handover"), seconds),
    st.tuples(st.just("pause"), spans),
)
jobs = st.fixed_dictionaries(
    {
        "command": st.just("true"),
        "every": st.sampled_from(["1m", "7m", "90s"]),
        "overlap": st.sampled_from(["skip", "queue", "replace"]),
        "on_crash": st.sampled_from(["fail", "rerun"]),
        "retry": st.fixed_dictionaries({"attempts": st.integers(1, 3), "delay": st.sampled_from(["0s", "20s"])}),
    }
)
lengths = st.lists(st.integers(0, 300), max_size=20)
ends = st.lists(st.sampled_from(["succeeded", "failed"]), max_size=20)


def order(world: Any, name: str, when: Any) -> None:
    if name == "leader_handover":
        world.leader_handover(START + timedelta(seconds=when))
        return
    at, lasting = START + timedelta(seconds=when[0]), timedelta(seconds=when[1])
    if name == "leader_crash":
        world.leader_crash(at, takeover_after=lasting)
    elif name == "pause":
        world.pause("a", at, until=at + lasting)
    else:
        getattr(world, name)(at, at + lasting)


def play(folder: Path, job: dict[str, Any], happening: list[Any], taking: list[int], ending: list[Any]) -> list[Any]:
    with Scheduler(folder) as scheduler:
        world = scheduler.jobs({"a": job})
        world.takes("a", [timedelta(seconds=one) for one in taking])
        world.ends("a", ending)
        for name, when in happening:
            order(world, name, when)
        try:
            runs = world.run(START, END)
        except OrderError:  # such as the crash of a leader where nobody leads
            assume(False)
        check(runs, job)
        return [runs.starts, runs.ticks("a")]


def check(runs: Runs, job: dict[str, Any]) -> None:
    every = {"1m": MINUTE, "7m": 7 * MINUTE, "90s": 1.5 * MINUTE}[job["every"]]
    assert [tick.scheduled_at for tick in runs.ticks("a")] == schedule.every(every).between(START, END)
    for one, following in pairwise(sorted(runs.starts, key=lambda start: start.at)):
        ended = one.ended_at
        assert ended is not None, f"{iso(following.at)}: a run goes on while the next one starts"
        assert ended <= following.at, f"{iso(following.at)}: the one before ended at {iso(ended)}"
    limit = 10 if job["retry"]["attempts"] == 1 and job["on_crash"] == "rerun" else job["retry"]["attempts"]
    for run in runs.of("a"):
        assert [start.attempt for start in run.starts] == list(range(1, len(run.starts) + 1))
        assert len(run.starts) <= limit


QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
worlds = given(job=jobs, happening=st.lists(orders, max_size=5), taking=lengths, ending=ends)


@QUICK
@worlds
def test_every_tick_is_accounted_for_and_no_two_runs_of_an_exclusive_job_go_on_at_once(
    tmp_path_factory: Any, job: dict[str, Any], happening: list[Any], taking: list[int], ending: list[Any]
) -> None:
    live_twice(tmp_path_factory.getbasetemp(), job, happening, taking, ending)


@pytest.mark.long
@settings(QUICK, max_examples=300)
@worlds
def test_the_same_holds_in_many_more_worlds(
    tmp_path_factory: Any, job: dict[str, Any], happening: list[Any], taking: list[int], ending: list[Any]
) -> None:
    live_twice(tmp_path_factory.getbasetemp(), job, happening, taking, ending)


def live_twice(folder: Path, *world: Any) -> None:
    first = play(folder, *world)
    assert play(folder, *world) == first, "the same world goes the same way"
