"""Cron schedules against known answers, against an oracle of the same rule, and against themselves."""

from __future__ import annotations

import json
import pickle
import random
import struct
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler_service import moments
from scheduler_service.schedule import Schedule, ScheduleError, cron, zones
from scheduler_service.schedule.fields import read
from scheduler_service.schedule.series import Cron
from tests.unit.schedule_oracle import Oracle, after, utc

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "cron_vectors.json").read_text())
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)

# (zone, a moment when its clocks changed, by how many minutes)
CHANGES = [
    ("Europe/Berlin", utc("2026-03-29T01:00Z"), 60),
    ("Europe/Berlin", utc("2026-10-25T01:00Z"), -60),
    ("America/New_York", utc("2026-03-08T07:00Z"), 60),
    ("America/New_York", utc("2026-11-01T06:00Z"), -60),
    ("Australia/Lord_Howe", utc("2026-10-03T15:30Z"), 30),
    ("Australia/Lord_Howe", utc("2026-04-04T15:00Z"), -30),
    ("Africa/Casablanca", utc("2025-02-23T02:00Z"), -60),
    ("Africa/Casablanca", utc("2025-04-06T02:00Z"), 60),
    ("America/Sao_Paulo", utc("2018-11-04T03:00Z"), 60),  # midnight does not come
    ("America/Sao_Paulo", utc("2018-02-18T02:00Z"), -60),  # a day comes to an end twice
    ("Africa/Cairo", utc("2026-04-23T22:00Z"), 60),
    ("Africa/Cairo", utc("2026-10-29T21:00Z"), -60),
    ("Africa/Juba", utc("2021-01-31T21:00Z"), -60),  # a new offset, no summer time
    ("Asia/Kathmandu", utc("1985-12-31T18:30Z"), 15),
    ("Pacific/Apia", utc("2011-12-30T10:00Z"), 24 * 60),  # 30 December does not come
    ("Antarctica/Troll", utc("2026-03-29T01:00Z"), 120),
    ("Antarctica/Casey", utc("2020-10-03T16:01Z"), 180),
    ("Asia/Dhaka", utc("2009-12-31T17:00Z"), -60),  # the year comes to an end twice
]
ALL_CHANGES = pytest.mark.parametrize(("zone", "change"), [(zone, change) for zone, change, _ in CHANGES])


def some(low: int, high: int) -> st.SearchStrategy[str]:
    """A list of values, ranges and steps."""
    value = st.integers(low, high)
    span = st.tuples(value, value).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, min(7, high - low))
    stepped = st.tuples(span, step).filter(lambda pair: pair[0].split("-")[0] != pair[0].split("-")[1])
    item = st.one_of(value.map(str), span, stepped.map("{0[0]}/{0[1]}".format))
    return st.lists(item, min_size=1, max_size=3).map(",".join)


def starred(low: int, high: int) -> st.SearchStrategy[str]:
    return st.one_of(st.just("*"), st.integers(1, min(40, high - low)).map("*/{}".format))


MINUTE = st.one_of(some(0, 59), some(0, 59), starred(0, 59))
HOURS = st.one_of(some(0, 5), some(0, 23), starred(0, 23))
DAY = st.one_of(st.just("*"), st.just("*"), some(1, 31), starred(1, 31), st.sampled_from(["L", "LW", "1,L", "15,LW"]))
MONTH = st.one_of(st.just("*"), st.just("*"), some(1, 12), st.sampled_from(["JAN-JUN", "oct,nov,dec", "Feb/2"]))
WEEKDAY = st.one_of(
    st.just("*"),
    st.just("*"),
    some(0, 7),
    starred(0, 7),
    st.sampled_from(["SUN", "FRI-SUN", "mon-fri", "5-7", "6,7", "5L", "0L", "7L", "MON#2", "7#1", "3#5,sat", "tue/2"]),
)
FIVE = st.tuples(MINUTE, HOURS, DAY, MONTH, WEEKDAY).map(" ".join)
# Around a change only times of day matter: dates would leave most examples without a tick.
FIVE_ANY_DAY = st.tuples(MINUTE, HOURS).map("{0[0]} {0[1]} * * *".format)
SIX_ANY_DAY = st.tuples(st.one_of(some(0, 59), starred(0, 59)), MINUTE, HOURS).map("{0[0]} {0[1]} {0[2]} * * *".format)


