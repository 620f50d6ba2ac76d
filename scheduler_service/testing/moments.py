"""Moments and durations as a test writes them, and the clock of a simulation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from scheduler_service import schedule
from scheduler_service.clock import EPOCH
from scheduler_service.config import values

Moment = str | datetime  # "2026-03-29T02:30Z", or an aware datetime
Duration = str | timedelta  # "1h30m", as in a configuration

MILLISECOND = timedelta(milliseconds=1)
LONGEST_REST_SECONDS = 1.0


class SimulatedClock:
    """A clock that stands still until it is moved: the database's time and every replica's boot clock.

    It counts in milliseconds, as the database of a simulation does.
    """

    def __init__(self, now: datetime) -> None:
        self._now = up_to_millisecond(now)

    def now(self) -> datetime:
        """Return the moment at which it stands."""
        return self._now

    def monotonic(self) -> float:
        """Return the same in seconds."""
        return (self._now - EPOCH).total_seconds()

    def move_to(self, moment: datetime) -> None:
        """Move on to `moment`; never back."""
        self._now = max(self._now, up_to_millisecond(moment))


class WakingClock:
    """The boot clock of a leader that wakes only when something happens.

    From one such moment to the next at most LONGEST_REST_SECONDS pass on it: of what a leader does again and again
    by the clock, settling all jobs once a minute, only as much is left as befits the moments at which it was awake.
    """

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self._seen = clock.monotonic()
        self._passed = 0.0

    def monotonic(self) -> float:
        """Return seconds."""
        now = self._clock.monotonic()
        self._passed += min(now - self._seen, LONGEST_REST_SECONDS)
        self._seen = now
        return self._passed


def up_to_millisecond(moment: datetime) -> datetime:
    """Return the first whole millisecond that is not before `moment`."""
    return EPOCH + -(-(moment - EPOCH) // MILLISECOND) * MILLISECOND


def read_moment(value: Moment) -> datetime:
    """Return the moment in UTC; ValueError says what to write instead."""
    moment = values.moment(value) if isinstance(value, str) else value
    if moment.utcoffset() is None:
        shown = value if isinstance(value, str) else value.isoformat()
        raise ValueError(f"{shown!r} has no zone: write {shown}Z for UTC, or an offset such as {shown}+01:00")
    return moment.astimezone(UTC)


def read_duration(value: Duration) -> timedelta:
    """Return the duration; ValueError says what to write instead."""
    duration = values.duration(value) if isinstance(value, str) else value
    if duration < timedelta(0):
        raise ValueError(f"{duration} is negative: nothing lasts that long")
    return duration


def iso(moment: datetime) -> str:
    """Return a moment as it is written in tests and logs."""
    spec = "seconds" if moment.microsecond == 0 else "milliseconds" if moment.microsecond % 1000 == 0 else "auto"
    return moment.astimezone(UTC).isoformat(timespec=spec).replace("+00:00", "Z")


def with_local(moment: datetime, zone: str) -> str:
    """Return a moment, and what the clocks of `zone` show then."""
    if zone == "UTC":
        return iso(moment)
    local = moment.astimezone(schedule.zone(zone))
    return f"{iso(moment)} ({local:%a %H:%M:%S}{local:%z} {zone})"
