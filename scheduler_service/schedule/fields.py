"""Read a cron expression field by field, and say which value in which field is wrong.

cronsim is the judge of what an expression means, but it says "Bad minute".  Everything that a person
may get wrong is therefore found here first and answered with what to write instead.  What passes is
handed on in the few places where cronsim and crontab(5) part:

    @daily      0 0 * * *      macros are ours to expand
    FRI-SUN     5-7            Sunday at the end of a range is the 7
    30-30/10    30             a range of one value stays one value; cronsim would go on to the end
"""

from __future__ import annotations

import difflib
import re
import string
from dataclasses import dataclass
from datetime import datetime

from cronsim import CronSim, CronSimError

from scheduler_service.schedule.errors import ScheduleError

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
LONGEST = 1000  # characters; every second, minute and hour written out takes less
DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its name, its least and greatest value, and the names that its values have."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # names[0] is the name of `low`
    unit: str = ""  # the unit of `every:` that a too large step asks for

    @property
    def size(self) -> int:
        """How many different values there are; Sunday is one, be it 0 or 7."""
        return len(self.names) or self.high - self.low + 1

    def label(self, value: int) -> str:
        """Write a value as a person would."""
        return self.names[(value - self.low) % self.size] if self.names else str(value)


MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
DAY = Field("day of month", 1, 31, unit="d")
MONTH = Field("month", 1, 12, MONTHS)
WEEKDAY = Field("day of week", 0, 7, DAYS)
FIELDS = (
    Field("second", 0, 59, unit="s"),
    Field("minute", 0, 59, unit="m"),
    Field("hour", 0, 23, unit="h"),
    DAY,
    MONTH,
    WEEKDAY,
)


@dataclass(frozen=True, slots=True)
class Expression:
    """A cron expression that was found right."""

    text: str  # as written, but macros expanded, capitals, one space between fields
    cronsim: str  # the same for cronsim
    follows_real_time: bool  # `*` starts the minute or the hour field: see the package's docstring
    has_seconds: bool

    def start(self, wall: datetime) -> CronSim:
        """Return cronsim's iterator over naive wall time, strictly after `wall`."""
        return CronSim(self.cronsim, wall)

    def explain(self) -> str:
        """Say it in words."""
        return str(CronSim(self.cronsim, datetime(2000, 1, 1)).explain())  # noqa: DTZ001  wall time is naive


def read(expression: str) -> Expression:
    """Check `expression`; ScheduleError names every field that is wrong."""
    if not isinstance(expression, str):
        raise ScheduleError(f"{expression!r} is not a cron expression: put it in quotes, such as '*/5 * * * *'")
    if len(expression) > LONGEST:
        raise ScheduleError(f"the expression is {len(expression)} characters long; {LONGEST} are the most")
    parts = [part for part in _split(_expanded(expression)) if part]
    _check_count(parts)
    problems: list[str] = []
    plain: list[str] = []
    for field, part in zip(FIELDS[-len(parts) :], parts, strict=True):
        try:
            plain.append(_check_field(field, part))
        except ScheduleError as error:
            problems.append(str(error))
    if problems:
        raise ScheduleError("; ".join(problems))
    minute, hour = parts[-5:-3]
    found = Expression(
        text=" ".join(parts),
        cronsim=" ".join(plain),
        follows_real_time=minute.startswith("*") or hour.startswith("*"),
        has_seconds=len(parts) == 6,
    )
    _check_comes(found, plain)
    return found


def _split(text: str) -> list[str]:
    # Not str.split(): a no-break space from a web page must be shown, not taken for a space.
    for blank in string.whitespace:
        text = text.replace(blank, " ")
    return text.strip(" ").split(" ")