def fresh(expression: str, zone: str) -> Schedule:
    """A schedule that remembers nothing."""
    cron.__globals__["_cron"].cache_clear()
    return cron(expression, zone)


def comes(expression: str) -> bool:
    """Some drawn dates never come."""
    try:
        cron(expression)
    except ScheduleError:
        return False
    return True


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['id']}: {vector['expr']} {vector['tz']}")
def test_a_known_answer_is_given(vector: dict[str, Any]) -> None:
    if vector["rule"] in ("reject", "never"):
        with pytest.raises(ScheduleError):
            cron(vector["expr"], vector["tz"])
        return
    schedule = cron(vector["expr"], vector["tz"])
    start = datetime.fromisoformat(vector["after"])
    expected = [datetime.fromisoformat(tick) for tick in vector["next"]]
    assert expected
    walked, moment = [], start
    for _ in expected:
        tick = schedule.after(moment)
        assert tick is not None
        walked.append(tick)
        moment = tick
    assert walked == expected
    assert schedule.between(start, expected[-1]) == expected
    assert schedule.latest(start, expected[-1], len(expected)) == expected


def test_the_changes_of_clocks_in_these_tests_are_real() -> None:
    for name, change, minutes in CHANGES:
        zone = zoneinfo.ZoneInfo(name)
        earlier, later = (change - SECOND).astimezone(zone).utcoffset(), change.astimezone(zone).utcoffset()
        assert earlier is not None
        assert later is not None
        assert later - earlier == timedelta(minutes=minutes), name


@pytest.mark.parametrize(("zone", "change", "minutes"), CHANGES)
def test_a_fixed_time_in_a_gap_comes_once_at_the_first_moment_after_it(
    zone: str, change: datetime, minutes: int
) -> None:
    wall = (change - SECOND).astimezone(zoneinfo.ZoneInfo(zone)).replace(tzinfo=None) + SECOND
    if minutes < 0:
        doubled = wall - timedelta(minutes=10)
        schedule = cron(f"{doubled.minute} {doubled.hour} * * *", zone)
        expected = [change - timedelta(minutes=10)]
    else:
        missing = [wall + timedelta(minutes=number) for number in (5, 7, 14)]
        minute_list = ",".join(str(moment.minute) for moment in missing)
        hours = ",".join(sorted({str(moment.hour) for moment in missing}))
        schedule = cron(f"{minute_list} {hours} * * *", zone)
        expected = [change] if minutes <= 180 else []
    assert schedule.between(change - timedelta(minutes=29), change + timedelta(minutes=1)) == expected


def test_a_tick_of_its_own_at_the_end_of_the_gap_is_not_doubled() -> None:
    schedule = cron("0,30 2,3 * * *", "Europe/Berlin")
    ticks = schedule.between(utc("2026-03-29T00:00Z"), utc("2026-03-29T02:00Z"))
    assert ticks == [utc("2026-03-29T01:00Z"), utc("2026-03-29T01:30Z")]


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 30 2 * * *", "* 30 2 * * *"])
def test_with_and_without_seconds_a_daily_job_is_neither_lost_nor_doubled(expression: str) -> None:
    schedule = cron(expression, "Europe/Berlin")
    assert schedule.between(utc("2026-03-29T00:00Z"), utc("2026-03-29T12:00Z")) == [utc("2026-03-29T01:00Z")]
    autumn = schedule.between(utc("2026-10-25T00:29:59Z"), utc("2026-10-25T12:00Z"))
    assert autumn[0] == utc("2026-10-25T00:30Z")
    assert autumn[-1] < utc("2026-10-25T00:31Z")


