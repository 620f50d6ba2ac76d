"""The value that the rest of the service handles: a schedule, whatever its kind."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile

from scheduler_service.schedule import fields
from scheduler_service.schedule.errors import ScheduleError
from scheduler_service.schedule.series import MICROSECOND, Cron, Interval, Moments, Series
from scheduler_service.schedule.zones import zone

LEAST_INTERVAL = timedelta(milliseconds=1)  # a decision takes longer in any database: faster jobs could never keep up
SHARED = 1024  # schedules that are remembered, so that equal ones share what they computed
ANSWERS = 1024  # that are remembered, because equal jobs that are settled together ask the same,
FEW = 16  # where they are no longer than that
UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": timedelta(microseconds=1),
}
NAMES = {"d": "day", "h": "hour", "m": "minute", "s": "second", "ms": "millisecond", "us": "microsecond"}


class Schedule:
    """Ticks: a pure function of what was written, the same on every replica (I8).

    Made by `cron`, `every`, `at`, `manual` or `parse`, and never changed.  Moments are aware; ticks come
    back in UTC.  Equal by `canonical` and `timezone`.
    """

    # Not a dataclass: pydantic would take it apart and build it anew.
    __slots__ = ("_canonical", "_ends_at", "_series", "_starts_at", "_timezone")

    def __init__(
        self,
        canonical: str,
        timezone: str,
        series: Series,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
    ) -> None:
        self._canonical = canonical
        self._timezone = timezone
        self._series = series
        self._starts_at = starts_at
        self._ends_at = ends_at

    @property
    def canonical(self) -> str:
        """The schedule in one line, of which `parse` makes an equal one."""
        return self._canonical

    @property
    def timezone(self) -> str:
        """The zone of a cron expression; UTC for the rest."""
        return self._timezone

    @property
    def has_zone(self) -> bool:
        """Whether `timezone` decides when it ticks."""
        return isinstance(self._series, Cron)

    @property
    def starts_at(self) -> datetime | None:
        """No tick is earlier."""
        return self._starts_at

    @property
    def ends_at(self) -> datetime | None:
        """No tick is later."""
        return self._ends_at

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick strictly later than `moment`, or None if none comes."""
        tick = self._series.after(self._from(moment))
        return tick if tick is not None and (self._ends_at is None or tick <= self._ends_at) else None

    def between(self, after: datetime, until: datetime, limit: int | None = None) -> list[datetime]:
        """Return the ticks with after < tick ≤ until, oldest first; at most `limit`, the oldest of them."""
        after, until = self._from(after), self._to(until)
        ask = _between if limit is None or limit > FEW else _few_between
        return list(ask(self._series, after, until, limit))

    def latest(self, after: datetime, until: datetime, count: int = 1) -> list[datetime]:
        """Return the newest `count` ticks with after < tick ≤ until, oldest first."""
        after, until = self._from(after), self._to(until)
        if count <= 0 or after >= until:
            return []
        return list((_latest if count > FEW else _few_latest)(self._series, after, until, count))

    def bounded(self, starts_at: datetime | None, ends_at: datetime | None) -> Schedule:
        """Return the schedule with only the ticks from `starts_at` to `ends_at`, both included."""
        starts_at = max((_utc(m, "starts_at") for m in (self._starts_at, starts_at) if m is not None), default=None)
        ends_at = min((_utc(m, "ends_at") for m in (self._ends_at, ends_at) if m is not None), default=None)
        if starts_at is not None and ends_at is not None and ends_at < starts_at:
            raise ScheduleError(f"ends_at {_iso(ends_at)} is before starts_at {_iso(starts_at)}: exchange them")
        canonical = self.canonical.partition(" until ")[0].partition(" from ")[0]
        canonical += f" from {_iso(starts_at)}" if starts_at is not None else ""
        canonical += f" until {_iso(ends_at)}" if ends_at is not None else ""
        return Schedule(canonical, self.timezone, self._series, starts_at, ends_at)

    def explain(self) -> str:
        """Say in words when it ticks."""
        match self._series:
            case Cron() as cron_series:
                text = f"{cron_series.expression.explain()}, {self.timezone} time"
            case Interval(interval, offset):
                words = _in_words(interval)
                text = f"Every {words if ' and ' in words else words.removeprefix('1 ')}"
                text += f", {_in_words(offset)} later" if offset else ""
            case Moments((moment,)):
                text = f"Once, at {_iso(moment)}"
            case _:
                text = "Only when asked for"
        text += f", from {_iso(self._starts_at)}" if self._starts_at is not None else ""
        return text + (f", until {_iso(self._ends_at)}" if self._ends_at is not None else "")

    def _from(self, moment: datetime) -> datetime:
        moment = _aware(moment)
        return moment if self._starts_at is None else max(moment, self._starts_at - MICROSECOND)

    def _to(self, moment: datetime) -> datetime:
        moment = _aware(moment)
        return moment if self._ends_at is None else min(moment, self._ends_at)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return (self.canonical, self.timezone) == (other.canonical, other.timezone)

    def __hash__(self) -> int:
        return hash((self.canonical, self.timezone))

    def __str__(self) -> str:
        return self.canonical

    def __repr__(self) -> str:
        return f"<Schedule {self.canonical!r} {self.timezone}>"

    def __reduce__(self) -> tuple[object, ...]:
        return parse, (self.canonical, self.timezone)


