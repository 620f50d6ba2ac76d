"""How moments and spans of time are written and read: ISO 8601, in UTC where we write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from scheduler_service.schedule import ScheduleError, zone

FIRST_YEAR, LAST_YEAR = 1970, 2999
UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class MomentError(ValueError):
    """The text is no moment; the message says what to write."""


def iso(moment: datetime | None) -> str | None:
    """Return a moment as ISO 8601 in UTC with Z, as short as it can be said exactly."""
    if moment is None:
        return None
    spec = "seconds" if moment.microsecond == 0 else "milliseconds" if moment.microsecond % 1000 == 0 else "auto"
    return moment.astimezone(UTC).isoformat(timespec=spec).replace("+00:00", "Z")


def local(moment: datetime, timezone: str) -> str:
    """Return a moment as ISO 8601 in `timezone`, with its offset."""
    spec = "seconds" if moment.microsecond == 0 else "milliseconds" if moment.microsecond % 1000 == 0 else "auto"
    return moment.astimezone(zone(timezone)).isoformat(timespec=spec)


def span(seconds: float, gap: str = "") -> str:
    """Return a duration for people: 12ms, 3.4s, 5m 10s, 2h 5m, 3d 4h; below a minute with `gap` before the unit."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f}{gap}ms"
    if abs(seconds) < 60:
        return f"{seconds:.1f}{gap}s"
    left = round(abs(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return ("-" if seconds < 0 else "") + " ".join(part for part in parts[:2] if not part.startswith("0"))


def read_moment(text: str, timezone: str, now: datetime | None = None) -> datetime:
    """Return the moment that somebody wrote: ISO 8601, in `timezone` where it has no offset.

    With `now`, a duration such as 90m means that long ago.  Raises MomentError.
    """
    if now is not None and (seconds := _duration_seconds(text)) is not None:
        if seconds > (now - datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)).total_seconds():
            raise _out_of_range(text)
        return now - timedelta(seconds=seconds)
    try:
        written = datetime.fromisoformat(text.strip())
    except ValueError:
        hint = ", or how long ago, as in 90m" if now is not None else ""
        raise MomentError(f"{text!r} is not a time: write, for example, 2026-01-31T12:00:00Z{hint}") from None
    if written.tzinfo is None:
        try:
            written = written.replace(tzinfo=zone(timezone))
        except ScheduleError:  # a job's, that another replica's time zone data has
            raise MomentError(f"{text!r} has no offset, and the zone {timezone!r} is not known here: add Z") from None
    if not FIRST_YEAR <= written.year <= LAST_YEAR:
        raise _out_of_range(text)
    return written.astimezone(UTC)


def _out_of_range(text: str) -> MomentError:
    return MomentError(f"{text!r} is out of range: the years {FIRST_YEAR} to {LAST_YEAR} can be asked for")


def _duration_seconds(text: str) -> float | None:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[dhms])", text)
    if not parts or "".join(count + unit for count, unit in parts) != text.strip():
        return None
    return sum(float(count) * UNITS[unit] for count, unit in parts)
