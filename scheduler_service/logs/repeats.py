"""Fold failures that repeat: the first is shown, then one a minute with a count.

    event --> seen in the last minute? --no--> shown, with `repeated` where some were held back
                        |yes
                        `--> held back and counted; told at the end of the minute at the latest

Two failures are the same when they differ in nothing but counters, durations and which tick they hit.
What ends a failure tells the count and clears it, so that the next failure is shown at once.  What names
one attempt each time is never folded: every lost attempt is named.  Neither is what answers a person: an edit
that is as wrong as the last one, in another line.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scheduler_service.clock import Clock
from scheduler_service.events import WARNING

REPEAT_SECONDS = 60.0
KEYS_AT_MOST = 1000

_VARYING = frozenset({"run", "attempt", "scheduled_at", "until", "count", "duration_seconds", "exit_code"})
_NAMED_EACH = frozenset(
    {"attempt_lost", "attempt_returned", "result_cut", "result_refused", "thread_crashed"}
    | {"config_rejected", "restart_needed", "module_changed", "thread_stuck"}
)
_WORDS = frozenset({"error", "message"})  # numbers in them are addresses, sizes, times
_OF_RUNS = frozenset({"run_failed", "run_retrying"})
# what ends failures: their names, and the field that both have in common
_ENDS = {
    "store_recovered": (frozenset({"store_unavailable"}), "part"),
    "leadership_resumed": (frozenset({"leadership_suspect"}), "term"),
    "leader_active": (frozenset({"leader_idle"}), "leader"),
    "run_finished": (_OF_RUNS, "job"),
}
_ENDED_FIELDS = {failure: field for failures, field in _ENDS.values() for failure in failures}
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line to be: when (wall-clock seconds), how grave, what, and its fields in the order they are read."""

    at: float
    level: int
    name: str
    fields: Mapping[str, Any]
    of_job: bool = False  # a job wrote it: never folded, and the first to be dropped


@dataclass(slots=True)
class _Seen:
    entry: Entry
    shown_at: float  # boot-clock seconds
    held_count: int = 0


class Repeats:
    """What was shown lately.  For one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[Key, _Seen] = OrderedDict()  # longest shown first
        # Of those that something ends, by name and by what they have in common with it: each run ends, and asks.
        self._open: dict[tuple[str, Any], dict[Key, None]] = {}

    def admit(self, entry: Entry) -> list[Entry]:
        """Return what to show now because of `entry`: itself, with a count perhaps, or nothing."""
        told = self._end(*_ENDS[entry.name], entry) if entry.name in _ENDS else []
        if entry.level < WARNING or entry.of_job or entry.name in _NAMED_EACH:
            return [*told, entry]
        key = _key(entry)
        now = self._clock.monotonic()
        seen = self._seen.get(key)
        if seen is not None and now - seen.shown_at < REPEAT_SECONDS:
            seen.entry = entry
            seen.held_count += 1
            return told
        held_count = 0 if seen is None else seen.held_count
        if seen is not None:
            self._forget(key)
        self._remember(key, _Seen(entry, now))
        if len(self._seen) > KEYS_AT_MOST:
            told += _told(self._forget(next(iter(self._seen))))
        return [*told, _with_count(entry, held_count)]

    def due(self) -> list[Entry]:
        """Return the newest of each failure that was held back for a minute, with the count; forget the quiet ones."""
        now = self._clock.monotonic()
        told = []
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if now - seen.shown_at < REPEAT_SECONDS:
                break
            self._forget(key)
            if seen.held_count:
                told += _told(seen)
                self._remember(key, _Seen(seen.entry, now))
        return told

    def wait_seconds(self) -> float | None:
        """Return how long until something may be due; None if nothing is held back."""
        if not any(seen.held_count for seen in self._seen.values()):
            return None
        oldest = next(iter(self._seen.values()))
        return max(0.0, oldest.shown_at + REPEAT_SECONDS - self._clock.monotonic())

    def all(self) -> list[Entry]:
        """Return everything that is held back, with the counts, and forget it."""
        told = [entry for seen in self._seen.values() for entry in _told(seen)]
        self._seen.clear()
        self._open.clear()
        return told

    def _remember(self, key: Key, seen: _Seen) -> None:
        self._seen[key] = seen
        if (common := _common(seen.entry)) is not None:
            self._open.setdefault(common, {})[key] = None

    def _forget(self, key: Key) -> _Seen:
        seen = self._seen.pop(key)
        if (common := _common(seen.entry)) is not None:
            keys = self._open[common]
            del keys[key]
            if not keys:
                del self._open[common]
        return seen

    def _end(self, names: frozenset[str], field: str, end: Entry) -> list[Entry]:
        value = end.fields.get(field)
        keys = [key for name in names for key in self._open.get((name, value), ())]
        return [entry for key in keys for entry in _told(self._forget(key))]


def ends_failures(name: str) -> bool:
    """Whether an event ends a failure, so that it matters even if it is not shown."""
    return name in _ENDS


def _common(entry: Entry) -> tuple[str, Any] | None:
    """Return by what the end of a failure finds it; None for one that nothing ends."""
    field = _ENDED_FIELDS.get(entry.name)
    return None if field is None else (entry.name, entry.fields.get(field))


def _key(entry: Entry) -> Key:
    if entry.name in _OF_RUNS:
        # The same mistake has the same last line, though its traceback may differ.
        last = str(entry.fields.get("error", "")).rpartition("\n")[2]
        return entry.name, entry.fields.get("job"), entry.fields.get("state"), _NUMBERS.sub("#", last)
    return entry.name, *(
        (name, _NUMBERS.sub("#", str(value)) if name in _WORDS else str(value))
        for name, value in entry.fields.items()
        if name not in _VARYING and not name.endswith(("_seconds", "_count"))
    )


def _told(seen: _Seen) -> list[Entry]:
    """Return the newest that was held back, with how many more there were."""
    return [_with_count(seen.entry, seen.held_count - 1)] if seen.held_count else []


def _with_count(entry: Entry, count: int) -> Entry:
    return replace(entry, fields={**entry.fields, "repeated": count}) if count > 0 else entry
