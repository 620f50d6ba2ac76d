"""Kinds of settings that hold lists and maps: commands, arguments, environments, tags, retries."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from scheduler_service.config.document import join
from scheduler_service.config.kinds import VARIABLE, WRONG, Kind
from scheduler_service.config.nodes import BrokenNode, ListNode, MapNode, Node, ScalarNode, described
from scheduler_service.config.problems import Report
from scheduler_service.config.sections import entries, fields, read_section

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCALAR = {"type": ["string", "number", "boolean"]}


def command() -> Kind:
    """Return the kind of a command: a string for the shell, or a list of words, of which none is empty."""

    def read(node: Node, path: str, report: Report) -> Any:
        if isinstance(node, ListNode):
            words = tuple(_word(item, f"{path}[{index}]", report) for index, item in enumerate(node.items))
            if not words or words[0] == "":
                report.add(node.position, path, "expected a program and its arguments, got nothing to start")
                return WRONG
            return WRONG if WRONG in words else words
        if isinstance(node, ScalarNode) and node.text.strip() and (node.hidden or isinstance(node.value, str)):
            return node.text
        if not isinstance(node, BrokenNode):
            expected = "expected a command for /bin/sh, or a list of a program and its arguments"
            report.add(node.position, path, f"{expected}, got {described(node)}")
        return WRONG

    return Kind(read, {"anyOf": [{"type": "string"}, {"type": "array", "items": _SCALAR, "minItems": 1}]})


def positional() -> Kind:
    """Return the kind of a list of any values."""

    def read(node: Node, path: str, report: Report) -> Any:
        if isinstance(node, ListNode):
            return tuple(found) if (found := plain_data(node)) is not WRONG else WRONG
        if isinstance(node, BrokenNode):
            return WRONG
        hint = "; arguments by name belong in kwargs" if isinstance(node, MapNode) else ""
        report.add(node.position, path, f"expected a list such as [1, two], got {described(node)}{hint}")
        return WRONG

    return Kind(read, {"type": "array"}, list)


def by_name() -> Kind:
    """Return the kind of a map from names of parameters to any values."""

    def read(node: Node, path: str, report: Report) -> Any:
        if not isinstance(node, MapNode):
            hint = "; arguments by position belong in args" if isinstance(node, ListNode) else ""
            if not isinstance(node, BrokenNode):
                report.add(node.position, path, f"expected a map such as {{days: 30}}, got {described(node)}{hint}")
            return WRONG
        wrong = False
        for key, place, _ in entries(node, path, report, expected="a map"):
            if not key.isidentifier():
                report.add(place, join(path, key), "this cannot be the name of a parameter")
                wrong = True
        return WRONG if wrong else plain_data(node)

    return Kind(read, {"type": "object"}, dict)


def environment() -> Kind:
    """Return the kind of a map from names of environment variables to text."""

    def read(node: Node, path: str, report: Report) -> Any:
        if not isinstance(node, MapNode):
            if not isinstance(node, BrokenNode):
                report.add(node.position, path, f"expected a map such as {{LANG: C}}, got {described(node)}")
            return WRONG
        found: dict[str, Any] = {}
        for key, place, value in entries(node, path, report, expected="a map"):
            if not _VARIABLE_NAME.fullmatch(key):
                report.add(place, join(path, key), "environment variables have names of letters, digits and _")
                found[key] = WRONG
            else:
                found.setdefault(key, _word(value, join(path, key), report))
        return WRONG if WRONG in found.values() else found

    return Kind(read, {"type": "object", "additionalProperties": _SCALAR}, dict)


def texts(expected: str, known: tuple[str, ...] | None = None) -> Kind:
    """Return the kind of a list of strings, each once; of `known` ones where these are given."""

    def read(node: Node, path: str, report: Report) -> Any:
        if not isinstance(node, ListNode):
            if not isinstance(node, BrokenNode):
                report.add(node.position, path, f"expected {expected}, got {described(node)}")
            return WRONG
        found: list[Any] = []
        for index, item in enumerate(node.items):
            word = _word(item, f"{path}[{index}]", report)
            if word is not WRONG:
                shown = item.shown if isinstance(item, ScalarNode) else ""
                if known is not None and word not in known:
                    report.add(item.position, f"{path}[{index}]", f"{shown} is not one of {', '.join(known)}")
                    word = WRONG
                elif word in found:
                    report.add(item.position, f"{path}[{index}]", f"{shown} stands here twice; remove one")
                    word = WRONG
            found.append(word)
        if known is not None and not found:
            report.add(node.position, path, f"expected {expected}, got an empty list")
            return WRONG
        return WRONG if WRONG in found else tuple(found)

    items = {"anyOf": [{"enum": list(known)}, VARIABLE]} if known is not None else _SCALAR
    return Kind(read, {"type": "array", "items": items, "uniqueItems": True}, list)


def section(model: type[BaseModel]) -> Kind:
    """Return the kind of a map with the settings of a model; its value is a Section, so that it can be merged."""

    def read(node: Node, path: str, report: Report) -> Any:
        if isinstance(node, BrokenNode):
            return WRONG
        wrong = isinstance(node, ListNode) or (isinstance(node, ScalarNode) and node.value is not None)
        found = read_section(model, node, path, report, position=node.position)
        return WRONG if wrong else found

    def write(value: BaseModel) -> dict[str, Any]:
        return {key: kind.write(getattr(value, name)) for key, name, kind, _ in fields(model)}

    return Kind(read, object_schema(model), write)


def object_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of a map with the settings of a model."""
    properties = {}
    for key, name, kind, default in fields(model):
        properties[key] = {"description": model.model_fields[name].description, **kind.schema}
        if default is not None and model.model_fields[name].default is not None:
            properties[key]["default"] = kind.write(default)
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _word(node: Node, path: str, report: Report) -> Any:
    """Return the text of a scalar as it stands there, also where it looks like a number."""
    if isinstance(node, ScalarNode) and (node.value is not None or node.hidden):
        return node.text
    if not isinstance(node, BrokenNode):
        hint = "; write '' for an empty text" if isinstance(node, ScalarNode) else ""
        report.add(node.position, path, f"expected text, got {described(node)}{hint}")
    return WRONG


def plain_data(node: Node) -> Any:
    """Return what a tree means as plain Python values, or WRONG if any of it is broken."""
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            items = [plain_data(item) for item in node.items]
            return WRONG if any(item is WRONG for item in items) else items
        case MapNode():
            found = {key: plain_data(entry.node) for key, entry in node.entries.items()}
            return WRONG if any(value is WRONG for value in found.values()) else found
        case BrokenNode():
            return WRONG