def _expanded(expression: str) -> str:
    text = expression.strip(string.whitespace)
    if not text:
        raise ScheduleError("the expression is empty: write five fields, such as '*/5 * * * *'")
    if text.upper().startswith(("CRON_TZ=", "TZ=")):
        zone = text.split("=", 1)[1].split(" ")[0]
        raise ScheduleError(f"a zone does not go into the expression: write timezone: {zone}")
    if not text.startswith("@"):
        return text.upper() if text.isascii() else text
    word = text.lower()
    if word in MACROS:
        return MACROS[word]
    if word == "@reboot":
        raise ScheduleError(
            "'@reboot' is not a time, and replicas start at different ones: write a time, every: or manual: true"
        )
    if word.startswith("@every"):
        interval = word.removeprefix("@every").strip() or "5m"
        raise ScheduleError(f"{_shown(text)} is not a cron expression: write every: {interval}")
    close = difflib.get_close_matches(word, MACROS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {' '.join(MACROS)}"
    raise ScheduleError(f"{_shown(text)} is not known; {hint}")


def _check_count(parts: list[str]) -> None:
    if len(parts) in (5, 6):
        return
    if odd := [character for part in parts for character in part if not character.isascii()]:
        raise ScheduleError(f"the expression contains {odd[0]!a}, which is not plain ASCII: type it anew")
    names = "minute, hour, day of month, month, day of week"
    if len(parts) == 7:
        raise ScheduleError(
            "the expression has 7 fields, and a year cannot be given: "
            f"write five ({names}), or six with seconds first; starts_at and ends_at limit the years"
        )
    fields = "1 field" if len(parts) == 1 else f"{len(parts)} fields"
    command = "; a command goes into command:" if len(parts) > 7 else ""
    raise ScheduleError(f"the expression has {fields}: write five ({names}), or six with seconds first{command}")


def _check_field(field: Field, text: str) -> str:
    """Return the field for cronsim."""
    if not text.isascii():
        odd = next(character for character in text if not character.isascii())
        raise _wrong(field, text, f"contains {odd!a}, which is not plain ASCII: type it anew")
    items = text.split(",")
    if "" in items:
        raise _wrong(field, text, "has an empty place in its list: write one comma between two values, and no space")
    return ",".join(_check_item(field, item) for item in items)


def _check_item(field: Field, item: str) -> str:
    base, slash, step_text = item.partition("/")
    special = _special(field, item)
    if special is not None:
        return special
    if slash and not base:
        raise (
            _wrong(field, item, f"has nothing before its step: write '*{item}'")
            if _is_number(step_text)
            else _no_value(field, item)
        )
    if base != "*" and "*" in base:
        raise _wrong(field, item, "mixes '*' with a value: write one of the two")
    step = _check_step(field, item, step_text) if slash else 1
    if base == "*":
        return item
    start_text, dash, end_text = base.partition("-")
    if dash and start_text and "-" in end_text[1:]:
        raise _wrong(field, item, "has more than one '-': write one range, or several with ',' between them")
    if dash and start_text and end_text:
        start = _value(field, start_text)
        end = _value(field, end_text)
        if field is WEEKDAY and end_text == "SUN" and start > 0:
            end = 7
        if end < start:
            raise _wrong(field, item, f"ends before it starts: write '{_turned(field, start, end)}'")
        if start == end:
            return str(start)
        return f"{start}-{end}" + (f"/{step}" if slash else "")
    if dash and start_text:
        raise _wrong(field, item, f"has no end: write '{base}{field.label(field.high)}'")
    value = _value(field, base)
    return f"{value}/{step}" if slash else str(value)


def _special(field: Field, item: str) -> str | None:
    """Answer what crontab(5) does not know: L and # as cronsim has them; the rest is refused by name."""
    if field is DAY and item in ("L", "LW"):
        return item
    if field is WEEKDAY and "#" in item:
        day, _, nth = item.partition("#")
        if day not in DAYS and not (_is_number(day) and len(day) == 1):
            raise _wrong(field, item, "must name one day before '#': write, for example, 'MON#2'")
        if nth not in ("1", "2", "3", "4", "5"):
            raise _wrong(field, item, f"must say which one from 1 to 5 after '#': write, for example, '{day}#2'")
        return f"{_value(field, day)}#{nth}"
    if field is WEEKDAY and item.endswith("L") and len(item) == 2 and item[0] in "01234567":
        return item
    _refuse_foreign(field, item)
    return None


def _refuse_foreign(field: Field, item: str) -> None:
    if "?" in item:
        raise _wrong(field, item, "is not known here: write '*'")
    if "~" in item:
        raise _wrong(field, item, "is a random choice: write one value, and jitter: to spread jobs")
    if re.match(r"H([/(]|$)", item):
        raise _wrong(field, item, "is Jenkins' hash: write a value, and jitter: to spread jobs")
    if "#" in item:
        raise _wrong(field, item, "counts days of week: write it in the last field, such as 'MON#2'")
    if field is DAY and re.fullmatch(r"[\d-]+W", item):
        raise _wrong(
            field, item, "asks for the nearest weekday, which is not known: write a day, or 'LW' for the last weekday"
        )
    if field is DAY and re.match(r"L|[\d-]+L", item):
        raise _wrong(field, item, "is not known: write 'L' alone for the last day of the month")
    if field is WEEKDAY and (last := re.match(r"([0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)?L", item)):
        if last[1] is None:
            raise _wrong(field, item, "is not known: write 'SAT' for every Saturday or '6L' for the last of the month")
        day = last[1]
        number = DAYS.index(day) if day in DAYS else int(day)
        raise _wrong(field, item, f"is not known: write '{number}L' for the last {DAYS[number % 7]} of the month")


def _check_step(field: Field, item: str, text: str) -> int:
    if not _is_number(text):
        raise _wrong(field, item, f"needs a whole number after '/': write, for example, '{item.partition('/')[0]}/2'")
    step = int(text[-6:]) if len(text.lstrip("0")) <= 6 else 10**6
    if step == 0:
        raise _wrong(field, item, "has a step of 0: write 1 or more")
    if step > field.size:
        other = f" or, for an interval, every: {step}{field.unit}" if field.unit else ""
        raise _wrong(
            field, item, f"has a step larger than the field, which has {field.size} values: write one value{other}"
        )
    return step


def _value(field: Field, text: str) -> int:
    if text in field.names:
        return field.names.index(text) + field.low
    if not _is_number(text.removeprefix("-")):
        raise _no_value(field, text)
    if text.startswith("-") or len(text.lstrip("0")) > 2 or not field.low <= int(text) <= field.high:
        raise _wrong(field, text, f"is not between {field.low} and {field.high}")
    return int(text)


def _no_value(field: Field, text: str) -> ScheduleError:
    if field.names:
        hint = f"; write '{text[:3]}'" if text[:3] in field.names and text.isalpha() else ""
        names = f"a name from {field.names[0]} to {field.names[-1]}"
        return _wrong(field, text, f"is neither a number from {field.low} to {field.high} nor {names}{hint}")
    hint = f"; write '{text[1:]}'" if text.startswith("+") and _is_number(text[1:]) else ""
    return _wrong(field, text, f"is not a number between {field.low} and {field.high}{hint}")


def _turned(field: Field, start: int, end: int) -> str:
    """Write a range that runs over the end of the field as two."""
    if field is WEEKDAY and start == 7:
        return f"SUN-{field.label(end)}" if end else "SUN"
    high = 6 if field is WEEKDAY else field.high
    return ",".join(
        field.label(low) if low == top else f"{field.label(low)}-{field.label(top)}"
        for low, top in ((start, high), (field.low, end))
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _wrong(field: Field, text: str, message: str) -> ScheduleError:
    return ScheduleError(f"{field.name} {_shown(text)} {message}")


def _shown(text: str) -> str:
    return f"'{text}'" if len(text) <= 40 else f"'{text[:40]}…'"


def _check_comes(expression: Expression, plain: list[str]) -> None:
    """Refuse dates that never come: the calendar repeats every 28 years but for one gap of 40."""
    day, month = plain[-3:-1]
    weekday = expression.text.split(" ")[-1]
    try:
        next(expression.start(datetime(1999, 12, 31)))  # noqa: DTZ001  wall time is naive
    except (CronSimError, StopIteration):
        days = _listed(day, 1, 31)
        months = _listed(month, 1, 12)
        if days and months and min(days) > (longest := max(DAYS_IN_MONTH[number - 1] for number in months)):
            names = ",".join(MONTHS[number - 1] for number in sorted(months))
            raise ScheduleError(
                f"day of month '{day}' never comes in month '{names}', which has no more than {longest} days: "
                "write a day that comes, or 'L' for the last"
            ) from None
        raise ScheduleError(
            f"no date in 50 years is day of month '{day}', month '{month}' and day of week '{weekday}' at once: "
            "with '*' at the start of a day field both must hold"
        ) from None


def _listed(text: str, low: int, high: int) -> set[int]:
    """Return the values of a checked field; none if it holds more than numbers."""
    values: set[int] = set()
    for item in text.split(","):
        base, slash, step = item.partition("/")
        start, dash, end = ("*", "", "") if base == "*" else base.partition("-")
        if start == "*":
            start, end = str(low), str(high)
        elif not dash:
            end = str(high) if slash else start
        if not (start.isdigit() and end.isdigit()):
            return set()
        values.update(range(int(start), int(end) + 1, int(step or 1)))
    return values
