"""What files hold, at one look: their content decides, not their names, links or times."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

LARGEST = 16 * 1024 * 1024  # bytes that are looked at; what is larger is no configuration and is refused for that

Contents = Mapping[Path, bytes | None]


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was found; without content where there was no ordinary file that could be read."""

    content: bytes | None  # a digest
    mark: tuple[int, ...] = ()  # changes with each writing and each exchange, even if the content comes back


Look = Mapping[Path, Seen]


def look(paths: Iterable[Path], patterns: Iterable[str] = ()) -> Look:
    """Read the files at `paths`, and those that match the absolute `patterns`."""
    # Path.glob refuses absolute patterns, and would have us find out where a pattern begins.
    matched = (Path(os.path.normpath(name)) for pattern in patterns for name in glob.iglob(pattern))  # noqa: PTH207
    return {path: _seen(path) for path in sorted({*paths, *matched})}


def contents(found: Look) -> Contents:
    """Return what tells one edit from another."""
    return {path: seen.content for path, seen in found.items()}


def stands_still(path: Path) -> bool:
    """Whether to read it would wait for somebody: a pipe, a terminal, and the like."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # not there: reading says so
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _seen(path: Path) -> Seen:
    try:
        if not path.is_file():  # to open a pipe would wait for who writes to it
            return Seen(None)
        with path.open("rb") as file:
            content = hashlib.sha256(file.read(LARGEST)).digest()
            status = path.stat()
    except (OSError, ValueError):
        return Seen(None)
    return Seen(content, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
