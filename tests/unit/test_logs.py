"""Lines of the log: readable, complete, without secrets, and without noise."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from scheduler_service.events import CATALOGUE, DEBUG, ERROR, INFO, WARNING
from scheduler_service.logs.render import json_lines, plain, redacted, text_lines, visible
from scheduler_service.logs.repeats import KEYS_AT_MOST, REPEAT_SECONDS, Entry, Repeats

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
AT = NOON.timestamp() + 5.012


def an_entry(name: str, fields: Mapping[str, Any], *, level: int | None = None, of_job: bool = False) -> Entry:
    return Entry(AT, CATALOGUE[name][0] if level is None else level, name, fields, of_job)


def text(name: str, level: int | None = None, /, **fields: Any) -> str:
    return text_lines(colours=False)(an_entry(name, fields, level=level))


def document(name: str, level: int | None = None, /, **fields: Any) -> dict[str, Any]:
    line = json_lines()(an_entry(name, fields, level=level))
    assert "\n" not in line
    return json.loads(line)


# --- text


def test_a_line_reads_time_level_event_and_fields():
    line = text("leader_elected", instance="web-1", crash_detection="on", how="expired", lock_id=1, term=4)
    assert line == (
        "12:00:05.012 INFO  leader_elected       term=4 lock_id=1 how=expired crash_detection=on instance=web-1"
    )


@pytest.mark.parametrize(
    ("level", "shown"), [(10, "DEBUG"), (20, "INFO "), (25, "INFO "), (30, "WARN "), (40, "ERROR"), (50, "FATAL")]
)
def test_levels_are_as_wide_as_each_other(level: int, shown: str):
    assert text("leader_elected", level, term=4).startswith(f"12:00:05.012 {shown} leader_elected")


def test_fields_stand_in_the_order_of_the_catalogue_whatever_the_order_of_emitting():
    fields = {"duration_seconds": 1.23456, "state": "succeeded", "run": 12, "job": "tidy", "term": 4, "attempt": 1}
    assert text("run_finished", **fields, scheduled_at=NOON).split(maxsplit=3)[3] == (
        "job=tidy run=12 scheduled_at=2026-11-23T12:00:00Z attempt=1 state=succeeded duration_seconds=1.235 term=4"
    )


def test_values_that_need_it_are_quoted():
    line = text("config_warning", message="x", note="two words", empty="", equals="a=b", bar="a|b", flag=True, no=None)
    assert line.endswith('note="two words" empty="" equals="a=b" bar="a|b" flag=true | x')


def test_an_error_of_many_lines_is_shown_in_short_and_then_whole():
    trace = 'Traceback (most recent call last):\n  File "tidy.py", line 3, in main\nValueError: no way'
    assert text("run_failed", job="tidy", error=trace).splitlines() == [
        '12:00:05.012 ERROR run_failed           job=tidy error="ValueError: no way"',
        "    Traceback (most recent call last):",
        '      File "tidy.py", line 3, in main',
        "    ValueError: no way",
    ]


def test_what_a_run_prints_stands_at_the_end():
    line = text("run_output", job="tidy", run=12, line="removed  3 files | ok", instance="web-1")
    assert line.endswith("job=tidy run=12 instance=web-1 | removed  3 files | ok")


def test_records_of_logging_show_their_logger():
    line = text("log_record", WARNING, logger="apscheduler.scheduler", instance="web-1", message="too late\nby far")
    assert line.splitlines() == [
        "12:00:05.012 WARN  apscheduler.scheduler instance=web-1 | too late",
        "    too late",
        "    by far",
    ]


def test_a_printed_line_cannot_forge_another_line_or_move_the_cursor():
    line = text(
        "run_output", job="tidy", run=12, line="a\r12:00 ERROR\x1b[2J\x1b]0;title\x07\u2028b\u202ec\x9b1m\x00\ttab"
    )
    assert line.endswith(r"| a\r12:00 ERROR\x1b[2J\x1b]0;title\x07\u2028b\u202ec\x9b1m\x00" + "\ttab")


def test_colours_of_a_program_are_left_out():
    assert visible("\x1b[1;31mred\x1b[0m") == "red"


def test_names_that_mean_something_to_structlog_are_only_fields():
    line = text("log_record", INFO, exc_info=True, stack="s", exception="e", event="x", level="y", timestamp="z")
    assert line.endswith("exc_info_=true stack_=s exception_=e event_=x level_=y timestamp_=z")


def test_colours_are_for_terminals():
    assert "\x1b" not in text("leader_elected", term=4)
    painted = text_lines(colours=True)(an_entry("leader_elected", {"term": 4}))
    assert "\x1b[32mINFO \x1b[0m" in painted
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted).split() == text("leader_elected", term=4).split()


# --- JSON


def test_a_document_has_the_same_fields_and_the_first_ones_first():
    found = document(
        "run_started", job="tidy", delay_seconds=0.0123456789, run=12, scheduled_at=NOON, instance="w", term=4
    )
    assert list(found.items()) == [
        ("timestamp", "2026-11-23T12:00:05.012Z"),
        ("level", "info"),
        ("event", "run_started"),
        ("instance", "w"),
        ("term", 4),
        ("job", "tidy"),
        ("scheduled_at", "2026-11-23T12:00:00Z"),
        ("run", 12),
        ("delay_seconds", 0.012346),
    ]


def test_a_document_is_one_line_of_valid_json_whatever_it_holds():
    found = document(
        "run_output", line='quote " slash \\ newline \n nul \x00 bell \x07 é \udcff', odd=object, nan=float("nan")
    )
    assert found["line"] == 'quote " slash \\ newline \n nul \x00 bell \x07 é \\udcff'
    assert found["nan"] == "nan"


class _State(StrEnum):
    DONE = "done"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.1 + 0.2, 0.3),
        (float("inf"), "inf"),
        (_State.DONE, "done"),
        (Path("/a/b"), "/a/b"),
        (NOON, "2026-11-23T12:00:00Z"),
        (NOON.astimezone(timezone(timedelta(hours=5, minutes=30))), "2026-11-23T12:00:00Z"),
        (NOON + timedelta(milliseconds=200), "2026-11-23T12:00:00.200Z"),
        (NOON + timedelta(microseconds=7), "2026-11-23T12:00:00.000007Z"),
        (NOON.date(), "2026-11-23"),
        (timedelta(minutes=1.5), 90.0),
        ((1, "a"), [1, "a"]),
        ({"a": NOON}, {"a": "2026-11-23T12:00:00Z"}),
        (ValueError("no way"), "ValueError: no way"),
    ],
)
def test_values_are_shown_as_json_knows_them(value: object, shown: object):
    assert plain(value) == shown


def test_an_endless_field_is_cut():
    assert len(plain("x" * 1_000_000)) < 30_000


# --- secrets


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("connect to postgresql://anna:s3cret@db:5432/x failed", "connect to postgresql://anna:***@db:5432/x failed"),
        ("postgresql+psycopg://anna:p%40ss:w@db", "postgresql+psycopg://anna:***@db"),
        ("https://:token@host/path", "https://:***@host/path"),
        ("postgresql://anna@db/x", "postgresql://anna@db/x"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("host=db user=anna password=s3cret dbname=x", "host=db user=anna password=*** dbname=x"),
        ("password='a b' host=db", "password=*** host=db"),
        ("postgresql://db/x?user=anna&password=s3cret&a=b", "postgresql://db/x?user=anna&password=***&a=b"),
        ("PGPASSWORD is unset", "PGPASSWORD is unset"),
        ("12:30@noon", "12:30@noon"),
        ("Authorization: Bearer abc.def-123~x", "Authorization: Bearer ***"),
        ("{'authorization': 'bearer abcdefgh'}", "{'authorization': 'bearer ***'}"),
        ("the bearer of news", "the bearer of news"),
        ("https://host/x?access_token=abc&page=2", "https://host/x?access_token=***&page=2"),
        ("API_KEY=abc client-secret='a b' DB_PASSWORD=x", "API_KEY=*** client-secret=*** DB_PASSWORD=***"),
        ("token_count=7 secrets=3", "token_count=7 secrets=3"),
    ],
)
def test_passwords_are_blotted_out(written: str, shown: str):
    assert redacted(written) == shown
    assert redacted(shown) == shown


def test_passwords_are_blotted_out_wherever_they_stand():
    secret = "postgresql://anna:s3cret@db/x"  # the test's own
    fields: dict[str, Any] = {
        "error": f"Traceback\n  {secret}\nOSError: {secret}",
        "line": secret,
        "nested": {"urls": [secret]},
        "raised": OSError(secret),
    }
    for line in (text("run_output", **fields), json.dumps(document("run_output", **fields))):
        assert "s3cret" not in line
        assert line.count("anna:***@db") >= 4


# --- repeats


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Shown:
    """What of a stream of entries is shown."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.repeats = Repeats(self.clock)
        self.entries: list[Entry] = []

    def admit(self, name: str, level: int | None = None, /, *, of_job: bool = False, **fields: Any) -> None:
        self.entries += self.repeats.admit(an_entry(name, fields, level=level, of_job=of_job))

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.entries += self.repeats.due()

    def take(self) -> list[tuple[str, int]]:
        """Return names, and how many more each stands for."""
        taken = [(entry.name, entry.fields.get("repeated", 0)) for entry in self.entries]
        self.entries.clear()
        return taken


