r"""Write what happens to stderr, without ever holding up whom it happens to.

    events ------------\
    logging's records --+--> bounded queue --> thread "log": levels, repeats, rendering --> stderr
    (the jobs' own too) /         | full
                                  `--> dropped, counted, told

The emitter may be the thread that renews the lease (I9), so it only puts what happened into a queue.
While more is due than was started, lines wait there for a moment, for making them takes the interpreter from who
starts it: but no warning, nor what came before one.
When nobody reads the other end of a pipe, lines are dropped, first those that jobs write.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from scheduler_service.clock import BootClock, Clock
from scheduler_service.events import WARNING, Event, Events
from scheduler_service.logs.render import Render, json_lines, text_lines, without
from scheduler_service.logs.repeats import Entry, Repeats, ends_failures
from scheduler_service.mailbox import Mailbox
from scheduler_service.rush import Rush

__all__ = ["Logging", "configure", "enter_fields"]

QUEUE_LINES = 10_000
JOB_LINES = 5_000  # what jobs write is dropped from here on, so that it displaces nothing else
BATCH_LINES = 200
RUSH_SECONDS = 0.25  # so long may a line wait in a rush,
RUSH_LINES = 2_500  # and so many
LOOK_SECONDS = 0.02  # how soon a warning is seen that comes meanwhile
CLOSE_SECONDS = 2.0
SECRET_CHARACTERS = 8  # at least: a shorter one would blot out words that only look like it

# They say at INFO and DEBUG what our own events say better.
_QUIET = ("apscheduler", "sqlalchemy", "alembic", "asyncio", "psycopg")

_fields: contextvars.ContextVar[Mapping[str, Any] | None]
_fields = contextvars.ContextVar("scheduler_service_log", default=None)


def enter_fields(**fields: Any) -> None:
    """Tag the log records of this thread's or task's context, which belong to a run."""
    _fields.set(fields)


def configure(
    level: str,
    format: str,  # noqa: A002  # the setting's name
    events: Events,
    stream: TextIO | None = None,
    *,
    clock: Clock | None = None,
    secrets: Iterable[str] = (),
    rush: Rush | None = None,
) -> Logging:
    """Begin to log `events`, and Python's logging, at `level` and above; close it at the end.

    `format` is text, json or auto: text if `stream` (stderr) is a terminal.  ValueError for other words.
    None of `secrets` gets into the log, wherever it stands; those that are too short to be one may.
    """
    stream = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"logging.level is {level!r}; use debug, info, warning or error")
    if format not in ("auto", "text", "json"):
        raise ValueError(f"logging.format is {format!r}; use auto, text or json")
    terminal = stream.isatty()
    if format == "json" or (format == "auto" and not terminal):
        render = json_lines()
    else:
        render = text_lines(colours=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
    hidden = tuple(secret for secret in secrets if len(secret) >= SECRET_CHARACTERS)
    clock, rush = BootClock() if clock is None else clock, Rush() if rush is None else rush
    return Logging(number, render, events, _Sink(stream), clock, hidden, rush)


class Logging:
    """The queue, the thread that empties it, and the hooks that fill it."""

    def __init__(
        self,
        level: int,
        render: Render,
        events: Events,
        sink: _Sink,
        clock: Clock,
        secrets: tuple[str, ...],
        rush: Rush,
    ) -> None:
        self._level = level
        self._render = render
        self._secrets = secrets
        self._sink = sink
        self._instance: Mapping[str, Any] = {}  # as the events name it, for lines that are not events
        self._clock = clock
        self._rush = rush
        self._urgent = False  # something in the queue may not wait
        self._repeats = Repeats(clock)
        self._queue: Mailbox[Entry | threading.Event] = Mailbox()
        self._end = threading.Event()
        # Reentrant: a finaliser that logs may run while its own thread is counting.
        self._counting = threading.RLock()
        self._dropped_count = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        events.subscribe(self._on_event)
        self._handler = _Handler(self)
        root = logging.getLogger()
        self._former_level = root.level
        root.setLevel(level)
        root.addHandler(self._handler)
        self._former_levels = {name: logging.getLogger(name).level for name in _QUIET}
        for name in _QUIET:
            logging.getLogger(name).setLevel(max(level, WARNING))
        logging.captureWarnings(True)
        atexit.register(self.close)

    def put(self, entry: Entry) -> None:
        """Log `entry`, or count it as dropped when too much waits; never blocks."""
        if self._closed:
            return
        if len(self._queue) < (JOB_LINES if entry.of_job else QUEUE_LINES):
            self._queue.put(entry)
            if entry.level >= WARNING:
                self._urgent = True
        else:
            with self._counting:
                self._dropped_count += 1

    def flush(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Wait until what was logged so far is written, at most `seconds`; return whether it is."""
        reached = threading.Event()
        self._queue.put(reached)
        self._urgent = True
        return reached.wait(seconds)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, for at most `seconds`, and stop; later events are not logged."""
        if self._closed:
            return
        atexit.unregister(self.close)
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._former_level)
        for name, level in self._former_levels.items():
            logging.getLogger(name).setLevel(level)
        logging.captureWarnings(False)
        self._closed = True
        self._queue.put(self._end)
        self._urgent = True
        self._thread.join(seconds)

    def _on_event(self, event: Event) -> None:
        if "instance" in event.fields:
            self._instance = {"instance": event.fields["instance"]}
        if event.level < self._level and not ends_failures(event.name):
            return
        self.put(Entry(time.time(), event.level, event.name, event.fields, of_job=event.name == "run_output"))

    def on_record(self, record: logging.LogRecord) -> None:
        """Log a record of Python's logging."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if record.stack_info:
            message += "\n" + record.stack_info
        tags = _fields.get()
        fields = {"logger": record.name, **(tags or {}), **self._instance, "message": message}
        self.put(Entry(record.created, record.levelno, "log_record", fields, of_job=tags is not None))

    # --- the thread

    def _run(self) -> None:
        running = patient = True
        while running:
            batch = self._gather(patiently=patient)
            patient = len(batch) < BATCH_LINES  # else there are more that have waited already
            lines: list[str] = []
            reached: list[threading.Event] = []
            for item in batch:
                if isinstance(item, Entry):
                    lines += self._lines(self._repeats.admit(item))
                    continue
                reached.append(item)
                if item is self._end:
                    lines += self._lines(self._repeats.all())
                    running = False
            lines += self._lines(self._repeats.due())
            if lines:
                self._sink.write("".join(f"{line}\n" for line in lines))
            self._tell_dropped()
            for event in reached:
                event.set()

    def _gather(self, *, patiently: bool) -> list[Entry | threading.Event]:
        first = self._queue.get(self._repeats.wait_seconds())
        if first is None:
            return []
        if patiently:
            self._let_a_rush_pass()
        self._urgent = False  # before the queue is emptied: what comes now sets it again
        batch = [first]
        while len(batch) < BATCH_LINES and (item := self._queue.get(0.0)) is not None:
            batch.append(item)
        return batch

    def _let_a_rush_pass(self) -> None:
        deadline = self._clock.monotonic() + RUSH_SECONDS
        while not self._urgent and len(self._queue) < RUSH_LINES and self._clock.monotonic() < deadline:
            if self._rush.wait(LOOK_SECONDS):
                return

    def _lines(self, entries: list[Entry]) -> list[str]:
        return [self._line(entry) for entry in entries if entry.level >= self._level]

    def _line(self, entry: Entry) -> str:
        try:
            return without(self._render(entry), self._secrets)
        except Exception as error:  # a field whose str() raises must not end the log
            problem = f"this line cannot be shown: {type(error).__name__}"
            return self._render(Entry(entry.at, entry.level, entry.name, {**self._instance, "message": problem}))

    def _tell_dropped(self) -> None:
        if not self._dropped_count or len(self._queue) > JOB_LINES // 2:
            return
        with self._counting:
            count, self._dropped_count = self._dropped_count, 0
        fields = {"count": count, **self._instance, "message": "nobody read the log, or jobs wrote too much of it"}
        self._sink.write(self._line(Entry(time.time(), WARNING, "lines_dropped", fields)) + "\n")


class _Handler(logging.Handler):
    """Hands the records of Python's logging over."""

    def __init__(self, log: Logging) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.on_record(record)
        except Exception:  # a mistake in somebody's log call
            self.handleError(record)


class _Sink:
    """Where lines go: the descriptor itself where there is one.

    A thread that is stuck in a buffered stream holds that stream's lock, and Python aborts when it
    wants to flush it at exit.  A thread stuck in os.write holds nothing.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            stream.flush()
            self._descriptor = stream.fileno()
        except (AttributeError, OSError, ValueError):  # a stream in memory
            self._descriptor = -1

    def write(self, text: str) -> None:
        """Write `text`; what cannot be written, because the other end is gone, is nobody's to read."""
        if self._descriptor < 0:
            self._stream.write(text)
            return
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever shares the pipe made it non-blocking
                select.select([], [self._descriptor], [], 1.0)
            except OSError:
                return
