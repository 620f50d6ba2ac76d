"""The kinds of values that settings have: how to read one from a node, and its JSON Schema.

A reader returns the value, or reports what is wrong and returns WRONG.  Of values that came from a variable it
tells what was expected and where, never what was there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, StrEnum
from typing import Any, Final, TypeAlias

from pydantic import SecretStr

from scheduler_service import schedule
from scheduler_service.config import values
from scheduler_service.config.nodes import BrokenNode, Node, ScalarNode, described, resolve
from scheduler_service.config.problems import Report
from scheduler_service.config.suggestions import did_you_mean
from scheduler_service.config.values import WrongValueError, duration_text, size_text

JsonSchema: TypeAlias = dict[str, Any]


class Wrong(Enum):
    """The type of WRONG, which stands for a value that could not be read; reported already."""

    WRONG = "wrong"


WRONG: Final = Wrong.WRONG
VARIABLE: Final[JsonSchema] = {"type": "string", "pattern": r"\$\{[^}]+\}"}

ReadNode: TypeAlias = Callable[[Node, str, Report], Any]
Convert: TypeAlias = Callable[[ScalarNode], Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """Annotates a field of a model: how to make its value of a node, and what to tell an editor.

    `read` returns the value or WRONG; `write` is its inverse for values that are not WRONG.
    """

    read: ReadNode
    schema: Mapping[str, Any]
    write: Callable[[Any], Any] = str


def scalar(
    expected: str,
    convert: Convert,
    schema: JsonSchema,
    write: Callable[[Any], Any] = str,
    *,
    optional: bool = False,
    secret: bool = False,
) -> Kind:
    """Return the kind of one value, made by `convert`, which raises WrongValueError.

    With `optional`, nothing and the word none mean None.  A `secret` is never shown: `convert` must not either;
    and for it only the word means None, because nothing is rather a value that was lost on its way.
    """

    def read(node: Node, path: str, report: Report) -> Any:
        if isinstance(node, BrokenNode):
            return WRONG
        if not isinstance(node, ScalarNode):
            message = f"expected {expected}, got {described(node)}"
        elif optional and (node.text == "none" or (node.value is None and not secret)):
            return None
        elif node.value is None and not node.hidden:
            message = f"has no value; write {expected}, or leave the key out"
        else:
            try:
                return convert(node)
            except WrongValueError as error:
                got = "" if secret else f", got {described(node)}"
                message = str(error) or f"expected {expected}{got}"
            if node.hidden:
                message = f"{node.shown} does not hold {expected}"
        report.add(node.position, path, message)
        return WRONG

    options = [schema, VARIABLE, *([{"enum": ["none"] if secret else [None, "none"]}] if optional else [])]
    free = schema == {"type": "string"} and not optional
    return Kind(read, schema if free else {"anyOf": options}, lambda value: "none" if value is None else write(value))


def string(node: ScalarNode) -> str:
    """Return the text of a node that must be text; what came from a variable always is."""
    if not node.hidden and not isinstance(node.value, str):
        raise WrongValueError(f"expected text, got {described(node)}; put it in quotes: '{node.source}'")
    return node.text


def text(expected: str = "text", pattern: str = r"(?s).*\S.*") -> Kind:
    """Return the kind of a string that matches `pattern` as a whole."""
    compiled = re.compile(pattern, re.ASCII)

    def convert(node: ScalarNode) -> str:
        if not compiled.fullmatch(string(node)):
            raise WrongValueError
        return node.text

    plain = pattern.startswith("(?s)")  # which other readers of patterns do not know
    return scalar(expected, convert, {"type": "string"} if plain else {"type": "string", "pattern": f"^({pattern})$"})


def secret(expected: str, check: Callable[[str], str | None] | None = None, *, optional: bool = False) -> Kind:
    """Return the kind of a string that is never shown; `check` returns what is wrong with it, or None."""

    def convert(node: ScalarNode) -> SecretStr:
        if (not node.hidden and not isinstance(node.value, str)) or not node.text.strip():
            raise WrongValueError
        if check is not None and (problem := check(node.text)) is not None:
            raise WrongValueError(problem)
        return SecretStr(node.text)

    return scalar(expected, convert, {"type": "string"}, SecretStr.get_secret_value, optional=optional, secret=True)


def boolean() -> Kind:
    """Return the kind of true and false, which nothing else stands for."""

    def convert(node: ScalarNode) -> bool:
        value = resolve(node.text) if node.hidden else node.value
        if isinstance(value, bool):
            return value
        word = node.text.lower()
        if word in ("true", "yes", "on", "y", "false", "no", "off", "n", "1", "0"):
            meant = "true" if word in ("true", "yes", "on", "y", "1") else "false"
            raise WrongValueError(f"{node.shown} is not a boolean here; write {meant}, without quotes")
        raise WrongValueError

    return scalar("true or false", convert, {"type": "boolean"}, bool)


def integer(least: int, most: int, *, optional: bool = False) -> Kind:
    """Return the kind of a whole number within limits."""
    expected = f"a whole number from {least:,} to {most:,}" if most < 10**9 else "a whole number"

    def convert(node: ScalarNode) -> int:
        value = resolve(node.text) if node.hidden else node.value
        if isinstance(value, str) and re.fullmatch(r"[-+]?[\d_]+|0[xob][\da-fA-F]+|\d+(:\d+)+", value):
            raise WrongValueError(
                f"{node.shown} is not a number here; write decimal digits, without quotes or leading zeros"
            )
        if isinstance(value, bool) or not isinstance(value, int):
            raise WrongValueError
        if not least <= value <= most:
            raise WrongValueError(f"{value} is not between {least} and {most}")
        return value

    schema: JsonSchema = {"type": "integer", "minimum": least, "maximum": most}
    return scalar(expected, convert, schema, int, optional=optional)


def number(least: float, most: float) -> Kind:
    """Return the kind of a number within limits."""

    def convert(node: ScalarNode) -> float:
        value = resolve(node.text) if node.hidden else node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WrongValueError
        if not least <= value <= most:
            raise WrongValueError(f"{node.source} is not between {least:g} and {most:g}")
        return float(value)

    schema: JsonSchema = {"type": "number", "minimum": least, "maximum": most}
    return scalar(f"a number from {least:g} to {most:g}", convert, schema, float)


def duration(
    least: timedelta = timedelta(milliseconds=1), most: timedelta = values.LONGEST, *, optional: bool = False
) -> Kind:
    """Return the kind of a duration within limits."""

    def convert(node: ScalarNode) -> timedelta:
        value = values.duration(node.text)
        if value < least:
            raise WrongValueError(f"{node.text} is too short; write {duration_text(least)} or more")
        if value > most:
            raise WrongValueError(f"{node.text} is too long; write {duration_text(most)} or less")
        return value

    schema: JsonSchema = {"type": "string", "pattern": f"^({values.DURATION_PATTERN})$"}
    return scalar("a duration such as 30s or 1h30m", convert, schema, duration_text, optional=optional)


def size(least: int, most: int) -> Kind:
    """Return the kind of a number of bytes within limits."""

    def convert(node: ScalarNode) -> int:
        value = values.size(node.text)
        if not least <= value <= most:
            raise WrongValueError(f"{node.text} is not between {size_text(least)} and {size_text(most)}")
        return value

    return scalar(
        "a size such as 64KiB", convert, {"type": "string", "pattern": f"^({values.SIZE_PATTERN})$"}, size_text
    )


def moment() -> Kind:
    """Return the kind of a moment; where it has no offset, the zone of the job will tell."""
    schema: JsonSchema = {"type": "string", "pattern": f"^({values.MOMENT_PATTERN})$"}
    return scalar("a moment such as 2026-01-31T12:00:00Z", lambda node: values.moment(node.text), schema)


def timezone() -> Kind:
    """Return the kind of the name of a time zone."""

    def convert(node: ScalarNode) -> str:
        try:
            return schedule.zone(string(node)).key
        except schedule.ScheduleError as error:
            raise WrongValueError(str(error).removeprefix("timezone ")) from None

    return scalar("the name of a time zone such as Europe/Berlin", convert, {"type": "string"})


def choice(words: Iterable[str] | type[StrEnum]) -> Kind:
    """Return the kind of one of some words; a member of the enum if it is one."""
    known = {str(word): word for word in words}
    expected = f"one of {', '.join(known)}"

    def convert(node: ScalarNode) -> str:
        word = node.text if node.hidden or isinstance(node.value, str) else None
        if word is None:
            raise WrongValueError
        if word not in known:
            raise WrongValueError(f"{node.shown} is not {expected}{did_you_mean(word, known)}")
        return known[word]

    return scalar(expected, convert, {"enum": list(known)})