def _between(series: Series, after: datetime, until: datetime, limit: int | None) -> tuple[datetime, ...]:
    return tuple(islice(takewhile(lambda tick: tick <= until, series.ticks(after)), limit))


def _latest(series: Series, after: datetime, until: datetime, count: int) -> tuple[datetime, ...]:
    return tuple(series.latest(after, until, count))


_few_between, _few_latest = lru_cache(ANSWERS)(_between), lru_cache(ANSWERS)(_latest)


def cron(expression: str, timezone: str = "UTC") -> Schedule:
    """Return the schedule of a crontab(5) expression, five fields or six with seconds first."""
    return _cron(fields.read(expression), timezone)


@lru_cache(SHARED)
def _cron(expression: fields.Expression, timezone: str) -> Schedule:
    return Schedule(expression.text, zone(timezone).key, Cron(expression, timezone))


def every(interval: timedelta, offset: timedelta = timedelta(0)) -> Schedule:
    """Return the multiples of `interval` since the Unix epoch, `offset` later; offset < interval."""
    if interval < LEAST_INTERVAL:
        raise ScheduleError(f"an interval of {_duration(interval)} is too short: write 1ms or more")
    if not timedelta(0) <= offset < interval:
        raise ScheduleError(
            f"an offset of {_duration(offset)} does not lie within the interval: "
            f"write 0s or more and less than {_duration(interval)}"
        )
    canonical = f"every {_duration(interval)}" + (f" offset {_duration(offset)}" if offset else "")
    return Schedule(canonical, "UTC", Interval(interval, offset))


def at(moment: datetime) -> Schedule:
    """Return the schedule of one tick."""
    moment = _utc(moment, "at")
    return Schedule(f"at {_iso(moment)}", "UTC", Moments((moment,)))


def manual() -> Schedule:
    """Return the schedule without ticks."""
    return Schedule("manual", "UTC", Moments())


@lru_cache(SHARED)
def parse(canonical: str, timezone: str) -> Schedule:
    """Return the schedule whose `canonical` and `timezone` these are."""
    text, _, ends_at = canonical.partition(" until ")
    text, _, starts_at = text.partition(" from ")
    kind, _, rest = text.partition(" ")
    if kind == "every":
        interval, _, offset = rest.partition(" offset ")
        schedule = every(_timedelta(interval), _timedelta(offset or "0s"))
    elif kind == "at":
        schedule = at(_moment(rest))
    elif kind == "manual":
        schedule = manual()
    else:
        schedule = cron(text, timezone)
    if not starts_at and not ends_at:
        return schedule
    return schedule.bounded(_moment(starts_at) if starts_at else None, _moment(ends_at) if ends_at else None)


def _duration(duration: timedelta) -> str:
    if duration < timedelta(0):
        return f"-{_duration(-duration)}"
    text = ""
    for unit, length in UNITS.items():
        count, duration = divmod(duration, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _in_words(duration: timedelta) -> str:
    parts = []
    for unit, length in UNITS.items():
        count, duration = divmod(duration, length)
        if count:
            parts.append(f"{count} {NAMES[unit]}{'s' if count > 1 else ''}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _timedelta(text: str) -> timedelta:
    parts = re.findall(r"(\d+)([a-z]+)", text)
    if not parts or "".join(f"{count}{unit}" for count, unit in parts) != text or any(u not in UNITS for _, u in parts):
        raise ScheduleError(f"'{text}' is not a duration: write, for example, 1h30m or 250ms")
    return sum((int(count) * UNITS[unit] for count, unit in parts), timedelta(0))


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ScheduleError(f"'{text}' is not a time: write, for example, 2026-01-31T12:00:00Z") from None


def _utc(moment: datetime, name: str) -> datetime:
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ScheduleError(f"{name} {moment.isoformat()} has no zone: write {moment.isoformat()}Z for UTC, or +01:00")
    return moment.astimezone(UTC)


def _aware(moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise ValueError(f"moments are aware, got {moment!r}")
    return moment.astimezone(UTC)


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
