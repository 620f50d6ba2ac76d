"""YAML text → a tree of nodes with positions.

Built from the parser's events, not by YAML's own constructors: nothing but maps, lists and scalars exists,
whatever tags a file carries.  `<<` merges maps.  Aliases share nodes, and what they would unfold to is counted,
so a small file cannot become a large tree; depth is limited too.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from scheduler_service.config import syntax
from scheduler_service.config.nodes import BrokenNode, Entry, ListNode, MapNode, Node, ScalarNode, described
from scheduler_service.config.problems import Position, Report

DEEPEST = 30  # levels; ours are six deep, the rest is for the arguments of jobs
MOST_VALUES = 500_000  # after aliases are unfolded; ten thousand jobs have about a tenth
MOST_REPAIRS = 20


class _TooMuchError(Exception):
    """The document is too deep or unfolds to too much; reported already."""


def read(text: str, report: Report) -> Node | None:
    """Return the tree of the only document in `text`, or None when the report says why not.

    Expressions such as `cron: * * * * *` without quotes are reported and then read as they were meant, so
    that the rest of the file is looked at as well.
    """
    for _ in range(MOST_REPAIRS):
        found = Report(report.file)
        node = repaired = None
        try:
            node = _Composer(text, found).document()
        except _TooMuchError:
            pass
        except yaml.MarkedYAMLError as error:
            explained = syntax.explain(error, text)
            report.add(explained.position, "", explained.message)
            repaired = explained.repaired
        if repaired is None:
            report.extend(found)
            return node
        text = repaired
    return None


def join(path: str, key: str) -> str:
    """Return the path of `key` in the map at `path`."""
    key = key if key and key.isprintable() and len(key) <= 100 else repr(key[:100])
    return f"{path}.{key}" if path else key


class _Composer:
    def __init__(self, text: str, report: Report) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._report = report
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._open: set[str] = set()
        self._count = 0

    def document(self) -> Node:
        """Return the first document, a scalar without value if there is none; a second one is a problem."""
        event = self._next()  # the start of the stream
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return ScalarNode(Position(1, 1, self._report.file), "", "", plain=True)
        node = self._compose(self._next(), "", 0)
        self._next()  # the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            message = "a second document begins here; a configuration is one: remove this line or what follows"
            self._report.add(self._position(event), "", message)
        return node

    def _next(self) -> yaml.Event:
        return next(self._events)

    def _compose(self, event: yaml.Event, path: str, depth: int) -> Node:
        position = self._position(event)
        before = self._count
        self._count += 1
        if depth > DEEPEST:
            self._too_much(position, path.partition("[")[0], f"is more than {DEEPEST} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), position, path)
        assert isinstance(event, yaml.NodeEvent)  # noqa: S101  # the parser gives nothing else here
        tag = getattr(event, "tag", None)
        if tag is not None:
            # Neither a tag nor the name of an alias is shown: it may be a secret that begins with that character.
            message = "tags are not used here: remove it, or put a value that begins with ! in quotes"
            self._report.add(position, path, message)
        if event.anchor is not None:
            self._open.add(event.anchor)
        node: Node
        if isinstance(event, yaml.SequenceStartEvent):
            node = ListNode(position, tuple(self._items(path, depth)))
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._map(position, path, depth)
        else:
            assert isinstance(event, yaml.ScalarEvent)  # noqa: S101  # the only kind left
            node = self._scalar(event, position, path)
        if event.anchor is not None:
            self._open.discard(event.anchor)
            self._anchors[event.anchor] = node, self._count - before
        if self._count > MOST_VALUES:
            self._too_much(position, path, f"the aliases here make the file more than {MOST_VALUES:,} values long")
        return node

    def _alias(self, name: str, position: Position, path: str) -> Node:
        if name in self._open:
            self._report.add(position, path, "this alias stands inside what it names")
        elif name not in self._anchors:
            message = "this begins with '*', as an alias, and no '&' before it has its name; put a text in quotes"
            self._report.add(position, path, message)
        else:
            node, size = self._anchors[name]
            self._count += size
            return node
        return BrokenNode(position)

    def _scalar(self, event: yaml.ScalarEvent, position: Position, path: str) -> Node:
        text: str = event.value
        for character in text:
            if character == "\0" or "\ud800" <= character <= "\udfff":
                message = f"the escape for U+{ord(character):04X} is not a character that can be used: remove it"
                self._report.add(position, path, message)
                return BrokenNode(position)
        return ScalarNode(position, text, text, plain=event.style is None)

    def _items(self, path: str, depth: int) -> Iterator[Node]:
        index = 0
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            yield self._compose(event, f"{path}[{index}]", depth + 1)
            index += 1

    def _map(self, position: Position, path: str, depth: int) -> MapNode:
        entries: dict[str, Entry] = {}
        repeated: list[tuple[str, Entry]] = []
        merges: list[MapNode] = []
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            place = self._position(event)
            if not isinstance(event, yaml.ScalarEvent):
                node = self._compose(event, path, depth + 1)
                kind = "an alias" if isinstance(event, yaml.AliasEvent) else described(node)
                self._compose(self._next(), path, depth + 1)
                self._report.add(place, path, f"{kind} cannot be a key; put a value with {{ or [ in it in quotes")
                continue
            key: str = event.value
            below = join(path, key)
            node = self._compose(self._next(), below, depth + 1)
            if key == "<<" and event.style is None:
                merges += self._merged(node, below)
            elif key in entries:
                line = entries[key].position.line
                self._report.add(place, below, f"is set twice; line {line} sets it too: keep one")
                repeated.append((key, Entry(place, node)))
            else:
                entries[key] = Entry(place, node)
        for merge in merges:
            for key, entry in merge.entries.items():
                entries.setdefault(key, entry)
        return MapNode(position, entries, tuple(repeated))

    def _merged(self, node: Node, path: str) -> list[MapNode]:
        nodes = node.items if isinstance(node, ListNode) else (node,)
        for wrong in nodes:
            if not isinstance(wrong, MapNode | BrokenNode):
                message = f"merges maps, not {described(wrong)}; write <<: *name, and &name before a map further up"
                self._report.add(wrong.position, path, message)
        return [merge for merge in nodes if isinstance(merge, MapNode)]

    def _too_much(self, position: Position, path: str, message: str) -> None:
        self._report.add(position, path, message)
        raise _TooMuchError

    def _position(self, event: yaml.Event) -> Position:
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        return Position(line, column, self._report.file)