@pytest.mark.parametrize("expression", ["*/10 * * * *", "5-55/10 * * * *", "17 * * * *", "0 */5 * * * *"])
def test_a_job_with_a_star_follows_real_time(expression: str) -> None:
    for zone, change, minutes in CHANGES:
        if minutes % 60 == 0:
            ticks = cron(expression, zone).between(change - 2 * HOUR, change + 2 * HOUR)
            assert len({later - earlier for earlier, later in pairwise(ticks)}) == 1, zone


@pytest.mark.parametrize(("expression", "count"), [("* 2 * * *", 120), ("*/15 1-2 * * *", 12), ("0 */2 * * *", 2)])
def test_a_star_in_either_field_is_enough(expression: str, count: int) -> None:
    doubled_hour = utc("2026-10-25T00:00Z")  # 02:00 to 03:00 twice
    ticks = cron(expression, "Europe/Berlin").between(doubled_hour - HOUR - SECOND, doubled_hour + 2 * HOUR - SECOND)
    assert len(ticks) == count


def test_the_day_that_apia_skipped_is_left_out() -> None:
    schedule = cron("30 9 * * *", "Pacific/Apia")
    local = zoneinfo.ZoneInfo("Pacific/Apia")
    days = [tick.astimezone(local).day for tick in schedule.between(utc("2011-12-28T00:00Z"), utc("2012-01-01T12:00Z"))]
    assert days == [28, 29, 31, 1]


@ALL_CHANGES
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_around_a_change_of_clocks_five_fields_are_as_the_oracle_says(
    zone: str, change: datetime, data: st.DataObject
) -> None:
    start, end = change - 26 * HOUR, change + 26 * HOUR
    expression = data.draw(FIVE_ANY_DAY)
    expected = Oracle(expression, zone).ticks(start, end)
    assert fresh(expression, zone).between(start - SECOND, end - SECOND) == expected


@ALL_CHANGES
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_around_a_change_of_clocks_six_fields_are_as_the_oracle_says(
    zone: str, change: datetime, data: st.DataObject
) -> None:
    start, end = change - HOUR / 6, change + HOUR / 2
    expression = data.draw(SIX_ANY_DAY)
    expected = Oracle(expression, zone).ticks(start, end)
    assert fresh(expression, zone).between(start - SECOND, end - SECOND) == expected


@settings(max_examples=60, deadline=None)
@given(FIVE, st.sampled_from(sorted({zone for zone, _, _ in CHANGES})), st.integers(0, 11))
@example("1 1 1-7 * */7", "Europe/Berlin", 0)
@example("30 2 13 * 5", "America/Sao_Paulo", 1)
@example("0 0 */2 * 3#5", "Pacific/Apia", 11)
def test_over_a_month_dates_are_as_the_oracle_says(expression: str, zone: str, month: int) -> None:
    if not comes(expression):
        return
    start = datetime(2024, month + 1, 1, tzinfo=UTC)
    end = start + timedelta(days=31)
    hourly = " ".join(["0", "*/6", *expression.split()[2:]])  # the oracle need not look at every minute
    assert cron(hourly, zone).between(start - SECOND, end - SECOND) == Oracle(hourly, zone).ticks(start, end)


@ALL_CHANGES
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_question_gets_the_same_ticks_from_any_starting_point(
    zone: str, change: datetime, data: st.DataObject
) -> None:
    start, end = change - 5 * HOUR, change + 5 * HOUR
    expression = data.draw(FIVE_ANY_DAY)
    ticks = Oracle(expression, zone).ticks(start, end)
    schedule = fresh(expression, zone)
    # Most starts lie inside the gap, the doubled time or at their edges.
    near = st.integers(-70 * 60, 70 * 60).map(lambda seconds: change + SECOND * seconds)
    edge = st.sampled_from([change, *ticks]).flatmap(
        lambda moment: st.sampled_from(
            [-SECOND, -timedelta(microseconds=1), timedelta(0), timedelta(microseconds=1)]
        ).map(lambda delta: moment + delta)
    )
    inside = st.one_of(near, edge).map(lambda moment: min(max(moment, start), end - SECOND))
    for moment, until in data.draw(st.lists(st.tuples(inside, inside), min_size=4, max_size=8)):
        slice_ = [tick for tick in ticks if moment < tick <= until]
        expected = after(ticks, moment)
        if expected is not None:
            assert schedule.after(moment) == expected
        assert schedule.after(moment.astimezone(zoneinfo.ZoneInfo(zone))) == schedule.after(moment)
        assert schedule.between(moment, until) == slice_
        assert schedule.between(moment, until, 3) == slice_[:3]
        assert schedule.latest(moment, until) == slice_[-1:]
        assert schedule.latest(moment, until, 4) == slice_[-4:]