def test_a_failure_that_repeats_is_shown_once_and_then_once_a_minute_with_a_count():
    shown = Shown()
    for second in range(150):
        shown.admit("tick_skipped", job="tidy", scheduled_at=NOON + timedelta(seconds=second), reason="overlap")
        shown.wait(1.0)
    assert shown.take() == [("tick_skipped", 0), ("tick_skipped", 58), ("tick_skipped", 59)]


def test_what_was_held_back_is_told_when_its_minute_is_over():
    shown = Shown()
    for attempt in range(5):
        shown.admit("run_failed", job="tidy", state="failed", error="no way", attempt=attempt)
    assert shown.take() == [("run_failed", 0)]
    assert shown.repeats.wait_seconds() == REPEAT_SECONDS
    shown.wait(REPEAT_SECONDS)
    assert shown.take() == [("run_failed", 3)]
    assert shown.repeats.wait_seconds() is None
    shown.wait(10 * REPEAT_SECONDS)
    assert shown.take() == []


def test_a_failure_that_comes_once_a_minute_is_shown_each_time():
    shown = Shown()
    for _ in range(5):
        shown.admit("run_failed", job="tidy", state="failed", error="no way")
        shown.wait(REPEAT_SECONDS)
    assert shown.take() == [("run_failed", 0)] * 5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"job": "tidy", "error": "no way"}, {"job": "backup", "error": "no way"}),
        ({"job": "tidy", "error": "no way"}, {"job": "tidy", "error": "disk full"}),
        ({"job": "tidy", "error": "a\nb"}, {"job": "tidy", "error": "a\nc"}),
        ({"job": "tidy", "state": "failed", "error": "a"}, {"job": "tidy", "state": "timed_out", "error": "a"}),
    ],
)
def test_another_failure_is_shown_at_once(first: dict[str, Any], second: dict[str, Any]):
    shown = Shown()
    for fields in (first, second, first, second):
        shown.admit("run_failed", **fields)
    assert shown.take() == [("run_failed", 0), ("run_failed", 0)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"run": 1, "scheduled_at": NOON}, {"run": 2, "scheduled_at": NOON + timedelta(1)}),
        ({"error": "at 0x7f12ab after 3.25 s"}, {"error": "at 0x7f99cd after 4.5 s"}),
        ({"error": "Traceback 1\nValueError"}, {"error": "Traceback 2\nValueError"}),
        ({"error": "a", "duration_seconds": 1.0}, {"error": "a", "duration_seconds": 2.0}),
    ],
)
def test_counters_make_no_other_failure(first: dict[str, Any], second: dict[str, Any]):
    shown = Shown()
    shown.admit("run_failed", job="tidy", **first)
    shown.admit("run_failed", job="tidy", **second)
    assert shown.take() == [("run_failed", 0)]


