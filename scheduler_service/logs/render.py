"""Make lines of entries: text for a person at a terminal, JSON for whatever collects logs.

    12:00:05.012 INFO  leader_elected       term=4 lock_id=1 how=expired instance=web-1-7f3a
    12:00:05.214 ERROR run_failed           job=backup run=12 scheduled_at=2026-11-23T12:00:00Z …
        Traceback (most recent call last):
        …
    12:00:05.313 INFO  run_output           job=hello run=13 instance=web-1-7f3a | 3 files removed

Both have the same fields.  A line holds no control characters: what a job prints can neither forge a
line nor move the cursor.  Passwords in URLs and connection strings, bearer tokens and what is called a token or a
secret are blotted out wherever they stand.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Any

from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter

from scheduler_service.events import CATALOGUE
from scheduler_service.logs.repeats import Entry

LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
FIELD_CHARACTERS = 20_000
WORD_CHARACTERS = 100

_FIRST = ("instance", "term", "job", "scheduled_at", "run")
_PROSE = ("line", "message")  # free text: last on a text line, after a bar

_RESERVED = frozenset({"timestamp", "level", "event", "stack", "exception", "exc_info"})  # mean something to structlog

_URL_PASSWORD = re.compile(r"(\b[a-zA-Z][\w+.-]{0,30}://[^\s:/@]{0,200}):[^\s/]{1,500}@")
_NAMED_PASSWORD = re.compile(
    r"(?i)\b([\w-]{0,40}?(?:password|passwd|pwd|token|secret|api[_-]?key))=(?!\*\*\*)('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)"
)
_BEARER = re.compile(r"(?i)\b(bearer)\s+(?!\*\*\*)[\w.~+/=-]{8,}")  # of HTTP's header Authorization
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # tabs may stay
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PLAIN = re.compile(r"[^\s=\"'|]+")

_BOLD, _DIM, _RED, _YELLOW, _GREEN, _CYAN, _RESET = (
    f"\x1b[{code}m" for code in ("1", "2", "31;1", "33;1", "32", "36", "0")
)
_SHORT_LEVELS = {"warning": "WARN", "critical": "FATAL"}
_LEVEL_COLOURS = {"error": _RED, "critical": _RED, "warning": _YELLOW, "info": _GREEN, "debug": _DIM}

Render = Callable[[Entry], str]


def json_lines() -> Render:
    """Return a function that makes one JSON document, in one line, of an entry."""
    encode = json.JSONEncoder(ensure_ascii=False).encode  # made once: a burst has thousands of lines

    def render(entry: Entry) -> str:
        stamp = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds")
        line = {"timestamp": f"{stamp[:-6]}Z", "level": level_name(entry.level), "event": entry.name}
        first = {name: entry.fields[name] for name in _FIRST if name in entry.fields}
        line |= {name: plain(value) for name, value in {**first, **entry.fields}.items() if name not in line}
        return encode(line)

    return render


def text_lines(*, colours: bool) -> Render:
    """Return a function that makes a line for a person of an entry, and an indented block of a traceback."""
    renderer = ConsoleRenderer(columns=_columns(colours), sort_keys=False)

    def render(entry: Entry) -> str:
        stamp = datetime.fromtimestamp(entry.at, UTC).strftime("%H:%M:%S.%f")[:-3]
        fields = {name: plain(entry.fields[name]) for name in _reading_order(entry)}
        name = str(fields.pop("logger", entry.name))
        line: MutableMapping[str, Any] = {"timestamp": stamp, "level": level_name(entry.level), "event": name}
        prose = {name: fields.pop(name) for name in _PROSE if name in fields}
        instance = {"instance": fields.pop("instance")} if "instance" in fields else {}
        block = []
        for field, value in (fields | instance | prose).items():
            if isinstance(value, str) and "\n" in value.strip("\n"):
                block += [visible(part) for part in value.strip("\n").split("\n")]
                value = block[-1] if field not in _PROSE else value.strip("\n").split("\n")[0]  # noqa: PLW2901
            if value is not None:
                line[f"{field}_" if field in _RESERVED else field] = value
        if block:
            line["exception"] = "\n".join(f"    {part}" for part in block)
        return str(renderer(None, "", line))

    return render


def _reading_order(entry: Entry) -> list[str]:
    """Return the names of the fields, those of the catalogue first and in its order."""
    known = CATALOGUE[entry.name][1].replace("?", "").split() if entry.name in CATALOGUE else ["job", "run"]
    return [*(name for name in known if name in entry.fields), *(name for name in entry.fields if name not in known)]


def level_name(level: int) -> str:
    """Return the name of a level of Python's logging, its nearest below for odd ones."""
    return LEVELS.get(level) or LEVELS[max((known for known in LEVELS if known <= level), default=10)]


