"""What a run writes: its last bytes are kept with the attempt, its lines go to the log.

A command's output comes through a pipe.  A callable's comes through `sys.stdout` and `sys.stderr`,
which are replaced once by streams that look at the context: what belongs to a run goes to its
output, everything else passes through untouched.  Log records of a callable are kept here too; they
reach the log on their own way, tagged, through the root logger.

Not seen: what a job writes to the file descriptors themselves (a program that it starts, a C
library), and what threads print that were not given the job's context; both go to the service's own
stdout and stderr.

However much a run writes, it costs a bounded amount: the kept tail holds `limit` bytes, a logged line
has at most LINE_BYTES, and of a flood LINES_AT_ONCE lines are logged and then LINES_A_SECOND.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

from scheduler_service.clock import Clock

LINE_BYTES = 4096
LINES_AT_ONCE = 500
LINES_A_SECOND = 100.0
RECORD_FORMAT = "%(levelname)s %(name)s: %(message)s"  # of log records, where they are kept with a run's output


class Output:
    """The output of one attempt.  Any thread may write; `log` gets each line and must not block.

    `show` gets everything that would be kept if there were no limit, as it comes, and must not raise.
    """

    def __init__(
        self, limit: int, log: Callable[[str], None], clock: Clock, show: Callable[[bytes], None] | None = None
    ) -> None:
        self._limit = max(0, limit)
        self._show = show
        self._log = log
        self._clock = clock
        # Reentrant: a finaliser that prints may run while this very thread is writing.
        self._lock = threading.RLock()
        self._busy = False
        self._closed = False
        self._tail = bytearray()
        self._truncated = False
        self._line = b""  # begun, not ended
        self._overlong = False  # the rest of this line is not logged
        self._allowance = float(LINES_AT_ONCE)
        self._refilled_at = clock.monotonic()
        self._unlogged = 0

    @property
    def closed(self) -> bool:
        """Whether the attempt has ended."""
        return self._closed

    def write(self, data: bytes) -> None:
        """Keep `data` and log the lines that it ends."""
        with self._lock:
            self._keep(data)
            if not self._busy:  # a subscriber of the log that prints must not log its own print
                self._busy = True
                try:
                    self._log_lines(data)
                finally:
                    self._busy = False

    def keep(self, text: str) -> None:
        """Keep `text` without logging it."""
        with self._lock:
            self._keep(encode(text))

    def close(self) -> tuple[str, bool]:
        """End it; return the last `limit` bytes as text, and whether there were more."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if self._line and not self._overlong and not self._busy:
                    self._log_line(self._line)
                self._tell_unlogged()
            kept = self.so_far()
            self._tail = bytearray()
        return kept

    def so_far(self) -> tuple[str, bool]:
        """Return what `close` would return now."""
        with self._lock:
            tail, truncated = bytes(self._tail), self._truncated
        if len(tail) > self._limit:
            tail, truncated = tail[len(tail) - self._limit :], True
        if truncated:  # the cut may have gone through a character
            while tail and tail[0] & 0b1100_0000 == 0b1000_0000:
                tail = tail[1:]
        return clean(tail.decode("utf-8", "replace")), truncated

    def _keep(self, data: bytes) -> None:
        if self._closed:
            return
        if self._show is not None:
            self._show(data)
        if len(data) > self._limit:
            data, self._truncated = data[len(data) - self._limit :], True
        self._tail += data
        if len(self._tail) > 2 * self._limit:  # seldom, so that each byte is moved about once
            del self._tail[: len(self._tail) - self._limit]
            self._truncated = True

    def _log_lines(self, data: bytes) -> None:
        if self._closed:
            return
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if not self._may_log():
                # A flood: count, and look at no line of it.
                start = data.rfind(b"\n") + 1
                self._unlogged += data.count(b"\n", end, start) - 1
                self._line, self._overlong = b"", False
                break
            if not self._overlong:
                self._log_line(self._line + data[start : min(end, start + LINE_BYTES + 1)])
            self._line, self._overlong = b"", False
            start = end + 1
        if not self._overlong:
            self._line += data[start : start + LINE_BYTES + 1]
            if len(self._line) > LINE_BYTES:
                if self._may_log():
                    self._log_line(self._line)
                self._line, self._overlong = b"", True

    def _may_log(self) -> bool:
        if self._allowance < 1.0:
            now = self._clock.monotonic()
            passed = now - self._refilled_at
            if passed < 1.0:  # a second's worth at once: lines that belong together stay together
                self._unlogged += 1
                return False
            self._allowance = min(LINES_AT_ONCE, passed * LINES_A_SECOND)
            self._refilled_at = now
            self._tell_unlogged()
        self._allowance -= 1.0
        return True

    def _log_line(self, line: bytes) -> None:
        cut = len(line) > LINE_BYTES
        text = clean(line[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r"))
        self._log(text + " …" if cut else text)

    def _tell_unlogged(self) -> None:
        if self._unlogged:
            count, self._unlogged = self._unlogged, 0
            self._log(f"… {count} more lines, not logged: over {LINES_A_SECOND:.0f} a second")


def encode(text: str) -> bytes:
    """Return `text` in UTF-8; what UTF-8 cannot carry is escaped."""
    return text.encode("utf-8", "backslashreplace")


def clean(text: str) -> str:
    """Return `text` as any database and log can hold it: no NUL, nothing outside UTF-8."""
    return encode(text).decode("utf-8").replace("\x00", "\N{REPLACEMENT CHARACTER}")


_output: contextvars.ContextVar[Output | None] = contextvars.ContextVar("scheduler_service_output", default=None)


def enter_output(output: Output) -> None:
    """Send what this thread's or task's context prints and logs to `output`."""
    _output.set(output)


def current_output() -> Output | None:
    """Return where prints go that belong to a run, or None."""
    output = _output.get()
    return None if output is None or output.closed else output


class _Bytes:
    """The `buffer` of a routed stream while a run writes to it."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._output.write(data)
        return len(data)

    def flush(self) -> None:
        pass


class _RoutedStream:
    """`sys.stdout` or `sys.stderr`: what belongs to a run goes to its output, the rest to `original`."""

    def __init__(self, original: TextIO) -> None:
        self._original = original

    def write(self, text: str) -> int:
        output = current_output()
        if output is None:
            return self._original.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        output.write(encode(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if current_output() is None:
            self._original.flush()

    def close(self) -> None:
        if current_output() is None:  # a job that closes its stdout must not close the service's
            self._original.close()

    def isatty(self) -> bool:
        return current_output() is None and self._original.isatty()

    @property
    def buffer(self) -> Any:
        output = current_output()
        return self._original.buffer if output is None else _Bytes(output)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _KeepRecords(logging.Handler):
    """Keeps the log records of a run with its output."""

    def emit(self, record: logging.LogRecord) -> None:
        output = current_output()
        if output is not None:
            try:
                text = self.format(record)
            except Exception:  # the job's own mistake in a log call: Python's handlers report it the same way
                self.handleError(record)
            else:
                output.keep(text + "\n")


_keep_records = _KeepRecords()
_keep_records.setFormatter(logging.Formatter(RECORD_FORMAT))
_installing = threading.Lock()


def install() -> None:
    """Route `sys.stdout` and `sys.stderr`, and keep log records.

    Cheap when that is done already; asked before each run, because a job may have replaced the streams.
    """
    root = logging.getLogger()
    routed = isinstance(sys.stdout, _RoutedStream) and isinstance(sys.stderr, _RoutedStream)
    if routed and _keep_records in root.handlers:
        return
    with _installing:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _RoutedStream):
                setattr(sys, name, cast(TextIO, _RoutedStream(stream)))
        if _keep_records not in root.handlers:
            root.addHandler(_keep_records)
