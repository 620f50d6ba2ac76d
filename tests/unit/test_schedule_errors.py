"""What a person may get wrong in a schedule, and what the answer says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler_service.schedule import ScheduleError, at, cron, every, manual, parse

FIVE = "write five (minute, hour, day of month, month, day of week), or six with seconds first"

# (expression, the whole message)
WRONG = [
    # a value out of its field
    ("61 * * * *", "minute '61' is not between 0 and 59"),
    ("60 * * * * *", "second '60' is not between 0 and 59"),
    ("* 24 * * *", "hour '24' is not between 0 and 23"),
    ("* * 0 * *", "day of month '0' is not between 1 and 31"),
    ("* * 32 * *", "day of month '32' is not between 1 and 31"),
    ("* * * 13 *", "month '13' is not between 1 and 12"),
    ("* * * 0 *", "month '0' is not between 1 and 12"),
    ("* * * * 8", "day of week '8' is not between 0 and 7"),
    ("-1 * * * *", "minute '-1' is not between 0 and 59"),
    ("1,61,2 * * * *", "minute '61' is not between 0 and 59"),
    ("5-60 * * * *", "minute '60' is not between 0 and 59"),
    ("99999999999999999999 * * * *", "minute '99999999999999999999' is not between 0 and 59"),
    ("* * * * * 60", "day of week '60' is not between 0 and 7"),
    # every field that is wrong
    ("61 25 * * *", "minute '61' is not between 0 and 59; hour '25' is not between 0 and 23"),
    # not a value
    ("+1 * * * *", "minute '+1' is not a number between 0 and 59; write '1'"),
    ("1_0 * * * *", "minute '1_0' is not a number between 0 and 59"),
    ("1.5 * * * *", "minute '1.5' is not a number between 0 and 59"),
    ("* mon * * *", "hour 'MON' is not a number between 0 and 23"),
    ("* * * * xyz", "day of week 'XYZ' is neither a number from 0 to 7 nor a name from SUN to SAT"),
    ("* * * * mon!!", "day of week 'MON!!' is neither a number from 0 to 7 nor a name from SUN to SAT"),
    ("* * * * Monday", "day of week 'MONDAY' is neither a number from 0 to 7 nor a name from SUN to SAT; write 'MON'"),
    ("* * * june *", "month 'JUNE' is neither a number from 1 to 12 nor a name from JAN to DEC; write 'JUN'"),
    ("１ * * * *", r"minute '１' contains '\uff11', which is not plain ASCII: type it anew"),
    ("¹ * * * *", r"minute '¹' contains '\xb9', which is not plain ASCII: type it anew"),
    ("0\u00a02 * * *", r"the expression contains '\xa0', which is not plain ASCII: type it anew"),
    ("5* * * * *", "minute '5*' mixes '*' with a value: write one of the two"),
    # lists and ranges
    ("1,,2 * * * *", "minute '1,,2' has an empty place in its list: write one comma between two values, and no space"),
    ("1, 2 * * * *", "second '1,' has an empty place in its list: write one comma between two values, and no space"),
    ("1-2-3 * * * *", "minute '1-2-3' has more than one '-': write one range, or several with ',' between them"),
    ("5- * * * *", "minute '5-' has no end: write '5-59'"),
    ("50-10 * * * *", "minute '50-10' ends before it starts: write '50-59,0-10'"),
    ("* 22-6 * * *", "hour '22-6' ends before it starts: write '22-23,0-6'"),
    ("* * 31-1 * *", "day of month '31-1' ends before it starts: write '31,1'"),
    ("* * * nov-feb *", "month 'NOV-FEB' ends before it starts: write 'NOV-DEC,JAN-FEB'"),
    ("* * * * sat-mon", "day of week 'SAT-MON' ends before it starts: write 'SAT,SUN-MON'"),
    ("* * * * 7-1", "day of week '7-1' ends before it starts: write 'SUN-MON'"),
    # steps
    ("/30 * * * *", "minute '/30' has nothing before its step: write '*/30'"),
    ("*/ * * * *", "minute '*/' needs a whole number after '/': write, for example, '*/2'"),
    ("*/5/5 * * * *", "minute '*/5/5' needs a whole number after '/': write, for example, '*/2'"),
    ("*/0 * * * *", "minute '*/0' has a step of 0: write 1 or more"),
    (
        "*/90 * * * *",
        "minute '*/90' has a step larger than the field, which has 60 values: "
        "write one value or, for an interval, every: 90m",
    ),
    (
        "0 */25 * * *",
        "hour '*/25' has a step larger than the field, which has 24 values: "
        "write one value or, for an interval, every: 25h",
    ),
    ("0 0 * * */8", "day of week '*/8' has a step larger than the field, which has 7 values: write one value"),
    # words of other tools
    ("0 0 ? * *", "day of month '?' is not known here: write '*'"),
    ("H * * * *", "minute 'H' is Jenkins' hash: write a value, and jitter: to spread jobs"),
    ("H(0-29)/10 * * * *", "minute 'H(0-29)/10' is Jenkins' hash: write a value, and jitter: to spread jobs"),
    ("0~30 * * * *", "minute '0~30' is a random choice: write one value, and jitter: to spread jobs"),
    (
        "0 0 15W * *",
        "day of month '15W' asks for the nearest weekday, which is not known: "
        "write a day, or 'LW' for the last weekday",
    ),
    (
        "0 12 1-15W * *",
        "day of month '1-15W' asks for the nearest weekday, which is not known: "
        "write a day, or 'LW' for the last weekday",
    ),
    ("0 0 L-3 * *", "day of month 'L-3' is not known: write 'L' alone for the last day of the month"),
    ("0 0 L/2 * *", "day of month 'L/2' is not known: write 'L' alone for the last day of the month"),
    ("0 0 * * L", "day of week 'L' is not known: write 'SAT' for every Saturday or '6L' for the last of the month"),
    ("0 0 * * FRIL", "day of week 'FRIL' is not known: write '5L' for the last FRI of the month"),
    ("0 0 * * 5L-6", "day of week '5L-6' is not known: write '5L' for the last FRI of the month"),
    ("0 0 * * MON#6", "day of week 'MON#6' must say which one from 1 to 5 after '#': write, for example, 'MON#2'"),
    ("0 0 * * 1##1", "day of week '1##1' must say which one from 1 to 5 after '#': write, for example, '1#2'"),
    ("0 0 * * 5L#1", "day of week '5L#1' must name one day before '#': write, for example, 'MON#2'"),
    ("0 0 1#2 * *", "day of month '1#2' counts days of week: write it in the last field, such as 'MON#2'"),
    (
        "@reboot",
        "'@reboot' is not a time, and replicas start at different ones: write a time, every: or manual: true",
    ),
    ("@every 5m", "'@every 5m' is not a cron expression: write every: 5m"),
    ("@dayly", "'@dayly' is not known; did you mean '@daily'?"),
    (
        "@fortnightly!",
        "'@fortnightly!' is not known; "
        "there are @hourly @daily @midnight @weekly @monthly @yearly @annually",
    ),
    ("CRON_TZ=Europe/Berlin 0 2 * * *", "a zone does not go into the expression: write timezone: Europe/Berlin"),
    # the number of fields
    ("", "the expression is empty: write five fields, such as '*/5 * * * *'"),
    (" \t\n", "the expression is empty: write five fields, such as '*/5 * * * *'"),
    ("5", f"the expression has 1 field: {FIVE}"),
    ("* * * *", f"the expression has 4 fields: {FIVE}"),
    (
        "0 0 12 * * * 2030",
        f"the expression has 7 fields, and a year cannot be given: {FIVE}; starts_at and ends_at limit the years",
    ),
    ("0 2 * * * cp -r /a /b", f"the expression has 9 fields: {FIVE}; a command goes into command:"),
    ("1" * 1001, "the expression is 1001 characters long; 1000 are the most"),
    # dates that never come
    (
        "0 0 30 2 *",
        "day of month '30' never comes in month 'FEB', which has no more than 29 days: "
        "write a day that comes, or 'L' for the last",
    ),
    (
        "0 0 31 apr,jun *",
        "day of month '31' never comes in month 'APR,JUN', which has no more than 30 days: "
        "write a day that comes, or 'L' for the last",
    ),
    (
        "1 1 */9 * MON#5",
        "no date in 50 years is day of month '*/9', month '*' and day of week 'MON#5' at once: "
        "with '*' at the start of a day field both must hold",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "message"), WRONG)
def test_a_wrong_expression_is_told_what_to_write_instead(expression: str, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        cron(expression)
    assert str(caught.value) == message


@pytest.mark.parametrize("expression", [5, None, ["*"], True])
def test_what_is_not_text_belongs_in_quotes(expression: Any) -> None:
    with pytest.raises(ScheduleError, match="put it in quotes"):
        cron(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "0 0 31 * *",
        "0 0 29 2 *",
        "0 0 31 4 1",
        "0 0 30 2,3 *",
        "0 0 29 2 */7",
        "0 0 L 2 *",
        "0 0 */2 * MON#5",
        "*/60 * * * *",
        "0 */24 * * *",
        "0 0 */31 * *",
        "0 0 1 */12 *",
        "0 0 * * */7",
        "000 02 * * 07",
        "0 0 1,L * *",
        "0 0 * * 5L,MON#2",
    ],
)
def test_what_comes_now_and_then_is_accepted(expression: str) -> None:
    assert cron(expression).after(datetime(2026, 1, 1, tzinfo=UTC)) is not None


ZONES = [
    ("europe/berlin", "did you mean 'Europe/Berlin'?"),
    ("Europe/Belrin", "did you mean 'Europe/Berlin' or "),
    ("berlin", "did you mean 'Europe/Berlin'?"),
    ("New York", "did you mean 'America/New_York'?"),
    ("utc", "did you mean 'UTC'?"),
    ("localtime", "the host's zone is never used"),
    ("CEST", "knows no change of clocks"),
    ("GMT+2", "knows no change of clocks"),
    ("+02:00", "knows no change of clocks"),
    ("", "write a place such as 'Europe/Berlin', or 'UTC'"),
    ("../../etc/passwd", "write a place such as 'Europe/Berlin', or 'UTC'"),
]


@pytest.mark.parametrize(("zone", "hint"), ZONES)
def test_an_unknown_zone_is_answered_with_close_ones(zone: str, hint: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        cron("0 2 * * *", zone)
    assert str(caught.value).startswith(f"timezone {zone!r} is not known; ")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("interval", "offset", "message"),
    [
        (timedelta(0), timedelta(0), "an interval of 0s is too short: write 1ms or more"),
        (timedelta(microseconds=999), timedelta(0), "an interval of 999us is too short: write 1ms or more"),
        (timedelta(seconds=-5), timedelta(0), "an interval of -5s is too short: write 1ms or more"),
        (
            timedelta(minutes=1),
            timedelta(minutes=1),
            "an offset of 1m does not lie within the interval: write 0s or more and less than 1m",
        ),
        (
            timedelta(hours=1, minutes=30),
            timedelta(seconds=-1),
            "an offset of -1s does not lie within the interval: write 0s or more and less than 1h30m",
        ),
    ],
)
def test_an_interval_that_cannot_be_is_refused(interval: timedelta, offset: timedelta, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        every(interval, offset)
    assert str(caught.value) == message


def test_a_moment_needs_a_zone() -> None:
    naive = datetime(2026, 1, 31, 12)  # noqa: DTZ001  this is the mistake
    with pytest.raises(ScheduleError, match="at 2026-01-31T12:00:00 has no zone: write 2026-01-31T12:00:00Z for UTC"):
        at(naive)
    with pytest.raises(ScheduleError, match="starts_at 2026-01-31T12:00:00 has no zone"):
        manual().bounded(naive, None)
    with pytest.raises(ScheduleError, match="ends_at 2026-01-31T12:00:00 has no zone"):
        manual().bounded(None, naive)
    with pytest.raises(ValueError, match="moments are aware"):
        cron("0 2 * * *").after(naive)


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(ScheduleError, match="ends_at 2026-01-01T00:00:00Z is before starts_at 2026-01-02T00:00:00Z"):
        manual().bounded(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "text", ["every", "every 5", "every 5x", "every 1h 30m", "at", "at noon", "at 2026-01-01T00:00:00", ""]
)
def test_a_stored_line_that_was_tampered_with_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError):
        parse(text, "UTC")


CHARACTERS = st.text("0123456789*/-,#LWH?@+~ \tMONSUNFRIJAN１", max_size=25)
FIELD = st.text("0123456789*/-,#LWMONSUNFRIJAN", min_size=1, max_size=6)


@settings(max_examples=1500, deadline=None)
@given(st.one_of(CHARACTERS, st.lists(FIELD, min_size=5, max_size=6).map(" ".join)))
@example("0 0 * * 5-5/2")
@example("0 0 * * SUN-SUN")
@example("0 0 * * 0#1/2")
def test_any_text_is_a_schedule_or_a_mistake_and_nothing_else(text: str) -> None:
    try:
        schedule = cron(text, "Europe/Berlin")
    except ScheduleError:
        return
    assert schedule.after(datetime(2026, 1, 1, tzinfo=UTC)) is not None
    assert schedule.explain()
    assert parse(schedule.canonical, schedule.timezone) is schedule