def _columns(colours: bool) -> list[Column]:
    def painted(colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if colours else text

    def time(key: str, value: object) -> str:  # noqa: ARG001  # structlog's signature
        return painted(_DIM, str(value))

    def level(key: str, value: object) -> str:  # noqa: ARG001  # structlog's signature
        return painted(_LEVEL_COLOURS[str(value)], f"{_SHORT_LEVELS.get(str(value), str(value).upper()):<5}")

    def event(key: str, value: object) -> str:  # noqa: ARG001  # structlog's signature
        return painted(_BOLD, f"{visible(str(value)):<20}")

    pair = KeyValueColumnFormatter(
        key_style=_CYAN if colours else "",
        value_style="",
        reset_style=_RESET if colours else "",
        value_repr=_shown,
    )

    def other(key: str, value: object) -> str:
        return f"| {visible(str(value))}" if key in _PROSE else pair(key, value)

    return [
        Column("timestamp", time),
        Column("level", level),
        Column("event", event),
        Column("", other),
    ]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    text = visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def visible(text: str) -> str:
    """Return `text` without colours, and with its control characters escaped."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), _COLOURS.sub("", text))


def redacted(text: str) -> str:
    """Return `text` without the passwords in it."""
    if "://" in text:
        text = _URL_PASSWORD.sub(r"\1:***@", text)
    if "=" in text:
        text = _NAMED_PASSWORD.sub(r"\1=***", text)
    return _BEARER.sub(r"\1 ***", text) if "bearer" in text.lower() else text


def without(text: str, secrets: Iterable[str]) -> str:
    """Return a line without these secrets, as they are or as JSON writes them."""
    for secret in secrets:
        for written in (secret, json.dumps(secret, ensure_ascii=False)[1:-1]):
            text = text.replace(written, "***")
    return text


def plain(value: Any) -> Any:
    """Return `value` as JSON knows it: times in ISO 8601 with Z, durations in seconds, no passwords."""
    kind = type(value)
    if kind is str:  # nearly all are one of these three, and this is asked of each field of each line
        return _prose(value)
    if kind is int:
        return value
    if kind is datetime:
        return _moment(value)
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _prose(value)
    if isinstance(value, float):
        return round(value, 6) if value == value and abs(value) != float("inf") else str(value)  # noqa: PLR0124  # NaN
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return round(value.total_seconds(), 6)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return _prose(f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value))


def _prose(text: str) -> str:
    return _known_word(text) if len(text) <= WORD_CHARACTERS else _whole_prose(text)


@functools.lru_cache(4096)
def _known_word(text: str) -> str:
    return _whole_prose(text)  # names of jobs, replicas and states: the same in thousands of lines


def _whole_prose(text: str) -> str:
    text = redacted(text)
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # no lone surrogates
    return text if len(text) <= FIELD_CHARACTERS else text[:FIELD_CHARACTERS] + " …"


@functools.lru_cache(256)  # a burst is of one tick
def _moment(value: datetime) -> str:
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    digits = "microseconds" if value.microsecond % 1000 else "milliseconds" if value.microsecond else "seconds"
    return value.isoformat(timespec=digits).replace("+00:00", "Z")
