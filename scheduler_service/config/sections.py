"""One map of settings, read as far as it can be: good values, wrong ones, and where each of them stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from scheduler_service.config.document import join
from scheduler_service.config.kinds import WRONG, Kind
from scheduler_service.config.nodes import BrokenNode, ListNode, MapNode, Node, ScalarNode, described
from scheduler_service.config.problems import Position, Report
from scheduler_service.config.suggestions import close_match

LISTED = 8  # so many known keys are named where none is close

Explain = Callable[[str], str | None]


@cache
def fields(model: type[BaseModel]) -> tuple[tuple[str, str, Kind, Any], ...]:
    """Return key in the file, name, kind and default of each setting of a model."""
    return tuple(
        (field.alias or name, name, kind, field.default)
        for name, field in model.model_fields.items()
        for kind in field.metadata
        if isinstance(kind, Kind)
    )


class Section:
    """What one map of the file says, after the settings of a model.

    A setting that is not written comes from `fallback`, then from the model's default.
    """

    def __init__(self, model: type[BaseModel], path: str, position: Position, fallback: Section | None = None) -> None:
        self.model = model
        self.path = path
        self.position = position
        self.fallback = fallback
        self.values: dict[str, Any] = {}
        self.hidden: set[str] = set()
        self._places: dict[str, Position] = {}
        self._defaults = {name: default for _, name, _, default in fields(model)}
        self._keys = {name: key for key, name, _, _ in fields(model)}

    def note(self, name: str, position: Position, value: Any, *, hidden: bool) -> None:
        """Keep what was read for one setting; WRONG if it could not be."""
        self._places[name] = position
        self.values[name] = value
        if hidden:
            self.hidden.add(name)

    def get(self, name: str) -> Any:
        """Return the value that counts, or WRONG."""
        source = self._source(name)
        return source.values[name] if source is not None else self._defaults[name]

    def known(self, *names: str) -> bool:
        """Whether all of these could be read."""
        return all(self.get(name) is not WRONG for name in names)

    def has(self, name: str) -> bool:
        """Whether the map itself says something about the setting, right or wrong."""
        return name in self._places

    def shows(self, *names: str) -> bool:
        """Whether a message may show the values of these settings: none came from a variable."""
        sources = [(self._source(name), name) for name in names]
        return not any(source is not None and name in source.hidden for source, name in sources)

    def place(self, *names: str) -> tuple[Position, str]:
        """Return position and path of the first of these settings that is written, here or in the fallback."""
        for name in names:
            source = self._source(name)
            if source is not None:
                return source._places[name], join(source.path, source._keys[name])
        return self.position, self.path

    def good(self) -> dict[str, Any]:
        """Return the values that were written and could be read, by name; fit for the model."""
        return {name: value for name, value in self.values.items() if value is not WRONG}

    def _source(self, name: str) -> Section | None:
        if name in self._places:
            return self
        return self.fallback._source(name) if self.fallback is not None else None


def read_section(
    model: type[BaseModel],
    node: Node | None,
    path: str,
    report: Report,
    *,
    position: Position,
    fallback: Section | None = None,
    explain: Explain | None = None,
) -> Section:
    """Read the map at `node`, which stands under a key at `position`; nothing is an empty map.

    `explain` answers unknown keys, or returns None for the usual "no such setting".
    """
    section = Section(model, path, position, fallback)
    kinds = {key: (name, kind) for key, name, kind, _ in fields(model)}
    for key, place, value in entries(node, path, report, expected="a map of settings"):
        below = join(path, key)
        if key in kinds:
            name, kind = kinds[key]
            found = kind.read(value, below, report)
            if not section.has(name):
                section.note(name, value.position, found, hidden=contains_hidden(value))
        else:
            report.add(place, below, (explain(key) if explain else None) or unknown(key, kinds))
    return section


def entries(node: Node | None, path: str, report: Report, *, expected: str) -> list[tuple[str, Position, Node]]:
    """Return the entries of a map with the positions of their keys, repeated ones last; no map is reported."""
    match node:
        case MapNode():
            everything = [*node.entries.items(), *node.repeated]
            return [(key, entry.position, entry.node) for key, entry in everything]
        case ListNode() | ScalarNode():
            if isinstance(node, ListNode) or node.value is not None:
                # Not the text itself: after `database:` it may be a URL, with a password in it.
                text = isinstance(node, ScalarNode) and not node.hidden and isinstance(node.value, str)
                report.add(node.position, path, f"expected {expected}, got {'a text' if text else described(node)}")
    return []


def unknown(key: str, known: Mapping[str, object]) -> str:
    """Return what to say about a key that does not exist."""
    match = close_match(key, known)
    if match is not None:
        return f"no such setting; did you mean {match!r}?"
    return f"no such setting; there are {', '.join(known)}" if len(known) <= LISTED else "no such setting"


def contains_hidden(node: Node) -> bool:
    """Whether anything in the tree came from a variable or a file."""
    match node:
        case ScalarNode():
            return node.hidden
        case ListNode():
            return any(contains_hidden(item) for item in node.items)
        case MapNode():
            return any(contains_hidden(entry.node) for entry in node.entries.values())
        case BrokenNode():
            return True
