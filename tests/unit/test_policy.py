"""What becomes of the ticks of one job, against known answers and against a walk over every tick."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service import schedule as schedules
from scheduler_service.model import CatchUp, Decision, JobSpec, Kind, Overlap, Reason, Retry, State
from scheduler_service.policy import RANGE_FROM, decide, paused, retry_seconds, settle_until
from scheduler_service.schedule import Schedule, due_at, every

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "catch_up_vectors.json").read_text())
# One known answer contradicts the table that it is to illustrate: its second tick is 10 s old with a grace of 60 s,
# so it is on time and runs as itself.  The table holds.
CORRECTED = {("fall back, interval job: both 02:30 are ticks", "2026-10-25T02:30:00+01:00"): "run"}
SECOND = timedelta(seconds=1)
NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)


def spec_of(schedule: Schedule, **policies: object) -> JobSpec:
    return JobSpec(id="job", run="jobs:main", schedule=schedule, **policies)


def word(decision: Decision) -> str:
    if decision.state is State.WAITING:
        return "run" if decision.kind is Kind.SCHEDULED else "catch_up"
    return f"{decision.state}:{decision.reason}"


def each_tick(schedule: Schedule, decisions: list[Decision]) -> list[tuple[datetime, str]]:
    told = []
    for one in decisions:
        if one.until is None:
            told.append((one.scheduled_at, word(one)))
        else:
            ticks = schedule.between(one.scheduled_at - timedelta(microseconds=1), one.until)
            assert ticks[0] == one.scheduled_at
            assert ticks[-1] == one.until
            assert len(ticks) >= RANGE_FROM
            told += [(tick, word(one)) for tick in ticks]
    return told


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["title"] for vector in VECTORS])
def test_known_answers(vector: dict) -> None:
    schedule = schedules.cron(vector["expr"], vector["tz"])
    if vector["not_after"]:
        schedule = schedule.bounded(None, datetime.fromisoformat(vector["not_after"]))
    spec = spec_of(
        schedule,
        misfire_grace=timedelta(seconds=vector["grace_s"]),
        catch_up=CatchUp(vector["policy"]),
        catch_up_window=timedelta(seconds=vector["window_s"]),
        catch_up_limit=vector["limit"],
    )
    now = datetime.fromisoformat(vector["now"])
    decisions = decide(spec, schedule, datetime.fromisoformat(vector["watermark"]), now, now)
    expected = [
        (datetime.fromisoformat(one["tick"]), CORRECTED.get((vector["title"], one["tick"]), one["decision"]))
        for one in vector["decisions"]
    ]
    assert each_tick(schedule, decisions) == expected


def walked(spec: JobSpec, ticks: list[datetime], now: datetime) -> list[str]:
    """Section 8's table, read tick by tick."""
    ages = [now - due_at(spec.id, tick, spec.jitter) for tick in ticks]
    on_time = [age <= spec.misfire_grace for age in ages]
    inside = [age <= max(spec.catch_up_window, spec.misfire_grace) for age in ages]
    older = [index for index, late in enumerate(on_time) if not late and inside[index]]
    last = len(ticks) - 1
    told = []
    for index in range(len(ticks)):
        if spec.catch_up is CatchUp.ALL:
            if on_time[index]:
                told.append("run")
            elif not inside[index]:
                told.append("missed:window")
            else:
                told.append("catch_up" if index in older[-spec.catch_up_limit :] else "missed:limit")
        elif on_time[index]:
            told.append("run" if index == last else "missed:coalesced")
        elif spec.catch_up is CatchUp.NONE:
            told.append("missed:policy")
        elif on_time[last]:
            told.append("missed:coalesced")
        elif not inside[index]:
            told.append("missed:window")
        else:
            told.append("catch_up" if index == last else "missed:coalesced")
    return told


