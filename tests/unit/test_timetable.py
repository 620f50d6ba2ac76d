"""Timers: pure, on the database's time, and never walking what was missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from freezegun import freeze_time

from scheduler_service import schedule as schedules
from scheduler_service.clock import BootClock, DatabaseTime
from scheduler_service.events import Event, Events
from scheduler_service.model import JobSpec
from scheduler_service.schedule import due_at
from scheduler_service.timetable import Timetable, Trigger

NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)
TEN = timedelta(seconds=10)
HOUR = timedelta(hours=1)


class StillClock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def spec(**changes: object) -> JobSpec:
    return JobSpec(**{"id": "a", "run": "jobs:main", "schedule": schedules.every(TEN), **changes})


@pytest.mark.parametrize("offset", [timedelta(0), HOUR, -HOUR, timedelta(microseconds=1)])
def test_a_timer_goes_off_when_the_database_says_so(offset: timedelta) -> None:
    trigger = Trigger(spec(), offset)
    assert trigger.get_next_fire_time(None, NOON - offset) == NOON - offset + TEN


def test_a_timer_knows_nothing_of_what_went_before() -> None:
    trigger = Trigger(spec(), timedelta(0))
    first = trigger.get_next_fire_time(None, NOON)
    assert trigger.get_next_fire_time(None, NOON) == first
    assert trigger.get_next_fire_time(first, NOON) == NOON + 2 * TEN


def test_a_timer_that_slept_for_a_week_goes_straight_to_now() -> None:
    trigger = Trigger(spec(), timedelta(0))
    assert trigger.get_next_fire_time(NOON - timedelta(days=7), NOON) == NOON + TEN


def test_jitter_delays_each_tick_as_everywhere() -> None:
    job = spec(jitter=timedelta(seconds=9))
    trigger = Trigger(job, timedelta(0))
    moment, told = NOON, []
    for _ in range(50):
        moment = trigger.get_next_fire_time(moment, moment)
        told.append(moment)
    ticks = job.schedule.between(NOON - TEN, NOON + 51 * TEN)
    dues = [due for tick in ticks if (due := due_at("a", tick, job.jitter)) > NOON]
    assert told == dues[:50]


def test_a_job_that_never_comes_has_no_next_time() -> None:
    assert Trigger(spec(schedule=schedules.manual()), timedelta(0)).get_next_fire_time(None, NOON) is None
    past = schedules.at(NOON - HOUR)
    assert Trigger(spec(schedule=past), timedelta(0)).get_next_fire_time(None, NOON) is None


class World:
    """A timetable whose loop is turned by hand."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.time = DatabaseTime(self.clock)
        self.due: list[tuple[str, datetime]] = []
        self.leading = True
        self.drifts = 0
        self.told: list[Event] = []
        events = Events()
        events.subscribe(self.told.append)
        self.timetable = Timetable(
            due=lambda job_id, moment: self.due.append((job_id, moment)),
            leading=lambda: self.leading,
            drifted=self.count_drift,
            database_time=self.time,
            events=events,
            clock=BootClock(),
        )

    def count_drift(self) -> None:
        self.drifts += 1

    def turn(self) -> float:
        return self.timetable._loop.turn()


@pytest.fixture
def world() -> World:
    world = World()
    world.time.observe(0.0, 0.0, NOON)
    return world


def test_due_jobs_are_passed_on_with_the_databases_time(world: World) -> None:
    with freeze_time(NOON + HOUR) as wall:  # this machine is an hour ahead
        world.timetable.arm([spec(), spec(id="off", enabled=False)], 1, NOON)
        assert world.turn() <= 1.0
        assert world.due == []
        wall.tick(TEN)
        world.clock.now += 10
        world.turn()
        assert world.due == [("a", NOON + TEN)]
        wall.tick(TEN)
        world.clock.now += 10
        world.turn()
        assert world.due == [("a", NOON + TEN), ("a", NOON + 2 * TEN)]


def test_jobs_that_always_come_due_together_share_a_timer_and_jitter_parts_them(world: World) -> None:
    jittery = {"jitter": timedelta(seconds=9)}
    with freeze_time(NOON) as wall:
        world.timetable.arm([spec(), spec(id="b"), spec(id="c", **jittery), spec(id="d", **jittery)], 1, NOON)
        assert len(world.timetable._loop.get_jobs()) == 3
        assert world.told[-1].fields["job_count"] == 4
        wall.tick(2 * TEN)
        world.clock.now += 20
        world.turn()
    assert sorted(job_id for job_id, _ in world.due) == ["a", "b", "c", "d"]


def test_a_job_that_joins_others_after_their_last_tick_is_told_to_be_due(world: World) -> None:
    last = spec(schedule=schedules.at(NOON + TEN))
    with freeze_time(NOON) as wall:
        world.timetable.arm([last], 1, NOON)
        wall.tick(TEN)
        world.clock.now += 10
        world.turn()
        world.due.clear()
        world.timetable.rearm([last], [last, spec(id="b", schedule=schedules.at(NOON + TEN))])
        world.turn()
    assert "b" in {job_id for job_id, _ in world.due}


