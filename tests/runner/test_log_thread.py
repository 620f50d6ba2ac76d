"""The log as a whole: nobody waits for it, nothing is lost that need not be."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import pty
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler_service import logs
from scheduler_service.events import Events
from scheduler_service.logs import JOB_LINES, QUEUE_LINES, RUSH_LINES, Logging
from scheduler_service.rush import Rush
from tests.runner.conftest import NOON, PATIENCE_SECONDS, Bench
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]


class Log:
    """A log into memory."""

    def __init__(self, level: str = "debug", format: str = "json", **settings: Any) -> None:  # noqa: A002  # its name
        self.stream = io.StringIO()
        self.events = Events()
        self.logging = logs.configure(level, format, self.events, self.stream, **settings)

    def lines(self) -> list[str]:
        assert self.logging.flush(PATIENCE_SECONDS)
        return self.stream.getvalue().splitlines()

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.logging.close()


def test_events_become_lines_in_their_order(log: Log):
    for term in range(1000):
        log.events.emit("leader_observed", leader="web-1", term=term)
    assert [document["term"] for document in log.documents()] == list(range(1000))


@pytest.mark.parametrize("format", ["text", "json"])
def test_secrets_are_in_no_line_whoever_says_them(format: str):  # noqa: A002  # the setting's name
    secret = 'corr"ect-horse'  # which JSON writes otherwise than text
    log = Log(format=format, secrets=[secret])
    log.events.emit("leader_observed", leader=secret, term=1)
    logging.getLogger("somewhere").warning("it is %s, is it not", secret)
    lines = log.lines()
    log.logging.close()
    assert len(lines) == 2
    assert all("***" in line and "horse" not in line for line in lines), lines


def test_each_line_carries_the_instance_that_the_events_carry(log: Log):
    log.events.bind(instance="web-1").emit("leader_observed", leader="web-2", term=4)
    logging.getLogger("somewhere").warning("odd")
    assert [document["instance"] for document in log.documents()] == ["web-1", "web-1"]


def test_records_of_logging_go_the_same_way(log: Log):
    try:
        int("no way")
    except ValueError:
        logging.getLogger("somewhere").exception("it %s", "failed")
    found = log.documents()[0]
    assert (found["event"], found["level"], found["logger"]) == ("log_record", "error", "somewhere")
    assert found["message"].startswith("it failed\nTraceback (most recent call last):")
    assert found["message"].endswith("ValueError: invalid literal for int() with base 10: 'no way'")


def test_records_of_a_run_are_tagged_and_never_folded(log: Log, tmp_path: Path):
    bench = Bench(tmp_path)
    bench.function("import logging\ndef main():\n    for _ in range(3): logging.getLogger('tidy').error('again')")
    tags = [
        {key: document[key] for key in ("job", "run", "term", "scheduled_at", "logger")} for document in log.documents()
    ]
    assert tags == [{"job": "tidy", "run": 70, "term": 4, "scheduled_at": "2026-11-23T12:00:00Z", "logger": "tidy"}] * 3


def test_warnings_of_python_are_logged(log: Log):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # catch_warnings undid it
        warnings.warn("old ways", stacklevel=1)
    assert "old ways" in log.documents()[0]["message"]


def test_what_libraries_say_of_their_routine_is_left_out(log: Log):
    for name in ("apscheduler.scheduler", "sqlalchemy.engine", "alembic.runtime", "asyncio"):
        logging.getLogger(name).info("routine")
        logging.getLogger(name).warning("not routine")
    assert [document["message"] for document in log.documents()] == ["not routine"] * 4


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["leadership_renewed", "leader_observed", "statement_fenced", "thread_crashed"]),
        ("info", ["leader_observed", "statement_fenced", "thread_crashed"]),
        ("warning", ["statement_fenced", "thread_crashed"]),
        ("error", ["thread_crashed"]),
    ],
)
def test_a_level_leaves_out_what_is_below_it(level: str, shown: list[str]):
    log = Log(level)
    log.events.emit("leadership_renewed", term=4, trust_seconds=9.0)
    log.events.emit("leader_observed", leader="web-1", term=4)
    log.events.emit("statement_fenced", statement="settle", term=4)
    log.events.emit("thread_crashed", thread="results", error="no way")
    log.logging.close()
    assert [json.loads(line)["event"] for line in log.stream.getvalue().splitlines()] == shown


@pytest.mark.parametrize(("level", "format"), [("loud", "text"), ("info", "xml")])
def test_other_words_are_refused(level: str, format: str):  # noqa: A002  # the setting's name
    with pytest.raises(ValueError, match=r"use (debug|auto)"):
        logs.configure(level, format, Events(), io.StringIO())


def test_repeats_are_counted_at_the_close():
    log = Log()
    for run in range(10):
        log.events.emit("run_failed", job="tidy", run=run, scheduled_at=NOON, attempt=1, state="failed",
                        duration_seconds=0.1, error="no way")  # fmt: skip
    log.logging.close()
    documents = [json.loads(line) for line in log.stream.getvalue().splitlines()]
    assert [(document["run"], document.get("repeated")) for document in documents] == [(0, None), (9, 8)]


def test_after_the_close_logging_is_as_before():
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("apscheduler").level)
    log = Log()
    assert (list(root.handlers), root.level, logging.getLogger("apscheduler").level) != before
    log.logging.close()
    log.logging.close()
    log.events.emit("leader_observed", leader="web-1", term=4)
    assert (list(root.handlers), root.level, logging.getLogger("apscheduler").level) == before
    assert log.stream.getvalue() == ""


def test_a_field_that_cannot_be_shown_costs_its_line_and_no_other(log: Log):
    class Odd:
        def __str__(self) -> str:
            raise ValueError("no")

    log.events.emit("leader_observed", leader=Odd(), term=4)
    log.events.emit("leader_observed", leader="web-1", term=5)
    first, second = log.documents()
    assert (first["event"], first["message"]) == ("leader_observed", "this line cannot be shown: ValueError")
    assert second["term"] == 5


def test_text_is_for_terminals_and_json_for_the_rest():
    outer, inner = pty.openpty()
    events = Events()
    with os.fdopen(inner, "w") as terminal, os.fdopen(outer, "rb", buffering=0) as screen:
        log = logs.configure("info", "auto", events, terminal)
        events.emit("leader_observed", leader="web-1", term=4)
        log.close()
        assert b"leader_observed" in screen.read(1000)
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as pipe:
        log = logs.configure("info", "auto", events, pipe)
        events.emit("leader_observed", leader="web-1", term=4)
        log.close()
        assert json.loads(reader.readline())["leader"] == "web-1"


# --- a pipe that nobody reads


class WatchedRush(Rush):
    """A rush that goes on until a test ends it, and tells when somebody waits for that."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = threading.Event()
        self.tell(going_on=True)

    def wait(self, seconds: float) -> bool:
        self.awaited.set()
        return super().wait(seconds)