@settings(max_examples=300, deadline=None)
@given(
    interval=st.integers(2, 90),
    behind=st.integers(0, 4000),
    grace=st.integers(1, 300),
    window=st.integers(0, 3000),
    limit=st.integers(1, 30),
    catch_up=st.sampled_from(CatchUp),
    jitter=st.integers(0, 1),
    past=st.integers(0, 1_000_000),
    held=st.integers(0, 4),
)
def test_segments_agree_with_a_walk_over_every_tick(
    interval: int,
    behind: int,
    grace: int,
    window: int,
    limit: int,
    catch_up: CatchUp,
    jitter: int,
    past: int,
    held: int,
) -> None:
    schedule = schedules.every(timedelta(seconds=interval))
    spec = spec_of(
        schedule,
        misfire_grace=timedelta(seconds=grace),
        catch_up=catch_up,
        catch_up_window=timedelta(seconds=window),
        catch_up_limit=limit,
        jitter=jitter * timedelta(seconds=interval - 1),
    )
    now = NOON + timedelta(microseconds=past)
    after = now - timedelta(seconds=behind)
    until = settle_until(spec, schedule, after, now)
    waiting = schedule.latest(after - timedelta(seconds=interval * 10), after, held)
    decisions = decide(spec, schedule, after, until, now, waiting=waiting)
    ticks = waiting + schedule.between(after, until)
    assert all(due_at(spec.id, tick, spec.jitter) <= now for tick in schedule.between(after, until))
    assert each_tick(schedule, decisions) == list(zip(ticks, walked(spec, ticks, now), strict=True))
    late = schedule.after(until)
    assert late is not None
    assert due_at(spec.id, late, spec.jitter) > now


def test_a_tick_that_jitter_makes_due_later_is_not_decided_yet() -> None:
    spec = spec_of(every(60 * SECOND), jitter=30 * SECOND)
    due = due_at(spec.id, NOON, spec.jitter)
    assert due > NOON
    before = due - timedelta(microseconds=1)
    assert settle_until(spec, spec.schedule, NOON - 60 * SECOND, before) < NOON
    assert settle_until(spec, spec.schedule, NOON - 60 * SECOND, due) == due


def test_a_week_of_seconds_is_a_handful_of_rows() -> None:
    schedule = schedules.every(timedelta(seconds=1))
    decisions = decide(spec_of(schedule), schedule, NOON - timedelta(days=7), NOON, NOON)
    assert [(one.kind, word(one)) for one in decisions] == [
        (Kind.RANGE, "missed:coalesced"),
        (Kind.RANGE, "missed:coalesced"),
        (Kind.SCHEDULED, "run"),
    ]


def test_a_tick_that_comes_due_while_the_job_runs_is_skipped() -> None:
    schedule = schedules.every(timedelta(seconds=10))
    decisions = decide(
        spec_of(schedule), schedule, NOON, NOON + timedelta(seconds=10), NOON + timedelta(seconds=10), open_count=1
    )
    assert [word(one) for one in decisions] == ["skipped:overlap"]


def test_a_job_that_allows_overlap_runs_while_it_runs() -> None:
    schedule = schedules.every(timedelta(seconds=10))
    now = NOON + timedelta(seconds=10)
    decisions = decide(spec_of(schedule, overlap=Overlap.ALLOW), schedule, NOON, now, now, open_count=1)
    assert [word(one) for one in decisions] == ["run"]


def test_ticks_settled_together_never_skip_each_other() -> None:
    schedule = schedules.every(timedelta(seconds=10))
    now = NOON + timedelta(seconds=30)
    decisions = decide(spec_of(schedule, catch_up=CatchUp.ALL), schedule, NOON, now, now)
    assert [word(one) for one in decisions] == ["run", "run", "run"]


def test_a_waiting_run_keeps_its_place_while_the_job_runs() -> None:
    schedule = schedules.every(timedelta(seconds=10))
    now = NOON + timedelta(seconds=10)
    decisions = decide(spec_of(schedule, catch_up=CatchUp.ALL), schedule, NOON, now, now, waiting=[NOON], open_count=1)
    assert [(one.scheduled_at, word(one)) for one in decisions] == [(NOON, "run"), (now, "skipped:overlap")]


def test_a_pause_is_one_range_however_long() -> None:
    schedule = schedules.every(timedelta(seconds=1))
    (only,) = paused(spec_of(schedule), schedule, NOON, NOON + timedelta(days=7))
    assert (only.kind, only.state, only.reason) == (Kind.RANGE, State.SKIPPED, Reason.PAUSED)
    assert only.scheduled_at == NOON + timedelta(seconds=1)
    assert only.until == NOON + timedelta(days=7)