def test_without_a_trusted_lease_nothing_goes_off(world: World) -> None:
    with freeze_time(NOON) as wall:
        world.timetable.arm([spec()], 1, NOON)
        world.leading = False
        wall.tick(TEN)
        world.clock.now += 10
        assert world.turn() < 1.0
        assert world.due == []
        world.leading = True
        world.turn()
        assert len(world.due) == 1


def test_a_stepped_wall_clock_is_told_once_and_armed_anew(world: World) -> None:
    with freeze_time(NOON) as wall:
        world.timetable.arm([spec()], 1, NOON)
        wall.move_to(NOON - HOUR)  # somebody set this machine's clock back
        world.turn()
        world.turn()
        assert world.drifts == 1
        world.timetable.arm([spec()], 1, NOON)
        wall.tick(TEN)
        world.clock.now += 10
        world.turn()
        assert world.due == [("a", NOON + TEN)]


def test_disarmed_is_silent(world: World) -> None:
    with freeze_time(NOON) as wall:
        world.timetable.arm([spec()], 1, NOON)
        world.timetable.disarm(1)
        wall.tick(TEN)
        world.clock.now += 10
        world.turn()
        assert world.due == []
        assert [event.name for event in world.told] == ["timetable_armed", "timetable_disarmed"]


def test_only_the_timers_of_changed_jobs_are_set_anew(world: World) -> None:
    before = [spec(), spec(id="b"), spec(id="c"), spec(id="d")]
    after = [
        spec(kwargs={"other": "arguments"}),
        spec(id="b", schedule=schedules.every(TEN / 2)),
        spec(id="c", enabled=False),
        spec(id="e"),
    ]
    with freeze_time(NOON + TEN / 4) as wall:
        world.clock.now = 2.5
        world.timetable.arm(before, 1, NOON)
        world.timetable.rearm(before, after)
        # What came due under their former schedules is settled; of a job that is gone nothing can be.
        assert sorted(job_id for job_id, _ in world.due) == ["b", "c", "e"]
        world.due.clear()
        told = []
        for _ in range(2):
            wall.tick(TEN / 2)
            world.clock.now += 5
            world.turn()
            told.append(sorted(world.due))
            world.due.clear()
    assert told == [
        [("b", NOON + TEN / 2)],
        [("a", NOON + TEN), ("b", NOON + TEN), ("e", NOON + TEN)],
    ]


def test_a_tick_that_comes_due_while_timers_are_set_anew_is_not_overlooked(world: World) -> None:
    yearly = schedules.cron("0 12 5 5 *")
    half_a_second = timedelta(seconds=0.5)
    with freeze_time(NOON + half_a_second):
        world.clock.now = 0.5
        world.timetable.arm([], 1, NOON)
        world.timetable.rearm([], [spec(schedule=yearly)])
        world.turn()
    assert ("a", NOON) in world.due


def test_what_came_due_between_the_election_and_the_arming_goes_off_at_once(world: World) -> None:
    yearly = schedules.cron("0 12 5 5 *")
    with freeze_time(NOON + HOUR + TEN):  # this machine is an hour ahead, and the database did not answer at first
        world.clock.now = TEN.total_seconds()
        daily = spec(id="daily", schedule=schedules.cron("0 13 * * *"))
        world.timetable.arm([spec(schedule=yearly), daily], 1, NOON - TEN)
        world.turn()
    assert world.due == [("a", NOON)]


def test_a_database_whose_clock_was_set_back_after_the_election_holds_no_timer_up(world: World) -> None:
    with freeze_time(NOON) as wall:
        world.timetable.arm([spec()], 1, NOON + HOUR)
        wall.tick(TEN)
        world.clock.now += 10
        world.turn()
    assert world.due == [("a", NOON + TEN)]


def test_timers_that_are_not_set_are_not_set_anew(world: World) -> None:
    with freeze_time(NOON):
        world.timetable.rearm([], [spec()])
        assert world.due == []
        assert world.turn() < 1.0


def test_all_timers_begin_at_the_same_moment(world: World) -> None:
    with freeze_time(NOON + TEN / 2) as wall:
        add = world.timetable._loop.add_job

        def slowly(*arguments: object, **settings: object) -> object:
            wall.tick(TEN)
            world.clock.now += 10
            return add(*arguments, **settings)

        world.timetable._loop.add_job = slowly
        schedule = {name: schedules.every(TEN, timedelta(seconds=number)) for number, name in enumerate("abc")}
        world.timetable.arm([spec(id=name, schedule=schedule[name]) for name in "abc"], 1, NOON)
        world.turn()
    assert {job_id for job_id, _ in world.due} == set("abc")
