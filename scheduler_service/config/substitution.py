"""Replace `${VAR}`, `${VAR:-default}` and `${file:/path}` in values; `$$` is a dollar.

What comes in this way may be a secret: the node says so (`hidden`), and every message shows what stands in
the file instead.  A lone dollar stays, so `$HOME` in a command is the shell's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from scheduler_service.config.document import join
from scheduler_service.config.nodes import BrokenNode, Entry, ListNode, MapNode, Node, ScalarNode
from scheduler_service.config.problems import Report

LARGEST_FILE = 64 * 1024  # bytes of a ${file:…}
_REFERENCE = re.compile(r"\$\$|\$\{([^{}$]*)(\}?)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _SubstitutionError(Exception):
    """What is wrong with a reference; its text shows no value."""


def substitute(node: Node, environ: Mapping[str, str], folder: Path, report: Report, path: str = "") -> Node:
    """Return the tree with variables replaced.  A value that cannot be had is reported and becomes a BrokenNode.

    Relative `${file:…}` are relative to `folder`.
    """
    match node:
        case ScalarNode() if "$" in node.source:
            try:
                text, hidden = _replaced(node.source, environ, folder)
            except _SubstitutionError as error:
                report.add(node.position, path, str(error))
                return BrokenNode(node.position)
            return ScalarNode(node.position, text, node.source, node.plain, hidden)
        case ListNode():
            items = (
                substitute(item, environ, folder, report, f"{path}[{index}]") for index, item in enumerate(node.items)
            )
            return ListNode(node.position, tuple(items))
        case MapNode():

            def below(key: str, entry: Entry) -> Entry:
                return Entry(entry.position, substitute(entry.node, environ, folder, report, join(path, key)))

            entries = {key: below(key, entry) for key, entry in node.entries.items()}
            return MapNode(node.position, entries, tuple((key, below(key, entry)) for key, entry in node.repeated))
    return node


def _replaced(source: str, environ: Mapping[str, str], folder: Path) -> tuple[str, bool]:
    """Return the text, and whether anything in it came from outside the file."""
    parts: list[str] = []
    end = 0
    hidden = False
    for found in _REFERENCE.finditer(source):
        parts.append(source[end : found.start()])
        end = found.end()
        if found[0] == "$$":
            parts.append("$")
        else:
            parts.append(_value(found[0], found[1], bool(found[2]), environ, folder))
            hidden = True
    return "".join([*parts, source[end:]]), hidden


def _value(written: str, inner: str, closed: bool, environ: Mapping[str, str], folder: Path) -> str:
    if not closed:
        raise _SubstitutionError(f"{written!r} is not closed by a }} of its own; write $${{ for a dollar and a brace")
    if inner.startswith("file:"):
        return _content(written, folder / inner.removeprefix("file:"))
    name, separator, default = inner.partition(":-")
    if not _VARIABLE.fullmatch(name):
        known = "${NAME}, ${NAME:-default} and ${file:/path} are replaced"
        raise _SubstitutionError(f"{written!r} is not a variable: {known}; write $${{ to leave it to the shell")
    value = environ.get(name)
    if separator:
        value = value or default
    if value is None:
        raise _SubstitutionError(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise _SubstitutionError(f"the variable {name} holds something that is not UTF-8 text")
    return value


def _content(written: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise _SubstitutionError(f"{written!r} cannot be read: {reason}") from None
    if len(content) > LARGEST_FILE:
        raise _SubstitutionError(f"{written!r} names a file of more than {LARGEST_FILE // 1024} KiB")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise _SubstitutionError(f"{written!r} names a file that is not UTF-8 text") from None
    if "\0" in text:
        raise _SubstitutionError(f"{written!r} names a file that is not text")
    return text.removesuffix("\n").removesuffix("\r")