def test_a_pause_without_a_tick_leaves_no_row() -> None:
    schedule = schedules.every(timedelta(hours=1))
    assert paused(spec_of(schedule), schedule, NOON, NOON + timedelta(minutes=59)) == []


def test_a_queue_takes_as_many_ticks_as_it_has_room_for() -> None:
    schedule = every(SECOND)
    now = NOON + 6 * SECOND
    spec = spec_of(schedule, overlap=Overlap.QUEUE, queue_limit=3, catch_up=CatchUp.ALL)
    for open_count, waiting_count in ((0, 4), (1, 3), (3, 1), (4, 0), (9, 0)):
        decisions = decide(spec, schedule, NOON, now, now, open_count=open_count)
        assert [one.state for one in decisions] == [State.WAITING] * waiting_count + [State.SKIPPED] * (
            6 - waiting_count
        )
        assert {one.reason for one in decisions[waiting_count:]} == {Reason.QUEUE_LIMIT}


def test_what_would_be_folded_into_a_tick_without_room_is_skipped_with_it() -> None:
    schedule = every(SECOND)
    now = NOON + 3 * SECOND
    full = spec_of(schedule, overlap=Overlap.QUEUE, queue_limit=1)
    assert {one.reason for one in decide(full, schedule, NOON, now, now, open_count=2)} == {Reason.QUEUE_LIMIT}
    with_room = decide(full, schedule, NOON, now, now, open_count=1)
    assert [one.reason for one in with_room] == [Reason.COALESCED, Reason.COALESCED, Reason.QUEUED]


def test_ticks_decided_together_replace_all_but_the_newest_that_fit() -> None:
    schedule = every(SECOND)
    now = NOON + 5 * SECOND
    spec = spec_of(schedule, overlap=Overlap.REPLACE, catch_up=CatchUp.ALL, max_running=2)
    decisions = decide(spec, schedule, NOON, now, now, open_count=7)
    assert [one.reason for one in decisions] == [Reason.COALESCED] * 3 + [Reason.QUEUED] * 2


def test_a_job_with_slots_left_skips_nothing() -> None:
    schedule = every(SECOND)
    now = NOON + SECOND
    for open_count, state in ((0, State.WAITING), (2, State.WAITING), (3, State.SKIPPED)):
        spec = spec_of(schedule, max_running=3)
        assert [one.state for one in decide(spec, schedule, NOON, now, now, open_count=open_count)] == [state]


@pytest.mark.parametrize(
    ("attempt", "state", "asked", "wait"),
    [
        (1, State.FAILED, None, 10.0),
        (2, State.FAILED, None, 30.0),
        (3, State.TIMED_OUT, None, 60.0),
        (4, State.FAILED, None, None),
        (1, State.FAILED, 0.0, 0.0),
        (4, State.FAILED, 5.0, None),
        (1, State.SUCCEEDED, None, None),
        (1, State.CANCELLED, None, None),
    ],
)
def test_a_failed_run_is_tried_again_later_and_later(
    attempt: int, state: State, asked: float | None, wait: float | None
) -> None:
    retry = Retry(attempts=4, delay=10 * SECOND, factor=3.0, max_delay=60 * SECOND)
    assert retry_seconds(spec_of(every(SECOND), retry=retry), attempt, state, asked) == wait


def test_only_what_the_job_names_is_tried_again() -> None:
    spec = spec_of(every(SECOND), retry=Retry(attempts=2, on=("timeout",)))
    assert retry_seconds(spec, 1, State.FAILED) is None
    assert retry_seconds(spec, 1, State.FAILED, asked=1.0) == 1.0
    assert retry_seconds(spec, 1, State.TIMED_OUT) == 10.0


def test_the_thousandth_wait_is_still_a_number() -> None:
    spec = spec_of(every(SECOND), retry=Retry(attempts=1000, factor=100.0))
    assert retry_seconds(spec, 999, State.FAILED) == 600.0
