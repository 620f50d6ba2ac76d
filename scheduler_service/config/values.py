"""Durations, sizes and moments as a person writes them: text → value, and back for messages."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
LONGEST = timedelta(days=36_500)
DURATION_PATTERN = r"(?=\d)(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?"
SIZE_PATTERN = r"\d+(B|KiB|MiB)"
MOMENT_PATTERN = r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?\s?(Z|[+-]\d{2}:\d{2})?"
_SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2}
_OTHER_UNITS = {  # what people write → what it is here, as a number of one of our units
    "w": (7, "d"),
    "week": (7, "d"),
    "day": (1, "d"),
    "hr": (1, "h"),
    "hour": (1, "h"),
    "min": (1, "m"),
    "minute": (1, "m"),
    "sec": (1, "s"),
    "second": (1, "s"),
    "msec": (1, "ms"),
    "millisecond": (1, "ms"),
}
_OTHER_SIZES = {"": "B", "k": "KiB", "kb": "KiB", "kib": "KiB", "m": "MiB", "mb": "MiB", "mib": "MiB", "b": "B"}


class WrongValueError(ValueError):
    """What is wrong with a value and what to write instead."""


def duration(text: str) -> timedelta:
    """Return the duration that `text` means, such as 250ms, 30s, 5m, 1h30m or 2d."""
    if not re.fullmatch(DURATION_PATTERN, text, re.ASCII):
        raise WrongValueError(_not_a_duration(text))
    parts = re.findall(r"(\d+)([a-z]+)", text)
    try:
        found = sum((int(count) * UNITS[unit] for count, unit in parts), timedelta(0))
    except (OverflowError, ValueError):
        found = timedelta.max
    if found > LONGEST:
        raise WrongValueError(f"{text[:40]!r} is longer than {LONGEST.days}d, the longest there is")
    return found


def duration_text(value: timedelta) -> str:
    """Return how to write `value`; part of a millisecond is rounded up."""
    value = -(-value // UNITS["ms"]) * UNITS["ms"]
    text = ""
    for unit, length in UNITS.items():
        count, value = divmod(value, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _not_a_duration(text: str) -> str:
    shown = repr(text if len(text) <= 40 else text[:40] + "…")
    if re.fullmatch(r"\d{1,9}(\.\d{1,3})?", text):
        seconds = duration_text(timedelta(seconds=float(text))) if "." in text else f"{int(text)}s"
        return f"{shown} has no unit; write {seconds} if seconds are meant, or for example 5m, 1h30m"
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([A-Za-z]+?)s?", text) or re.fullmatch(
        r"(\d{1,6}(?:\.\d{1,3})?)\s*([A-Za-z]+)", text
    )
    if found:
        unit = found[2].lower()
        factor, unit = (1, unit) if unit in UNITS else _OTHER_UNITS.get(unit, (0, ""))
        if factor:
            return f"{shown} is not a duration; write {duration_text(float(found[1]) * factor * UNITS[unit])}"
    return f"{shown} is not a duration; write, for example, 250ms, 30s, 5m, 1h30m or 2d, the largest unit first"


def size(text: str) -> int:
    """Return the bytes that `text` means, such as 64KiB."""
    if re.fullmatch(SIZE_PATTERN, text, re.ASCII) and len(text) <= 20:
        digits = text.rstrip("BKiM")
        return int(digits) * _SIZES[text[len(digits) :]]
    found = re.fullmatch(r"(\d{1,12})\s*([A-Za-z]*)", text)
    shown = repr(text if len(text) <= 40 else text[:40] + "…")
    unit = _OTHER_SIZES.get(found[2].lower()) if found else None
    better = f"{found[1]}{unit}" if found and unit else "for example, 512B, 64KiB or 1MiB"
    raise WrongValueError(f"{shown} is not a size; write {better}")


def size_text(value: int) -> str:
    """Return how to write a number of bytes."""
    for unit in ("MiB", "KiB"):
        if value and value % _SIZES[unit] == 0:
            return f"{value // _SIZES[unit]}{unit}"
    return f"{value}B"


def moment(text: str) -> datetime:
    """Return the moment that `text` means; without zone where it has none."""
    if not re.fullmatch(MOMENT_PATTERN, text, re.ASCII):
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            raise WrongValueError(f"{text!r} has no time; write {text}T00:00, with Z or +01:00 after it if you like")
        shown = repr(text if len(text) <= 40 else text[:40] + "…")
        raise WrongValueError(f"{shown} is not a moment; write, for example, 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(re.sub(r"\s(?=Z|[+-]\d\d:\d\d$)", "", text))
    except ValueError as error:
        raise WrongValueError(f"{text!r} is not a moment: {error}") from None


def in_zone(value: datetime, zone: ZoneInfo) -> datetime:
    """Return `value` in UTC, read in `zone` where it has none; WrongValueError if clocks skip or repeat it."""
    try:
        if value.utcoffset() is not None:
            return value.astimezone(UTC)
        first, second = (value.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
        if first.utcoffset() == second.utcoffset():
            return first.astimezone(UTC)
        shown = value.isoformat()
        if first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != value:
            raise WrongValueError(f"{shown} does not exist in {zone.key}, where the clocks go forward then")
        offsets = " or ".join(f"{shown}{moment.isoformat()[-6:]}" for moment in (first, second))
        raise WrongValueError(f"{shown} comes twice in {zone.key}, where the clocks go back then; write {offsets}")
    except OverflowError:
        raise WrongValueError(f"{value.isoformat()} is too far away") from None