class StoppedClock:
    """Whatever has a limit by it waits for ever."""

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def hasty() -> Iterator[Log]:
    log = Log(clock=StoppedClock(), rush=WatchedRush())
    yield log
    log.logging.close()


def observe(log: Log, *terms: int) -> None:
    for term in terms:
        log.events.emit("leader_observed", leader="web-1", term=term)


def written(log: Log) -> list[int]:
    """Return the terms of the lines that were written by themselves: to flush is to hurry."""
    return [json.loads(line)["term"] for line in log.stream.getvalue().splitlines()]


def test_in_a_rush_lines_wait_until_it_is_over(hasty: Log):
    rush = hasty.logging._rush
    assert isinstance(rush, WatchedRush)
    observe(hasty, 1, 2)
    assert rush.awaited.wait(PATIENCE_SECONDS)
    assert written(hasty) == []
    rush.tell(going_on=False)
    wait_until(lambda: written(hasty) == [1, 2])


def test_in_a_rush_a_warning_is_written_at_once_with_what_came_before_it(hasty: Log):
    observe(hasty, 1)
    hasty.events.emit("leadership_lost", term=2, reason="deposed")
    wait_until(lambda: written(hasty) == [1, 2])


def test_in_a_rush_only_so_many_lines_wait(hasty: Log):
    observe(hasty, *range(RUSH_LINES + 1))
    wait_until(lambda: written(hasty) == list(range(RUSH_LINES + 1)))


def test_a_rush_that_does_not_end_holds_no_line_up_for_long():
    log = Log(rush=WatchedRush())
    observe(log, 1)
    wait_until(lambda: written(log) == [1])
    log.logging.close()


