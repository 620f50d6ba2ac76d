"""What a simulation says of schedules and misfortunes is what the service would do."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from scheduler_service.context import GiveUp, RetryLater
from scheduler_service.testing import OrderError, Runs, Scheduler
from scheduler_service.testing.moments import iso

DAY = "2026-05-05"
NOON = f"{DAY}T12:00Z"


def job(**settings: Any) -> dict[str, Any]:
    return {"command": "true", **settings}


def decisions(runs: Runs, name: str = "a") -> list[tuple[str, str]]:
    return [
        (iso(tick.scheduled_at)[11:16], tick.decision if tick.reason is None else f"{tick.decision} {tick.reason}")
        for tick in runs.ticks(name)
    ]


def begun(runs: Runs, name: str = "a") -> list[tuple[str, str]]:
    """When the starts of a job began, and how they ended."""
    return [(iso(start.at)[11:].removesuffix("Z"), str(start.state)) for start in runs.starts if start.job == name]


def test_ticks_after_the_start_up_to_and_including_the_end_run_on_the_dot(worlds: Scheduler) -> None:
    runs = worlds.jobs({"a": job(every="5m")}).run(NOON, f"{DAY}T12:15Z")
    assert decisions(runs) == [("12:05", "succeeded"), ("12:10", "succeeded"), ("12:15", "succeeded")]
    assert [run.started_at for run in runs.of("a")] == [run.scheduled_at for run in runs.of("a")]


def test_a_day_of_five_minutes_has_288_runs(worlds: Scheduler) -> None:
    runs = worlds.jobs({"a": job(every="5m")}).run("2026-05-05T00:00Z", "2026-05-06T00:00Z")
    assert len(runs.of("a")) == 288
    runs.assert_all_succeeded("a")


def test_a_year_of_nights_has_one_run_each_also_when_clocks_change(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(cron="30 2 * * *")}, service={"timezone": "Europe/Berlin"})
    runs = world.run("2026-01-01T00:00Z", "2027-01-01T00:00Z")
    assert len(runs.of("a")) == 365
    days = {run.scheduled_at.date() for run in runs.of("a")}
    assert len(days) == 365
    (spring,) = [run for run in runs.of("a") if iso(run.scheduled_at).startswith("2026-03-29")]
    assert iso(spring.scheduled_at) == "2026-03-29T01:00:00Z", "half past two does not exist: the first moment after"
    (autumn,) = [run for run in runs.of("a") if iso(run.scheduled_at).startswith("2026-10-25")]
    assert iso(autumn.scheduled_at) == "2026-10-25T00:30:00Z", "it comes twice: the first of the two"


def test_a_job_is_started_when_jitter_makes_it_due(worlds: Scheduler) -> None:
    runs = worlds.jobs({"a": job(every="5m", jitter="2m")}).run(NOON, f"{DAY}T13:00Z")
    for run in runs.of("a"):
        assert run.started_at is not None
        assert run.due_at > run.scheduled_at
        assert 0 <= (run.started_at - run.due_at).total_seconds() < 0.001


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", ["missed policy", "missed policy", "missed policy", "missed policy", "succeeded"]),
        ("latest", ["missed coalesced"] * 4 + ["succeeded"]),
        ("all", ["succeeded"] * 5),
    ],
)
def test_an_absence_longer_than_the_grace_is_caught_up_as_the_job_says(
    worlds: Scheduler, catch_up: str, expected: list[str]
) -> None:
    world = worlds.jobs({"a": job(every="5m", catch_up=catch_up, misfire_grace="60s")})
    world.no_leader(f"{DAY}T12:01Z", f"{DAY}T12:25:30Z")
    runs = world.run(NOON, f"{DAY}T12:29Z")
    assert [decision for _, decision in decisions(runs)] == expected


def test_nothing_on_time_and_catch_up_latest_runs_the_newest(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.no_leader(f"{DAY}T12:01Z", f"{DAY}T12:23Z")
    runs = world.run(NOON, f"{DAY}T12:24Z")
    assert [decision for _, decision in decisions(runs)] == ["missed coalesced"] * 3 + ["succeeded"]
    assert runs.of("a")[0].kind == "catch_up"
    assert "no replica led from 2026-05-05T12:01:00Z" in runs.why("a", f"{DAY}T12:05Z")


def test_a_long_absence_is_told_tick_by_tick(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="1m", catch_up="none")})
    world.no_leader(f"{DAY}T12:00Z", f"{DAY}T18:30:30Z")
    runs = world.run(NOON, f"{DAY}T18:31Z")
    assert len(runs.missed("a")) == 389
    assert len(runs.ticks("a")) == 391


def test_what_nobody_has_decided_at_the_end_is_undecided(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.no_leader(f"{DAY}T12:06Z", f"{DAY}T14:00Z")
    runs = world.run(NOON, f"{DAY}T12:15Z")
    assert decisions(runs) == [("12:05", "succeeded"), ("12:10", "undecided"), ("12:15", "undecided")]
    assert [iso(tick.scheduled_at) for tick in runs.undecided("a")] == ["2026-05-05T12:10:00Z", "2026-05-05T12:15:00Z"]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", ["succeeded", "skipped overlap", "skipped overlap", "succeeded"]),
        ("queue", ["succeeded", "running", "waiting queued", "waiting queued"]),
        ("allow", ["succeeded", "succeeded", "succeeded", "running"]),
        ("replace", ["cancelled", "cancelled", "cancelled", "running"]),
    ],
)
def test_a_run_that_takes_longer_than_its_interval_overlaps_as_the_job_says(
    worlds: Scheduler, overlap: str, expected: list[str]
) -> None:
    world = worlds.jobs({"a": job(every="5m", overlap=overlap)})
    world.takes("a", "12m")
    end = {"skip": "12:32", "queue": "12:20", "allow": "12:28", "replace": "12:22"}[overlap]
    runs = world.run(NOON, f"{DAY}T{end}Z")
    assert [decision for _, decision in decisions(runs)][:4] == expected


def test_a_queue_runs_in_order_one_after_another(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m", overlap="queue")})
    world.takes("a", ["12m", "6m", "2m"])
    runs = world.run(NOON, f"{DAY}T12:26Z")
    assert begun(runs) == [
        ("12:05:00", "succeeded"),
        ("12:17:00", "succeeded"),
        ("12:23:00", "succeeded"),
        ("12:25:00", "succeeded"),
        ("12:25:00", "succeeded"),
    ]
    assert [run.starts[0].scheduled_at for run in runs.of("a")] == sorted(run.scheduled_at for run in runs.of("a"))


def test_a_run_that_ends_at_the_moment_of_the_next_tick_is_over(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.takes("a", "5m")
    runs = world.run(NOON, f"{DAY}T12:30Z")
    assert runs.skipped("a") == ()


def test_no_more_runs_go_on_than_there_are_threads(worlds: Scheduler) -> None:
    world = worlds.jobs({name: job(every="1h") for name in "abc"}, workers={"threads": 2})
    for name in "abc":
        world.takes(name, "10m")
    runs = world.run(NOON, f"{DAY}T13:30Z")
    assert [iso(start.at)[11:16] for start in runs.starts] == ["13:00", "13:00", "13:10"]


def test_failures_are_tried_again_with_growing_waits(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(at=f"{DAY}T13:00Z", retry={"attempts": 4, "delay": "1m", "factor": 3})})
    world.takes("a", "10s")
    world.ends("a", ["failed", "failed", "succeeded"])
    runs = world.run(NOON, f"{DAY}T14:00Z")
    assert begun(runs) == [("13:00:00", "failed"), ("13:01:10", "failed"), ("13:04:20", "succeeded")]
    assert [start.attempt for start in runs.of("a")[0].starts] == [1, 2, 3]
    runs.assert_all_succeeded("a")


def test_a_job_that_always_fails_has_failed_after_its_last_start(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(at=f"{DAY}T13:00Z", retry={"attempts": 3, "delay": "0s"})})
    world.ends("a", "failed")
    (run,) = world.run(NOON, f"{DAY}T14:00Z").of("a")
    assert (run.state, len(run.starts)) == ("failed", 3)


def test_exceptions_mean_what_they_mean_in_a_job(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(at=f"{DAY}T13:00Z", retry={"attempts": 5, "delay": "1m"})})
    world.ends("a", [RetryLater(90), GiveUp("nothing to do")])
    runs = world.run(NOON, f"{DAY}T14:00Z")
    assert begun(runs) == [("13:00:00", "failed"), ("13:01:30", "failed")]
    assert runs.of("a")[0].starts[1].error == "GiveUp: nothing to do"


def test_retries_wait_for_a_leader(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(at=f"{DAY}T13:00Z", retry={"attempts": 2, "delay": "1m"})})
    world.ends("a", ["failed"])
    world.no_leader(f"{DAY}T13:00:30Z", f"{DAY}T13:10Z")
    assert begun(world.run(NOON, f"{DAY}T14:00Z")) == [("13:00:00", "failed"), ("13:10:00", "succeeded")]


def test_a_command_is_killed_at_its_time_out(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="10m", timeout="2m")})
    world.takes("a", "15m")
    runs = world.run(NOON, f"{DAY}T12:25Z")
    assert [(run.state, iso(run.ended_at)[11:16]) for run in runs.of("a") if run.ended_at] == [
        ("timed_out", "12:12"),
        ("timed_out", "12:22"),
    ]


def test_a_function_in_a_thread_holds_its_slot_until_it_returns(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": {"run": "report:main", "every": "10m", "timeout": "2m", "overlap": "queue"}})
    world.takes("a", ["15m"])
    runs = world.run(NOON, f"{DAY}T12:55Z")
    assert begun(runs)[:3] == [("12:10:00", "timed_out"), ("12:25:00", "succeeded"), ("12:30:00", "succeeded")]


def test_a_crash_loses_what_runs_and_says_so_after_lost_after(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(at=f"{DAY}T13:00Z")})
    world.takes("a", "10m")
    world.leader_crash(f"{DAY}T13:05Z")
    runs = world.run(NOON, f"{DAY}T14:00Z")
    ((lost),) = runs.of("a")
    assert (lost.state, len(lost.starts)) == ("lost", 1)
    assert lost.ended_at is not None
    assert "13:05:15" <= iso(lost.ended_at)[11:19] <= "13:05:16"


def test_a_crash_with_on_crash_rerun_runs_again_on_another_replica(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(at=f"{DAY}T13:00Z", on_crash="rerun")}, election={"lost_after": "40s"})
    world.takes("a", "10m")
    world.leader_crash(f"{DAY}T13:05Z", takeover_after="10s")
    runs = world.run(NOON, f"{DAY}T14:00Z")
    first, second = runs.of("a")[0].starts
    assert (first.state, first.instance, first.term) == ("lost", "replica-1", 1)
    assert (second.state, second.instance, second.term) == ("succeeded", "replica-2", 2)
    assert "13:05:40" <= iso(second.at)[11:19] <= "13:05:41"
    assert first.fence < second.fence


def test_the_next_tick_of_a_lost_run_waits_until_it_is_given_up(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="1m")})
    world.takes("a", ["10m"])
    world.leader_crash(f"{DAY}T12:01:55Z")
    runs = world.run(NOON, f"{DAY}T12:04Z")
    assert decisions(runs) == [
        ("12:01", "lost"),
        ("12:02", "succeeded"),
        ("12:03", "succeeded"),
        ("12:04", "succeeded"),
    ]
    assert "12:02:10" <= begun(runs)[1][0][:8] <= "12:02:12"


def test_a_crash_between_runs_costs_nothing(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.leader_crash(f"{DAY}T12:07Z")
    runs = world.run(NOON, f"{DAY}T12:20Z")
    runs.assert_all_succeeded("a")
    assert [start.term for start in runs.starts] == [1, 2, 2, 2]


def test_ticks_between_a_crash_and_the_takeover_run_late(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.leader_crash(f"{DAY}T12:04:55Z", takeover_after="10s")
    runs = world.run(NOON, f"{DAY}T12:20Z")
    assert begun(runs)[0] == ("12:05:05", "succeeded")


def test_a_handover_lets_what_runs_end_on_the_replica_that_leaves(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.takes("a", ["12m"])
    world.leader_handover(f"{DAY}T12:07Z")
    runs = world.run(NOON, f"{DAY}T12:20Z")
    assert decisions(runs) == [
        ("12:05", "succeeded"),
        ("12:10", "skipped overlap"),
        ("12:15", "skipped overlap"),
        ("12:20", "succeeded"),
    ]
    assert [start.instance for start in runs.starts] == ["replica-1", "replica-2"]


def test_a_short_outage_changes_no_term_and_loses_no_tick(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.takes("a", "10s")
    world.database_outage(f"{DAY}T12:05:05Z", f"{DAY}T12:05:11Z")
    runs = world.run(NOON, f"{DAY}T12:21Z")
    runs.assert_all_succeeded("a")
    assert {start.term for start in runs.starts} == {1}


def test_an_outage_delays_ticks_and_results_and_costs_the_leader_its_term(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m", catch_up="all")})
    world.takes("a", "1m")
    world.database_outage(f"{DAY}T12:05:30Z", f"{DAY}T12:11:30Z")
    runs = world.run(NOON, f"{DAY}T12:20Z")
    first, second, *_ = runs.of("a")
    assert first.ended_at is not None
    assert iso(first.ended_at) == "2026-05-05T12:06:00Z", "its length is what it was, however late it is written down"
    assert second.started_at is not None
    assert iso(second.started_at) == "2026-05-05T12:11:30Z"
    assert [start.term for start in runs.starts][:2] == [1, 2]
    assert {start.instance for start in runs.starts} == {"replica-1"}, "no process ends because the database is away"
    assert "replica-1 was elected at 2026-05-05T12:11:30Z" in runs.why("a", f"{DAY}T12:10Z")


def test_a_simulation_may_end_in_an_outage(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.database_outage(f"{DAY}T12:07Z", f"{DAY}T13:00Z")
    runs = world.run(NOON, f"{DAY}T12:10Z")
    assert decisions(runs) == [("12:05", "succeeded"), ("12:10", "undecided")]
    assert "is not decided yet" in runs.why("a", f"{DAY}T12:10Z")


def test_a_leader_that_dies_in_an_outage_is_followed_when_the_database_is_back(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m", on_crash="rerun")})
    world.takes("a", ["2m"])
    world.database_outage(f"{DAY}T12:05:30Z", f"{DAY}T12:09Z")
    world.leader_crash(f"{DAY}T12:05:31Z")
    runs = world.run(NOON, f"{DAY}T12:20Z")
    first = runs.of("a")[0]
    assert [start.state for start in first.starts] == ["lost", "succeeded"]
    assert "12:09:15" <= iso(first.starts[1].at)[11:19] <= "12:09:16"


@pytest.mark.parametrize(("policy", "state"), [("finish", "succeeded"), ("cancel", "cancelled")])
def test_a_run_whose_replica_lost_the_lease_ends_as_its_job_says(worlds: Scheduler, policy: str, state: str) -> None:
    world = worlds.jobs({"a": job(at=f"{DAY}T13:00Z", on_leadership_lost=policy)})
    world.takes("a", "10m")
    world.database_outage(f"{DAY}T13:01Z", f"{DAY}T13:02Z")
    (run,) = world.run(NOON, f"{DAY}T14:00Z").of("a")
    assert run.state == state


def test_a_paused_job_is_skipped_until_it_is_resumed(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.pause("a", f"{DAY}T12:07Z")
    world.resume("a", f"{DAY}T12:17Z")
    runs = world.run(NOON, f"{DAY}T12:20Z")
    assert decisions(runs) == [
        ("12:05", "succeeded"),
        ("12:10", "skipped paused"),
        ("12:15", "skipped paused"),
        ("12:20", "succeeded"),
    ]
    runs.assert_skipped("a", at=[f"{DAY}T12:10Z", f"{DAY}T12:15Z"], reason="paused")


def test_a_pause_with_an_end_is_over_by_itself_also_across_leaders(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.pause("a", f"{DAY}T12:07Z", until=f"{DAY}T12:17Z")
    world.leader_handover(f"{DAY}T12:12Z")
    runs = world.run(NOON, f"{DAY}T12:20Z")
    assert [word for _, word in decisions(runs)] == ["succeeded", "skipped paused", "skipped paused", "succeeded"]


def test_a_triggered_run_gets_its_own_arguments(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": {"run": "a:main", "args": [1], "kwargs": {"b": 2, "c": 3}, "manual": True}})
    world.trigger("a", f"{DAY}T12:01Z")
    world.trigger("a", f"{DAY}T12:02Z", args=[7, 8])
    world.trigger("a", f"{DAY}T12:03Z", kwargs={"c": 9})
    runs = world.run(NOON, f"{DAY}T13:00Z")
    assert [(run.args, run.kwargs) for run in runs.of("a")] == [
        ((1,), {"b": 2, "c": 3}),
        ((7, 8), {"b": 2, "c": 3}),
        ((1,), {"b": 2, "c": 9}),
    ]
    runs.assert_ran("a", at=[f"{DAY}T12:01Z", f"{DAY}T12:02Z", f"{DAY}T12:03Z"])


def test_a_cancelled_run_stops_and_is_not_tried_again(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(at=f"{DAY}T13:00Z", retry={"attempts": 3})})
    world.takes("a", "10m")
    world.cancel("a", f"{DAY}T13:04Z")
    (run,) = world.run(NOON, f"{DAY}T14:00Z").of("a")
    assert (run.state, len(run.starts)) == ("cancelled", 1)
    assert run.ended_at is not None
    assert iso(run.ended_at) == "2026-05-05T13:04:00Z"
    assert run.starts[0].error == "stopped: cancelled by the test"


def test_an_edited_schedule_owes_nothing_for_its_past(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="10m"), "gone": job(every="10m")})
    world.reload({"a": job(every="7m"), "new": job(every="10m")}, at=f"{DAY}T12:15Z")
    runs = world.run(NOON, f"{DAY}T12:40Z")
    assert [time for time, _ in decisions(runs)] == ["12:10", "12:18", "12:25", "12:32", "12:39"]
    assert [time for time, _ in decisions(runs, "gone")] == ["12:10"]
    assert [time for time, _ in decisions(runs, "new")] == ["12:20", "12:30", "12:40"]


def test_the_same_world_gives_the_same_result_whatever_the_machine_thinks(
    worlds: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell() -> list[Any]:
        world = worlds.jobs({name: job(every="7m", jitter="3m", overlap="queue") for name in "abc"})
        world.takes("a", ["12m", "1m"])
        world.leader_crash(f"{DAY}T12:15Z", takeover_after="3m")
        runs = world.run(NOON, f"{DAY}T14:00Z")
        return [runs.starts, *(decisions(runs, name) for name in "abc")]

    here = tell()
    monkeypatch.setitem(os.environ, "TZ", "Pacific/Apia")
    time.tzset()
    try:
        assert tell() == here
    finally:
        monkeypatch.undo()
        time.tzset()


def test_orders_that_cannot_be_are_told(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.no_leader(f"{DAY}T12:10Z", f"{DAY}T12:20Z")
    world.leader_crash(f"{DAY}T12:15Z")
    with pytest.raises(OrderError, match=r"leader_crash at 2026-05-05T12:15:00Z: nobody leads then"):
        world.run(NOON, f"{DAY}T13:00Z")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda world: world.pause("a", f"{DAY}T12:12Z"), "the database is away then"),
        (lambda world: world.cancel("a", f"{DAY}T12:25Z"), "no run of it goes on or waits then"),
        (lambda world: world.resume("a", f"{DAY}T12:25Z"), "refused: NotPaused"),
        (lambda world: world.trigger("a", f"{DAY}T14:25Z"), "does not lie between"),
        (lambda world: world.pause("b", f"{DAY}T12:25Z"), "no job 'b'; it has a"),
        (lambda world: world.pause("a", "2026-05-05T12:25"), "no zone: write 2026-05-05T12:25Z"),
        (lambda world: world.takes("a", "5 minutes"), "5m"),
        (lambda world: world.ends("a", ["fails"]), "write succeeded or failed"),
        (lambda world: world.no_leader(f"{DAY}T12:25Z", f"{DAY}T12:20Z"), "not after its start"),
    ],
)
def test_what_a_test_got_wrong_is_said(worlds: Scheduler, order: Any, message: str) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.database_outage(f"{DAY}T12:10Z", f"{DAY}T12:20Z")

    def go_wrong() -> None:
        order(world)
        world.run(NOON, f"{DAY}T13:00Z")

    with pytest.raises(ValueError, match=message):
        go_wrong()


def test_a_world_runs_once(worlds: Scheduler) -> None:
    world = worlds.jobs({"a": job(every="5m")})
    world.run(NOON, f"{DAY}T13:00Z")
    with pytest.raises(ValueError, match="make another one"):
        world.run(NOON, f"{DAY}T13:00Z")
