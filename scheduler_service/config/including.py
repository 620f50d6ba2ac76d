"""Which further files with jobs there are: `include: [jobs.d/*.yaml]` → paths.

Patterns are relative to the file that they stand in.  `*`, `?` and `[…]` match within one name, and no name
that begins with a dot: `..data` and the like in the volumes of Kubernetes are not for us.  A pattern that matches
nothing is allowed; what cannot be looked at is a problem, or a disk that fails would look like jobs taken away.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from scheduler_service.config.nodes import BrokenNode, ListNode, Node, ScalarNode, described
from scheduler_service.config.problems import Report

MOST_FILES = 1000
SCHEMA: dict[str, Any] = {
    "description": "Further files with jobs: patterns such as jobs.d/*.yaml, relative to this file.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}
_EXPECTED = "expected a pattern such as jobs.d/*.yaml, or a list of them"


@dataclass(slots=True)
class Included:
    """What a main file includes."""

    patterns: list[str] = field(default_factory=list)  # absolute
    files: dict[Path, str] = field(default_factory=dict)  # absolute paths in reading order, and what messages call them


class _PatternError(Exception):
    """Why what a pattern names cannot be read."""


def find(node: Node | None, main: Path, report: Report) -> Included:
    """Return what the value of `include` in the file `main` names; a wrong pattern is reported and left out."""
    included = Included()
    folder = main.absolute().parent
    for pattern, path in _patterns(node, report):
        text, wildcard = pattern.text, glob.has_magic(pattern.text)
        if (refusal := _refusal(pattern)) is not None:
            report.add(pattern.position, path, refusal)
            continue
        included.patterns.append(os.path.join(glob.escape(str(folder)), text))  # noqa: PTH118  # a pattern is no path
        try:
            found = _matching(folder, text) if wildcard else _named(folder, text)
        except _PatternError as error:
            report.add(pattern.position, path, str(error))
            continue
        files = {Path(os.path.normpath(folder / name)): str(main.parent / name) for name in found}
        itself = files.pop(Path(os.path.normpath(main.absolute())), None)
        if itself is not None and not wildcard:
            report.add(pattern.position, path, "this is the file itself; remove it")
        elif not files and wildcard:
            report.warn(pattern.position, path, "matches no file; patterns are relative to this file")
        for file, shown in files.items():
            included.files.setdefault(file, shown)
        if len(included.files) > MOST_FILES:
            message = f"with these, more than {MOST_FILES:,} files are included; write more jobs into each"
            report.add(pattern.position, path, message)
            break
    return included


def _patterns(node: Node | None, report: Report) -> Iterator[tuple[ScalarNode, str]]:
    """Yield the patterns and their paths in the file."""
    in_list = isinstance(node, ListNode)
    items = node.items if isinstance(node, ListNode) else (node,) if node is not None else ()
    for index, item in enumerate(items):
        path = f"include[{index}]" if in_list else "include"
        if isinstance(item, ScalarNode) and (item.hidden or isinstance(item.value, str)) and item.text.strip():
            yield item, path
        elif not isinstance(item, BrokenNode):
            report.add(item.position, path, f"{_EXPECTED}, got {described(item)}")


def _refusal(pattern: ScalarNode) -> str | None:
    """Return why a pattern is not looked for, or None."""
    if pattern.hidden:
        return "variables cannot be used here, because messages show the names of files; write the name itself"
    return "'**' is not used here; name each level: jobs.d/*.yaml, jobs.d/*/*.yaml" if "**" in pattern.text else None


def _named(folder: Path, name: str) -> list[str]:
    """Return the one file that a pattern without wildcards names."""
    try:
        mode = (folder / name).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _PatternError("there is no such file; names are relative to this file") from None
    except (OSError, ValueError) as error:
        raise _PatternError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        raise _PatternError(f"this is a folder; write {Path(name, '*.yaml').as_posix()} for the files in it")
    if not stat.S_ISREG(mode):
        raise _PatternError("this is not a file")
    return [name]


def _matching(folder: Path, pattern: str) -> list[str]:
    """Return the files that a pattern with wildcards matches, sorted."""
    try:
        found = islice(_walk(folder, Path(), Path(pattern).parts), MOST_FILES + 2)  # the main file may be among them
        return sorted(str(name) for name in found)
    except OSError as error:
        raise _PatternError(f"{error.filename} cannot be looked into: {error.strerror}") from None


def _walk(folder: Path, above: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    part, *rest = parts
    if not glob.has_magic(part):
        names = [part]
    else:
        matches = re.compile(fnmatch.translate(part)).match
        try:
            with os.scandir(folder / above) as entries:
                names = sorted(entry.name for entry in entries if matches(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return
        if not part.startswith("."):
            names = [name for name in names if not name.startswith(".")]
    for name in names:
        if rest:
            yield from _walk(folder, above / name, tuple(rest))
        elif _is_file(folder / above / name):
            yield above / name


def _is_file(path: Path) -> bool:
    """Whether to read it.  A link that leads nowhere is read, so that it is told of; a folder is left out."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return path.is_symlink()