@settings(max_examples=80, deadline=None)
@given(
    FIVE,
    st.sampled_from(sorted({zone for zone, _, _ in CHANGES})),
    st.integers(631152000, 2840140800),  # 1990 to 2060
)
def test_walking_never_goes_back_and_leaves_nothing_out(expression: str, zone: str, since: int) -> None:
    if not comes(expression):
        return
    start = datetime.fromtimestamp(since, UTC)
    schedule = fresh(expression, zone)
    walked: list[datetime] = []
    moment: datetime | None = start
    while moment is not None and len(walked) < 30:
        moment = schedule.after(moment)
        if moment is not None:
            assert moment.tzinfo is UTC
            assert moment > (walked[-1] if walked else start)
            walked.append(moment)
    assert len(walked) == 30
    assert fresh(expression, zone).between(start, walked[-1]) == walked
    assert fresh(expression, zone).between(start, walked[-1] + 2000 * timedelta(days=365), 30) == walked
    assert fresh(expression, zone).latest(start, walked[-1], 7) == walked[-7:]
    assert fresh(expression, zone).latest(start, walked[-1], 1000) == walked
    middle = walked[len(walked) // 2]
    assert fresh(expression, zone).between(middle, walked[-1]) == walked[len(walked) // 2 + 1 :]


def test_what_is_remembered_never_changes_an_answer() -> None:
    chance = random.Random(7)
    change = utc("2026-10-25T01:00Z")
    for expression in ("*/7 * * * *", "17 2 * * *", "5,50 1-4 * * *"):
        remembering = cron(expression, "Europe/Berlin")
        for _ in range(200):
            moment = change + SECOND * chance.uniform(-90000, 90000)
            until = moment + SECOND * chance.uniform(0, 90000)
            assert remembering.after(moment) == fresh(expression, "Europe/Berlin").after(moment)
            assert remembering.between(moment, until) == fresh(expression, "Europe/Berlin").between(moment, until)


def test_equal_schedules_share_what_they_computed() -> None:
    assert cron("0 2 * * mon", "Europe/Berlin") is cron(" 0  2 * *\tMON ", "Europe/Berlin")
    assert cron("0 2 * * *", "Europe/Berlin") != cron("0 2 * * *", "Europe/Paris")


def test_ticks_of_a_dense_schedule_are_found_at_the_end_of_a_year() -> None:
    until = utc("2026-07-01T00:00:00.5Z")
    start = until - timedelta(days=365)
    assert cron("* * * * * *").latest(start, until, 2) == [utc("2026-06-30T23:59:59Z"), utc("2026-07-01T00:00Z")]
    # Dense long ago, nothing since: the look back must neither miss the end nor list the whole day.
    assert cron("* * * 1 8 *").latest(start, until) == [utc("2025-08-01T23:59:59Z")]
    assert cron("* * * 1 8 *").latest(until - timedelta(days=10), until) == []
    everything = cron("* * * * * *").latest(until - timedelta(seconds=900), until, 10**6)
    assert len(everything) == 900
    assert len(cron("* * * * * *").latest(until - timedelta(seconds=900), until, 500)) == 500
    assert cron("* * * * * *").latest(until - timedelta(seconds=900), until, 20) == everything[-20:]


def test_leap_days_come_and_the_ends_of_the_calendar_do_no_harm() -> None:
    leap_sundays = cron("0 0 29 2 */7")
    assert leap_sundays.between(utc("2080-01-01T00:00Z"), utc("2140-01-01T00:00Z")) == [
        utc("2088-02-29T00:00Z"),
        utc("2128-02-29T00:00Z"),
    ]
    for zone in ("UTC", "Pacific/Apia", "America/New_York"):
        daily = cron("0 2 * * *", zone)
        assert daily.after(datetime.max.replace(tzinfo=UTC)) is None
        assert daily.after(datetime(9998, 12, 31, 23, 59, tzinfo=UTC)) is None
        assert daily.after(datetime.min.replace(tzinfo=UTC)) is not None
        assert daily.latest(datetime.min.replace(tzinfo=UTC), utc("2026-01-01T00:00Z"), 1)


class BackAtNewYear(tzinfo):
    """Clocks go back from 00:30 to 23:30 just before the year of UTC ends; no real zone does so yet."""

    def fromutc(self, moment: datetime) -> datetime:
        return moment + (HOUR if moment.replace(tzinfo=UTC) < utc("2026-12-31T23:30Z") else 0 * HOUR)


def test_a_time_doubled_across_the_end_of_a_year_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "zone", lambda name: BackAtNewYear())
    zones.stretches.cache_clear()
    walls = {"45 23": "22:45", "15 0": "23:15", "35 0": "00:35"}
    for wall, moment in walls.items():
        series = Cron(read(f"{wall} * * *"), "Test/New_Year")
        ticks = series.ticks(utc("2026-12-31T22:30Z"))
        assert next(ticks).strftime("%H:%M") == moment
        assert next(ticks) > utc("2027-01-01T12:00Z")
    zones.stretches.cache_clear()


@pytest.fixture
def wrong_zone_files(tmp_path: Path) -> Iterator[None]:
    """The files of a host on which Berlin keeps the time of Tokyo."""
    wrong = tmp_path / "Europe" / "Berlin"
    wrong.parent.mkdir()
    wrong.write_bytes(resources.files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes())
    zones.zone.cache_clear()
    zones.stretches.cache_clear()
    zoneinfo.reset_tzpath(to=[tmp_path])
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.usefixtures("wrong_zone_files")
def test_the_hosts_zone_files_are_not_read() -> None:
    assert cron("0 12 * * *", "Europe/Berlin").after(utc("2026-07-01T00:00Z")) == utc("2026-07-01T10:00Z")


@pytest.mark.usefixtures("wrong_zone_files")
def test_nor_are_they_where_moments_are_read_and_shown() -> None:
    noon = utc("2026-07-01T10:00Z")
    assert moments.local(noon, "Europe/Berlin") == "2026-07-01T12:00:00+02:00"
    assert moments.read_moment("2026-07-01T12:00", "Europe/Berlin") == noon


def test_no_zone_keeps_an_offset_for_less_than_we_look_ahead() -> None:
    shortest = min(length for name in sorted(zones.names()) for length in lives_of_offsets(name))
    assert shortest > zones.GRID


def lives_of_offsets(name: str) -> list[timedelta]:
    """How long each offset of a zone lasted, read from its file (RFC 8536, version 2)."""
    data = resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    is_ut, is_standard, leap, times, types, characters = struct.unpack(">6l", data[20:44])
    position = 44 + times * 5 + types * 6 + characters + leap * 8 + is_standard + is_ut
    _, _, _, times, types, _ = struct.unpack(">6l", data[position + 20 : position + 44])
    position += 44
    moments = struct.unpack(f">{times}q", data[position : position + 8 * times])
    kinds = data[position + 8 * times : position + 9 * times]
    position += 9 * times
    offsets = [struct.unpack(">l", data[position + 6 * kind : position + 6 * kind + 4])[0] for kind in range(types)]
    changes = [
        moment
        for moment, (before, kind) in zip(moments, zip([0, *kinds], kinds, strict=False), strict=False)
        if offsets[before] != offsets[kind]
    ]
    return [SECOND * (later - earlier) for earlier, later in pairwise(changes)]


def test_a_schedule_survives_the_way_to_another_process() -> None:
    schedule = cron("*/5 * * * *", "Europe/Berlin").bounded(utc("2026-01-01T00:00Z"), None)
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule
    assert copy.after(utc("2025-01-01T00:00Z")) == utc("2026-01-01T00:00Z")