@pytest.mark.parametrize(
    ("failure", "end", "fields"),
    [
        ("store_unavailable", "store_recovered", {"part": "results"}),
        ("run_failed", "run_finished", {"job": "tidy"}),
        ("leadership_suspect", "leadership_resumed", {"term": 4}),
    ],
)
def test_an_end_tells_the_count_and_the_next_failure_is_shown_at_once(failure: str, end: str, fields: dict[str, Any]):
    shown = Shown()
    for _ in range(5):
        shown.admit(failure, **fields)
    shown.admit(end, **fields)
    shown.admit(failure, **fields)
    assert shown.take() == [(failure, 0), (failure, 3), (end, 0), (failure, 0)]


def test_the_end_of_one_failure_is_not_the_end_of_another():
    shown = Shown()
    shown.admit("run_failed", job="tidy")
    shown.admit("run_finished", job="backup")
    shown.admit("run_failed", job="tidy")
    assert shown.take() == [("run_failed", 0), ("run_finished", 0)]


def test_every_lost_attempt_is_named():
    shown = Shown()
    for run in range(3):
        shown.admit("attempt_lost", job="tidy", run=run, scheduled_at=NOON, attempt=1, holder="web-1")
    assert shown.take() == [("attempt_lost", 0)] * 3


def test_each_wrong_edit_is_told_though_only_the_line_differs():
    shown = Shown()
    for line in range(3):
        shown.admit("config_rejected", ERROR, hash="abc", error=f"config.yaml:{line}:1  jobs: …")
    assert shown.take() == [("config_rejected", 0)] * 3


def test_transitions_and_what_jobs_write_are_never_folded():
    shown = Shown()
    for _ in range(3):
        shown.admit("leader_observed", leader="web-1", term=4)
        shown.admit("log_record", ERROR, message="x", of_job=True)
        shown.admit("leadership_renewed", DEBUG, term=4)
    assert len(shown.take()) == 9


def test_warnings_of_libraries_are_folded():
    shown = Shown()
    for number in range(3):
        shown.admit("log_record", WARNING, logger="apscheduler", message=f"late by {number} s")
    shown.admit("log_record", WARNING, logger="sqlalchemy", message="late by 1 s")
    assert len(shown.take()) == 2


def test_at_the_end_everything_held_back_is_told():
    shown = Shown()
    for _ in range(4):
        shown.admit("run_failed", job="tidy")
        shown.admit("run_failed", job="backup")
    shown.take()
    assert [entry.fields for entry in shown.repeats.all()] == [
        {"job": "tidy", "repeated": 2},
        {"job": "backup", "repeated": 2},
    ]
    assert shown.repeats.all() == []


def test_what_is_remembered_is_bounded_and_nothing_held_back_is_forgotten():
    shown = Shown()
    for _ in range(3):
        shown.admit("config_warning", message="the first")
    for number in range(KEYS_AT_MOST):
        shown.admit("run_failed", job=f"job-{number}")
    assert shown.take().count(("config_warning", 1)) == 1
    assert len(shown.repeats._seen) == KEYS_AT_MOST