class Pipe:
    """A log into a pipe of one page that nobody reads until it is told to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self._stream = os.fdopen(self.writing, "w")
        self.events = Events()
        self.log: Logging = logs.configure("debug", "json", self.events, self._stream)
        self._text = b""
        self._reader: threading.Thread | None = None

    def read(self) -> None:
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    def _read_all(self) -> None:
        while data := os.read(self.reading, 65536):
            self._text += data

    def documents(self) -> list[dict[str, Any]]:
        """Close the log and the pipe; return all that came through."""
        self.log.close(PATIENCE_SECONDS)
        self._stream.close()
        if self._reader is not None:
            self._reader.join(PATIENCE_SECONDS)
        os.close(self.reading)
        return [json.loads(line) for line in self._text.splitlines()]


def test_a_blocked_pipe_blocks_nobody_and_what_is_dropped_is_counted():
    pipe = Pipe()
    count = QUEUE_LINES + 5000
    for term in range(count):  # would never end if it blocked
        pipe.events.emit("leader_observed", leader="web-1", term=term)
    assert not pipe.log.flush(0.01)
    pipe.read()
    assert pipe.log.flush(PATIENCE_SECONDS)
    documents = pipe.documents()
    dropped = [document for document in documents if document["event"] == "lines_dropped"]
    observed = [document["term"] for document in documents if document["event"] == "leader_observed"]
    assert observed == sorted(observed)
    assert len(observed) >= QUEUE_LINES
    assert sum(document["count"] for document in dropped) == count - len(observed)
    assert dropped[0]["level"] == "warning"


def test_what_jobs_write_does_not_displace_what_the_service_says():
    pipe = Pipe()
    for number in range(2 * QUEUE_LINES):
        pipe.events.emit("run_output", job="tidy", run=1, line=str(number))
    for term in range(1000):
        pipe.events.emit("leader_observed", leader="web-1", term=term)
    pipe.read()
    events = [document["event"] for document in pipe.documents()]
    assert events.count("leader_observed") == 1000
    assert JOB_LINES <= events.count("run_output") < 2 * JOB_LINES


def test_closing_does_not_wait_for_ever():
    pipe = Pipe()
    for term in range(1000):
        pipe.events.emit("leader_observed", leader="web-1", term=term)
    pipe.log.close(0.05)
    pipe.read()
    pipe.documents()


def test_a_pipe_whose_reader_is_gone_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    events = Events()
    with os.fdopen(writing, "w") as stream:
        log = logs.configure("info", "json", events, stream)
        for term in range(1000):
            events.emit("leader_observed", leader="web-1", term=term)
        assert log.flush(PATIENCE_SECONDS)
        log.close()


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing():
    pipe = Pipe()
    os.set_blocking(pipe.writing, False)
    for term in range(2000):
        pipe.events.emit("leader_observed", leader="web-1", term=term)
    pipe.read()
    assert len(pipe.documents()) == 2000


PROCESS = """
import sys
from scheduler_service import logs
from scheduler_service.events import Events

events = Events()
if len(sys.argv) > 3:
    logs.Logging.close.__defaults__ = (float(sys.argv[3]),)
logs.configure("info", "json", events)
for term in range(int(sys.argv[1])):
    events.emit("leader_observed", leader="web-1", term=term)
if sys.argv[2] == "crash":
    sys.stderr = None  # Python's own words there are several writes, and would stand amid the lines
    raise RuntimeError("ends badly")
"""


@pytest.mark.parametrize("end", ["well", "crash"])
def test_at_exit_everything_is_written(end: str):
    assert QUEUE_LINES > 5000
    command = [sys.executable, "-c", PROCESS, "5000", end, str(PATIENCE_SECONDS)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (end == "crash")
    assert [json.loads(line)["term"] for line in done.stderr.splitlines()] == list(range(5000))


def test_a_process_whose_stderr_is_blocked_can_still_exit():
    reading, writing = os.pipe()
    try:
        command = [sys.executable, "-c", PROCESS, "5000", "well"]
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=writing)
        os.close(writing)
        assert process.wait(60) == 0  # and is not aborted for the lock of a buffered stream
    finally:
        os.close(reading)
