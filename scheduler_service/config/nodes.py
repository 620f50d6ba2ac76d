"""A YAML document as a tree that knows where each value stands.

Plain scalars mean less than in YAML 1.1: only `true` and `false` are booleans, only decimal numbers are
numbers, and `12:30`, `010`, `1_000`, `yes`, `2026-01-31` are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from scheduler_service.config.problems import Position

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "false": False}
LONGEST_NUMBER = 100  # characters; a longer one is text

Plain: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A single value.  `source` is what stands in the file; `text` is that with variables replaced."""

    position: Position
    text: str
    source: str
    plain: bool  # not in quotes, so it may be a number or a boolean
    hidden: bool = False  # came from a variable or a file: must not be shown

    @property
    def value(self) -> Plain:
        """What the text means: only a plain one can be anything but text."""
        return resolve(self.text) if self.plain else self.text

    @property
    def shown(self) -> str:
        """The value for a message: as it stands in the file, shortened."""
        text = self.source if len(self.source) <= 60 else self.source[:60] + "…"
        return repr(text)


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list."""

    position: Position
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One `key: value` of a map, where the key stands, and what merge key brought it if any."""

    position: Position
    node: Node


@dataclass(frozen=True, slots=True)
class MapNode:
    """A map.  `repeated` are further entries with a key that is there already: wrong, but looked at too."""

    position: Position
    entries: Mapping[str, Entry]
    repeated: tuple[tuple[str, Entry], ...] = ()


@dataclass(frozen=True, slots=True)
class BrokenNode:
    """Something of which it has been told already what is wrong."""

    position: Position


Node: TypeAlias = ScalarNode | ListNode | MapNode | BrokenNode


def resolve(text: str) -> Plain:
    """Return what a plain scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= LONGEST_NUMBER and text[-1] in "0123456789.":
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    return text


def canonical(node: Node) -> object:
    """Return what the tree means before variables are replaced, for a hash: no order of keys, no positions."""
    match node:
        case ScalarNode():
            value = resolve(node.source) if node.plain else node.source
            return [type(value).__name__, str(value)]
        case ListNode():
            return [canonical(item) for item in node.items]
        case MapNode():
            return {key: canonical(entry.node) for key, entry in node.entries.items()}
        case BrokenNode():
            return None


def described(node: Node) -> str:
    """Return what kind of value this is, for a message."""
    match node:
        case ListNode():
            return "a list"
        case MapNode():
            return "a map"
        case BrokenNode():
            return "nothing"
        case ScalarNode(hidden=True):
            return f"the value of {node.shown}"
    match node.value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {node.source}"
        case int() | float():
            return f"the number {node.source}"
        case str():
            return f"the text {node.shown}"
