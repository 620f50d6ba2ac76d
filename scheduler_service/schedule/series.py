"""The ticks of one kind of schedule: what falls after a moment, and what fell last.

Every series answers in aware UTC and purely: the set of its ticks is fixed, and where a question
starts never changes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Protocol

from cronsim import CronSim

from scheduler_service.clock import EPOCH
from scheduler_service.schedule.fields import Expression
from scheduler_service.schedule.zones import FIRST_YEAR, LAST_YEAR, Stretch, stretches

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
LONGEST_GAP = timedelta(hours=3)  # a longer one is a change of calendar, not of clocks: crontab(5) lets it pass
NEVER = datetime.max  # noqa: DTZ901  wall time is naive
AHEAD = 8  # ticks computed at once
MOST_AT_ONCE = 10_000  # looked back for in the first guess, lest it leave the calendar


class Series(Protocol):
    """The ticks of one schedule."""

    def __hash__(self) -> int:
        """Its answers are remembered."""

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick strictly after `moment`."""

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Yield the ticks strictly after `after`, oldest first."""

    def latest(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """Return the newest `count` ticks in (after, until], oldest first."""


@dataclass(frozen=True, slots=True)
class Moments:
    """No tick, or one."""

    moments: tuple[datetime, ...] = ()

    def after(self, moment: datetime) -> datetime | None:
        """Return the moment if it is later."""
        return next(self.ticks(moment), None)

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Yield the moment if it is later."""
        return (moment for moment in self.moments if moment > after)

    def latest(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """Return the moment if it lies there."""
        return [moment for moment in self.ticks(after) if moment <= until][:count]


@dataclass(frozen=True, slots=True)
class Interval:
    """Multiples of an interval since the Unix epoch, plus an offset; whole microseconds, so no drift."""

    interval: timedelta
    offset: timedelta

    def after(self, moment: datetime) -> datetime | None:
        """Return the next multiple."""
        return next(self.ticks(moment), None)

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Yield the multiples up to the end of the calendar."""
        try:
            tick = EPOCH + self.offset + self.interval * (self._number(after) + 1)
            while True:
                yield tick
                tick += self.interval
        except OverflowError:
            return

    def latest(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """Return the newest multiples, by arithmetic."""
        newest = self._number(until)
        oldest = max(self._number(after) + 1, newest - count + 1)
        return [EPOCH + self.offset + self.interval * number for number in range(oldest, newest + 1)]

    def _number(self, moment: datetime) -> int:
        """Count the multiples from the epoch up to and including `moment`."""
        return (moment - EPOCH - self.offset) // self.interval


class Walls:
    """cronsim over naive wall time, remembering the stretch that it found empty."""

    def __init__(self, cronsim: CronSim) -> None:
        self._cronsim = copy(cronsim)
        self._since = self._found = NEVER

    def first(self, wall: datetime) -> datetime:
        """Return the first matching wall time at or after `wall`; NEVER if none comes."""
        if not self._since <= wall <= self._found:
            self._cronsim.dt = wall - SECOND
            try:
                found = next(self._cronsim)
            except (StopIteration, OverflowError):
                found = NEVER
            self._since, self._found = wall, found
        return self._found

    def none_between(self, start: datetime, end: datetime) -> bool:
        """Whether it is already known that nothing matches from `start` to `end`."""
        return self._since <= start and end < self._found


class Cron:
    """A cron expression in a zone; the package's docstring has the rule.

    Any thread may ask.  What was computed ahead is kept as one immutable value.
    """

    def __init__(self, expression: Expression, zone: str) -> None:
        self.expression = expression
        self.zone = zone
        self._cronsim = expression.start(datetime(2000, 1, 1))  # noqa: DTZ001  wall time is naive
        self._known: tuple[datetime, list[datetime]] | None = None  # all ticks after the moment, up to the last here

    def after(self, moment: datetime) -> datetime | None:
        """Return the next tick."""
        known = self._known
        if known is None or not known[0] <= moment < known[1][-1]:
            ticks = list(islice(self._compute(moment), AHEAD))
            if not ticks:
                return None
            self._known = known = moment, ticks
        return known[1][bisect_right(known[1], moment)]

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Yield what is known already, and compute the rest."""
        known = self._known
        if known is not None and known[0] <= after < known[1][-1]:
            yield from known[1][bisect_right(known[1], after) :]
            after = known[1][-1]
        yield from self._compute(after)

    def _compute(self, after: datetime) -> Iterator[datetime]:
        """Yield the ticks one stretch of constant offset after the other."""
        first = _january(FIRST_YEAR)
        since = max(after.replace(tzinfo=None, microsecond=0) + SECOND, first) if after.year <= LAST_YEAR else NEVER
        walls = Walls(self._cronsim)
        for year in range(since.year, LAST_YEAR + 1):
            if walls.none_between(_january(year) - timedelta(days=2), _january(year + 1) + timedelta(days=2)):
                continue
            for stretch in stretches(self.zone, year):
                if stretch.end <= since:
                    continue
                for tick in self._within(stretch, max(since, stretch.start), walls):
                    yield tick.replace(tzinfo=UTC)
                    since = tick + SECOND
            if walls.first(_january(year + 1)) is NEVER:
                return

    def _within(self, stretch: Stretch, since: datetime, walls: Walls) -> Iterator[datetime]:
        """Yield the ticks of one stretch from `since` on, in naive UTC."""
        offset = stretch.offset
        end = stretch.end + offset
        wall = since + offset
        if not self.expression.follows_real_time:
            if since == stretch.start and self._made_up(stretch, walls):
                yield since
                wall += SECOND
            # A doubled time was a tick when the clock showed it first.
            wall = max(wall, stretch.shown)
        while (wall := walls.first(wall)) < end:
            yield wall - offset
            wall += SECOND

    def _made_up(self, stretch: Stretch, walls: Walls) -> bool:
        """Whether the stretch begins with a tick for what fell into the gap before it."""
        missing, begin = stretch.shown, stretch.start + stretch.offset
        if not missing < begin <= missing + LONGEST_GAP or walls.first(missing) >= begin:
            return False
        # With a seconds field a job that ticks anyway within the length of the gap needs no substitute.
        return not self.expression.has_seconds or walls.first(begin) >= begin + (begin - missing)

    def latest(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """Look back over stretches that grow until enough is found, and shrink where that was far too much.

        The first guess makes it faster or slower; it changes nothing in the answer.
        """
        most = count + 256
        span = timedelta(seconds=max(64, count))
        if self._known is not None:  # most likely they are as far from each other as those to come
            since, ticks = self._known
            span = max(span, (min(count, MOST_AT_ONCE) + 1) * (ticks[-1] - since) / len(ticks))
        few, many = until, None  # from `few` on there are too few ticks, from `many` on too many
        start = max(after, _back(until, span))
        while True:
            ticks = list(islice(takewhile(lambda tick: tick <= until, self.ticks(start)), most + 1))
            if len(ticks) > most:
                many = start
            elif len(ticks) >= count or start <= after:
                return ticks[-count:]
            else:
                few = start
            if many is not None:
                start = many + (few - many) / 2
            else:
                span *= 4
                start = max(after, _back(until, span))


def _back(moment: datetime, span: timedelta) -> datetime:
    try:
        return moment - span
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _january(year: int) -> datetime:
    return datetime(year, 1, 1)  # noqa: DTZ001  naive UTC
