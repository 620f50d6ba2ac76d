"""Schedules as values: intervals, single moments, bounds, the line in the ledger, words, jitter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.schedule import LEAST_INTERVAL, Schedule, at, cron, due_at, every, manual, parse, shortest_gap
from tests.unit.schedule_oracle import utc

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEW_YEAR = utc("2026-01-01T00:00Z")

INTERVALS = st.integers(1000, 10**13).map(lambda count: MICROSECOND * count)
MOMENTS = st.integers(-(10**16), 5 * 10**15).map(lambda count: EPOCH + MICROSECOND * count)


@settings(max_examples=300, deadline=None)
@given(INTERVALS, st.integers(0, 10**6), MOMENTS)
def test_an_interval_ticks_at_its_multiples_since_the_epoch(interval: timedelta, part: int, moment: datetime) -> None:
    offset = MICROSECOND * (part * (interval // MICROSECOND) // (10**6 + 1))
    schedule = every(interval, offset)
    ticks = schedule.between(moment - 3 * interval, moment + 3 * interval)
    assert len(ticks) == 6
    assert all((tick - EPOCH - offset) % interval == timedelta(0) for tick in ticks)
    assert ticks == sorted(set(ticks))
    later = next((tick for tick in ticks if tick > moment), None)
    assert later is not None
    assert schedule.after(moment) == later
    assert later - moment <= interval
    assert schedule.after(ticks[0]) == ticks[1]
    assert schedule.after(ticks[1] - MICROSECOND) == ticks[1]
    assert schedule.latest(moment - 3 * interval, moment + 3 * interval, 4) == ticks[-4:]
    assert schedule.latest(ticks[0], ticks[2], 9) == ticks[1:3]
    assert schedule.between(ticks[0], ticks[5], 2) == ticks[1:3]


def test_the_newest_of_a_years_ticks_are_found_by_arithmetic() -> None:
    schedule = every(LEAST_INTERVAL)
    newest = schedule.latest(NEW_YEAR - timedelta(days=365), NEW_YEAR + timedelta(microseconds=1), 2)
    assert newest == [NEW_YEAR - timedelta(milliseconds=1), NEW_YEAR]


def test_an_interval_longer_than_the_calendar_ends() -> None:
    assert every(timedelta(days=365_000 * 20)).after(NEW_YEAR) is None
    assert every(SECOND).after(datetime.max.replace(tzinfo=UTC)) is None


def test_a_single_moment_comes_once() -> None:
    schedule = at(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert schedule.after(NEW_YEAR - MICROSECOND) == NEW_YEAR
    assert schedule.after(NEW_YEAR) is None
    assert schedule.between(NEW_YEAR - SECOND, NEW_YEAR) == [NEW_YEAR]
    assert schedule.between(NEW_YEAR, NEW_YEAR + SECOND) == []
    assert schedule.latest(NEW_YEAR - SECOND, NEW_YEAR + SECOND, 3) == [NEW_YEAR]
    assert schedule.latest(NEW_YEAR - SECOND, NEW_YEAR, 3) == [NEW_YEAR]
    assert schedule.latest(NEW_YEAR, NEW_YEAR + SECOND, 3) == []
    assert schedule.latest(NEW_YEAR - SECOND, NEW_YEAR - MICROSECOND, 3) == []


def test_a_manual_schedule_never_ticks() -> None:
    assert manual().after(NEW_YEAR) is None
    assert manual().between(EPOCH, NEW_YEAR) == []
    assert manual().latest(EPOCH, NEW_YEAR, 5) == []


@pytest.mark.parametrize("schedule", [cron("0 * * * *", "Europe/Berlin"), every(timedelta(hours=1))])
def test_both_bounds_are_part_of_a_bounded_schedule(schedule: Schedule) -> None:
    end = NEW_YEAR + timedelta(hours=5)
    bounded = schedule.bounded(NEW_YEAR, end)
    everything = [NEW_YEAR + timedelta(hours=number) for number in range(6)]
    wide = NEW_YEAR - timedelta(days=9), end + timedelta(days=9)
    assert bounded.between(*wide) == everything
    assert bounded.between(*wide, 2) == everything[:2]
    assert bounded.latest(*wide, 2) == everything[-2:]
    assert bounded.latest(*wide, 99) == everything
    assert bounded.after(wide[0]) == NEW_YEAR
    assert bounded.after(everything[-2]) == end
    assert bounded.after(end) is None
    assert bounded.latest(end, wide[1]) == []
    assert bounded.latest(wide[0], NEW_YEAR - SECOND) == []
    assert bounded.between(NEW_YEAR, everything[1]) == everything[1:2]
    assert (bounded.starts_at, bounded.ends_at) == (NEW_YEAR, end)
    assert (schedule.starts_at, schedule.ends_at) == (None, None)


def test_bounds_upon_bounds_leave_what_both_allow() -> None:
    twice = every(SECOND).bounded(NEW_YEAR, NEW_YEAR + 9 * SECOND).bounded(NEW_YEAR + 3 * SECOND, None)
    assert twice == every(SECOND).bounded(NEW_YEAR + 3 * SECOND, NEW_YEAR + 9 * SECOND)
    assert len(twice.between(EPOCH, NEW_YEAR + timedelta(days=1))) == 7


LINES = [
    (cron("0 2 * * mon-FRI", "Europe/Berlin"), "0 2 * * MON-FRI", "Europe/Berlin"),
    (cron(" */5  * * * * * "), "*/5 * * * * *", "UTC"),
    (cron("@Daily", "Asia/Tokyo"), "0 0 * * *", "Asia/Tokyo"),
    (every(timedelta(seconds=30)), "every 30s", "UTC"),
    (every(timedelta(milliseconds=200)), "every 200ms", "UTC"),
    (every(timedelta(hours=36, microseconds=5), timedelta(minutes=90)), "every 1d12h5us offset 1h30m", "UTC"),
    (at(utc("2026-05-01T12:00:00.000001+02:00")), "at 2026-05-01T10:00:00.000001Z", "UTC"),
    (manual(), "manual", "UTC"),
    (
        cron("0 2 * * *", "Europe/Berlin").bounded(NEW_YEAR, None),
        "0 2 * * * from 2026-01-01T00:00:00Z",
        "Europe/Berlin",
    ),
    (every(SECOND).bounded(None, NEW_YEAR), "every 1s until 2026-01-01T00:00:00Z", "UTC"),
    (
        every(SECOND).bounded(EPOCH, NEW_YEAR),
        "every 1s from 1970-01-01T00:00:00Z until 2026-01-01T00:00:00Z",
        "UTC",
    ),
]


@pytest.mark.parametrize(("schedule", "canonical", "timezone"), LINES)
def test_the_line_in_the_ledger_gives_the_schedule_back(schedule: Schedule, canonical: str, timezone: str) -> None:
    assert (schedule.canonical, schedule.timezone) == (canonical, timezone)
    assert str(schedule) == canonical
    again = parse(canonical, timezone)
    assert again == schedule
    assert hash(again) == hash(schedule)
    window = utc("2025-12-31T23:59:30Z"), utc("2026-01-01T00:01:00Z")
    assert again.between(*window) == schedule.between(*window)


def test_schedules_differ_by_what_they_tick() -> None:
    schedules = [line[0] for line in LINES]
    assert len(set(schedules)) == len(schedules)
    assert cron("0 2 * * *") != "0 2 * * *"


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        (" @ANNUALLY ", "0 0 1 1 *"),
    ],
)
def test_a_macro_is_its_expression(expression: str, same: str) -> None:
    assert cron(expression, "Europe/Berlin") == cron(same, "Europe/Berlin")


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("0 0 * * FRI-SUN", "0 0 * * 5,6,0"),
        ("0 0 * * 5-7", "0 0 * * FRI,SAT,SUN"),
        ("0 0 * * sun-tue", "0 0 * * 0-2"),
        ("0 0 * * SUN-SUN", "0 0 * * 7"),
        ("0 0 * * 0-7", "0 0 * * *"),
        ("30-30/10 * * * *", "30 * * * *"),
        ("50/10 * * * *", "50 * * * *"),
        ("40/10 * * * *", "40,50 * * * *"),
        ("0 0 1 */3 *", "0 0 1 jan,apr,jul,oct *"),
        ("0 0 * * 7L", "0 0 * * 0L"),
        ("*/60 * * * *", "0 * * * *"),
    ],
)
def test_two_ways_to_write_the_same(expression: str, same: str) -> None:
    until = NEW_YEAR + timedelta(days=200)
    assert cron(expression).between(NEW_YEAR, until) == cron(same).between(NEW_YEAR, until)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (cron("0 2 * * *", "Europe/Berlin"), "At 02:00 every day, Europe/Berlin time"),
        (cron("0 0 * * FRI-SUN"), "At 00:00 on Friday through Sunday, UTC time"),
        (every(timedelta(seconds=30)), "Every 30 seconds"),
        (every(timedelta(hours=1)), "Every hour"),
        (every(timedelta(minutes=90)), "Every 1 hour and 30 minutes"),
        (every(timedelta(days=2, hours=3, minutes=1)), "Every 2 days, 3 hours and 1 minute"),
        (every(timedelta(hours=1), timedelta(minutes=5)), "Every hour, 5 minutes later"),
        (at(NEW_YEAR), "Once, at 2026-01-01T00:00:00Z"),
        (manual(), "Only when asked for"),
        (every(SECOND).bounded(NEW_YEAR, None), "Every second, from 2026-01-01T00:00:00Z"),
        (every(SECOND).bounded(None, NEW_YEAR), "Every second, until 2026-01-01T00:00:00Z"),
    ],
)
def test_a_schedule_says_in_words_when_it_ticks(schedule: Schedule, words: str) -> None:
    assert schedule.explain() == words


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), MOMENTS, st.integers(1, 10**10))
def test_jitter_delays_by_less_than_it_says_and_always_the_same(job: str, tick: datetime, microseconds: int) -> None:
    jitter = MICROSECOND * microseconds
    due = due_at(job, tick, jitter)
    assert timedelta(0) <= due - tick < jitter
    assert due.tzinfo is UTC
    assert due_at(job, tick.astimezone(timezone(timedelta(hours=5))), jitter) == due


def test_jitter_spreads_jobs_and_ticks_and_is_the_same_in_every_process() -> None:
    minute = timedelta(minutes=1)
    assert due_at("backup", NEW_YEAR, timedelta(0)) == NEW_YEAR
    # Written down once: another answer would move ticks between two versions of the service.
    assert due_at("backup", NEW_YEAR, minute) == utc("2026-01-01T00:00:00Z") + MICROSECOND * WRITTEN_DOWN
    delays = [due_at(f"job-{number}", NEW_YEAR, minute) - NEW_YEAR for number in range(1000)]
    delays += [
        due_at("backup", NEW_YEAR + number * minute, minute) - NEW_YEAR - number * minute for number in range(1000)
    ]
    for quarter in range(4):
        count = sum(quarter * minute / 4 <= delay < (quarter + 1) * minute / 4 for delay in delays)
        assert 400 < count < 600
    with pytest.raises(ValueError, match="negative"):
        due_at("backup", NEW_YEAR, -minute)


WRITTEN_DOWN = 27515768


@pytest.mark.parametrize(
    ("schedule", "gap"),
    [
        (cron("* * * * * *"), SECOND),
        (cron("0,10,25 * * * *"), timedelta(minutes=10)),
        (cron("0 2 * * *"), timedelta(days=1)),
        (cron("0 2 * * *", "Europe/Berlin"), timedelta(hours=23)),
        (cron("30 1-10 * * *", "Europe/Berlin"), timedelta(minutes=30)),  # 02:30 comes at 03:00, before 03:30
        (cron("0 0 1 * *"), timedelta(days=28)),
        (cron("0 0 29 2 *"), timedelta(days=4 * 365 + 1)),
        (every(timedelta(milliseconds=250)), timedelta(milliseconds=250)),
        (every(timedelta(milliseconds=250)).bounded(NEW_YEAR, NEW_YEAR), None),
        (at(NEW_YEAR), None),
        (manual(), None),
    ],
)
def test_the_shortest_gap_looks_at_the_changes_of_clocks_too(schedule: Schedule, gap: timedelta | None) -> None:
    assert shortest_gap(schedule, utc("2025-11-10T12:00Z")) == gap
