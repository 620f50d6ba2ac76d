"""The database's time, learnt from its answers."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from freezegun import freeze_time

from scheduler_service.clock import BootClock, DatabaseTime

NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class StillClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def database_time(clock: StillClock) -> DatabaseTime:
    return DatabaseTime(clock)


def test_nothing_is_known_before_the_first_answer(database_time: DatabaseTime) -> None:
    assert not database_time.known
    with pytest.raises(RuntimeError, match="has not told"):
        database_time.now()


def test_the_time_goes_on_with_the_boot_clock(clock: StillClock, database_time: DatabaseTime) -> None:
    database_time.observe(100.0, 100.0, NOON)
    clock.now += 5
    assert database_time.now() == NOON + timedelta(seconds=5)


def test_a_quick_answer_sharpens_what_a_slow_one_told(clock: StillClock, database_time: DatabaseTime) -> None:
    database_time.observe(98.0, 100.0, NOON)
    assert abs(database_time.now() - NOON) <= timedelta(seconds=1)
    clock.now = 101.0
    database_time.observe(100.99, 101.0, NOON + timedelta(seconds=1.5))
    assert abs(database_time.now() - (NOON + timedelta(seconds=1.5))) <= timedelta(milliseconds=10)
    clock.now = 104.0
    database_time.observe(101.0, 104.0, NOON + timedelta(seconds=2.5))
    assert abs(database_time.now() - (NOON + timedelta(seconds=4.5))) <= timedelta(milliseconds=15), (
        "a slow one blurs nothing"
    )


@pytest.mark.parametrize("step", [-HOUR, HOUR, timedelta(seconds=1.1)])
def test_a_step_of_the_databases_clock_is_followed(
    clock: StillClock, database_time: DatabaseTime, step: timedelta
) -> None:
    assert database_time.observe(99.99, 100.0, NOON) == 0.0, "there was nothing before it"
    clock.now = 103.0
    stepped = database_time.observe(102.99, 103.0, NOON + timedelta(seconds=3) + step)
    assert stepped == pytest.approx(step.total_seconds(), abs=0.03)
    assert abs(database_time.now() - (NOON + timedelta(seconds=3) + step)) <= timedelta(milliseconds=10)


@pytest.mark.parametrize("apart", [-0.5, 0.5])
def test_a_clock_that_is_steered_is_followed_and_does_not_count_as_stepped(
    clock: StillClock, database_time: DatabaseTime, apart: float
) -> None:
    told = NOON
    for _ in range(5):
        assert database_time.observe(clock.now, clock.now, told) == 0.0
        assert database_time.now() == told
        clock.now += 3.0
        told += timedelta(seconds=3.0 + apart)


def test_a_slow_answer_is_no_step(clock: StillClock, database_time: DatabaseTime) -> None:
    database_time.observe(99.99, 100.0, NOON)
    clock.now = 160.0
    assert database_time.observe(100.0, 160.0, NOON + timedelta(seconds=1)) == 0.0


@pytest.mark.parametrize("wrong", [-HOUR, HOUR])
def test_a_wrong_wall_clock_is_measured_and_believed_in_nothing(
    clock: StillClock, database_time: DatabaseTime, wrong: timedelta
) -> None:
    database_time.observe(100.0, 100.0, NOON)
    with freeze_time(NOON + wrong):
        assert database_time.ahead_of_wall() == -wrong
        assert database_time.now() == NOON


def test_the_boot_clock_only_goes_forward() -> None:
    clock = BootClock()
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)


def test_the_boot_clock_counts_suspended_time_and_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is suspended for this: which of the system's clocks is asked must say it."""
    suspended = {getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC): 5000.0}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: suspended.get(clock, 300.0))
    assert BootClock().monotonic() == 5000.0
