"""Time zones from the tzdata package, cut into stretches of constant offset.

The host's zone files are never read: replicas on different hosts must agree on every tick (I8).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from zoneinfo import ZoneInfo

from scheduler_service.schedule.errors import ScheduleError

FIRST_YEAR, LAST_YEAR = 2, 9998  # a day of room on both sides for zones
GRID = timedelta(days=3)  # no zone ever kept an offset for less than six days; a test watches this
LONGEST_STEP_BACK = timedelta(days=3)  # no clock was ever set back by more than one


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time during which a zone keeps one offset.  Everything is naive: UTC, or wall time where said."""

    start: datetime
    end: datetime  # not part of it
    offset: timedelta  # what to add to UTC for wall time
    shown: datetime  # the latest wall time that the clock had come to before `start`


@lru_cache(maxsize=1)
def names() -> frozenset[str]:
    """Return the names of all zones."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("ascii").split())


@lru_cache(maxsize=700)
def zone(name: str) -> ZoneInfo:
    """Return the zone called `name`; ScheduleError with close matches if there is none."""
    if name not in names():
        raise ScheduleError(f"timezone {name!r} is not known; {_hint(str(name))}")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _hint(name: str) -> str:
    wanted = name.strip().replace(" ", "_").casefold()
    folded = {known.casefold(): known for known in names()}
    cities = {known.rsplit("/", 1)[-1]: folded[known] for known in sorted(folded, reverse=True)}
    if wanted in ("local", "localtime", "system"):
        return "the host's zone is never used: write its name, such as 'Europe/Berlin'"
    if wanted in folded:
        return f"did you mean '{folded[wanted]}'?"
    if re.fullmatch(r"(utc|gmt)?[+-]?\d[\d:]*", wanted) or (len(wanted) in (3, 4) and wanted not in cities):
        return "an offset or its short name knows no change of clocks: write a place such as 'Europe/Berlin', or 'UTC'"
    if wanted in cities:
        return f"did you mean '{cities[wanted]}'?"
    close = [folded[match] for match in difflib.get_close_matches(wanted, folded, n=3, cutoff=0.75)]
    close += [cities[match] for match in difflib.get_close_matches(wanted, cities, n=3, cutoff=0.75)]
    if not close:
        return "write a place such as 'Europe/Berlin', or 'UTC'"
    return "did you mean " + " or ".join(f"'{known}'" for known in dict.fromkeys(close)) + "?"


@lru_cache(maxsize=4096)
def stretches(name: str, year: int) -> tuple[Stretch, ...]:
    """Return the stretches that make up one year of UTC; they are cut at its ends."""
    start, end = _january(year), _january(year + 1)
    before = start - LONGEST_STEP_BACK
    found: list[Stretch] = []
    shown = datetime.min  # noqa: DTZ901  wall time is naive
    changes = [*_changes(zone(name), before, end), (end, timedelta(0))]
    for (since, offset), (until, _) in pairwise(changes):
        if since <= start < until:
            found.append(Stretch(start, until, offset, max(shown, start + offset) if since < start else shown))
        elif since > start:
            found.append(Stretch(since, until, offset, shown))
        shown = until + offset
    return tuple(found)


def _january(year: int) -> datetime:
    return datetime(year, 1, 1)  # noqa: DTZ001  naive UTC


def _changes(zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[tuple[datetime, timedelta]]:
    """Yield where each new offset begins, `start` with its own first."""
    offset = _offset(zone, start)
    yield start, offset
    while start < end:
        following = min(start + GRID, end)
        if _offset(zone, following) != offset:
            low, high = start, following
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) // 2
                middle = middle.replace(microsecond=0)
                if _offset(zone, middle) == offset:
                    low = middle
                else:
                    high = middle
            offset = _offset(zone, high)
            if high < end:
                yield high, offset
        start = following


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return zone.fromutc(moment.replace(tzinfo=zone)).replace(tzinfo=None) - moment
