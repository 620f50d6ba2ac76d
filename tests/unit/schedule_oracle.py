"""The rule of cron schedules once more, as slowly and plainly as it can be written.

It shares no code with `scheduler_service.schedule`: its own reader of fields, its own calendar, no
cronsim.  It walks real time moment by moment, looks at what the wall clock of the zone shows, and asks
whether a job is due:

- `*` at the start of minute or hour: due whenever the clock shows a matching time.
- otherwise: due when the clock shows a matching time for the first time; and when the clock has just
  jumped over at least one matching time, by three hours at most.  With a seconds field only if no
  matching time follows within as long again as the jump.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


class Oracle:
    def __init__(self, expression: str, zone: str) -> None:
        fields = expression.lower().split()
        self.with_seconds = len(fields) == 6
        self.step = timedelta(seconds=1 if self.with_seconds else 60)
        if not self.with_seconds:
            fields = ["0", *fields]
        second, minute, hour, day, month, weekday = fields
        self.zone = zone
        self.seconds = numbers(second, 0, 59)
        self.minutes = numbers(minute, 0, 59)
        self.hours = numbers(hour, 0, 23)
        self.months = numbers(month, 1, 12, MONTHS)
        self.day, self.weekday = day, weekday
        self.real_time = minute[0] == "*" or hour[0] == "*"

    def ticks(self, start: datetime, end: datetime) -> list[datetime]:
        """All ticks with start <= tick < end; both are whole minutes of UTC."""
        return [moment for moment, before, now in clock(self.zone, start, end, self.step) if self.due(before, now)]

    def due(self, before: datetime, now: datetime) -> bool:
        if self.real_time:
            return self.matches(now)
        if now.fold == 0 and self.matches(now):
            return True
        jump = now.replace(tzinfo=None) - before.replace(tzinfo=None) - self.step
        if not timedelta(0) < jump <= timedelta(hours=3):
            return False
        if not any(self.matches(now - ago) for ago in steps(self.step, jump)):
            return False
        return not self.with_seconds or not any(self.matches(now + jump - ago) for ago in steps(self.step, jump))

    def matches(self, wall: datetime) -> bool:
        return (
            wall.second in self.seconds
            and wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.month in self.months
            and day_matches(self.day, self.weekday, wall.year, wall.month, wall.day)
        )


def steps(step: timedelta, length: timedelta) -> Iterator[timedelta]:
    return (step * count for count in range(1, length // step + 1))


@cache
def clock(zone: str, start: datetime, end: datetime, step: timedelta) -> list[tuple[datetime, datetime, datetime]]:
    """What the wall clock shows: (moment, one step earlier, now)."""
    count = (end - start) // step
    moments = [start + step * number for number in range(-1, count)]
    walls = [moment.astimezone(ZoneInfo(zone)) for moment in moments]
    return list(zip(moments[1:], walls, walls[1:], strict=False))


@cache
def day_matches(day: str, weekday: str, year: int, month: int, number: int) -> bool:
    in_month = any(is_day(item, year, month, number) for item in day.split(","))
    in_week = any(is_weekday(item, year, month, number) for item in weekday.split(","))
    return (in_month and in_week) if day[0] == "*" or weekday[0] == "*" else (in_month or in_week)


def is_day(item: str, year: int, month: int, number: int) -> bool:
    last = calendar.monthrange(year, month)[1]
    if item == "l":
        return number == last
    if item == "lw":
        return number == max(d for d in range(1, last + 1) if calendar.weekday(year, month, d) < 5)
    return number in numbers(item, 1, 31)


def is_weekday(item: str, year: int, month: int, number: int) -> bool:
    last = calendar.monthrange(year, month)[1]
    today = (calendar.weekday(year, month, number) + 1) % 7
    if item.endswith("l"):
        return today == int(item[0]) % 7 and number + 7 > last
    if "#" in item:
        name, nth = item.split("#")
        alike = [d for d in range(1, last + 1) if (calendar.weekday(year, month, d) + 1) % 7 == today]
        return today in [value % 7 for value in numbers(name, 0, 7, DAYS)] and alike.index(number) + 1 == int(nth)
    return today in [value % 7 for value in numbers(item, 0, 7, DAYS)]


def numbers(text: str, low: int, high: int, names: list[str] | None = None) -> set[int]:
    found: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if first == "*":
            start, end = low, high
        else:
            start = number(first, low, names)
            end = number(last, low, names) if last else high if step else start
            if last == "sun" and start > 0:
                end = 7
        found |= set(range(start, end + 1, int(step or 1)))
    return found


def number(text: str, low: int, names: list[str] | None) -> int:
    return names.index(text) + low if names and text in names else int(text)


def after(ticks: list[datetime], moment: datetime) -> datetime | None:
    return next((tick for tick in ticks if tick > moment), None)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
