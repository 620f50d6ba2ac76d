"""What the kernel says about processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until


def alive(process_id: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(process_id: int) -> int:
    """Return the id of a process's parent."""
    return int(Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[1])


def number_in(file: Path) -> int:
    """Return the number on the line that a process writes into `file`, once it is there."""
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


def children(process_id: str = "self") -> int:
    """How many children a process has, zombies included."""
    threads = Path(f"/proc/{process_id}/task")
    while True:
        try:
            return sum(len((thread / "children").read_text().split()) for thread in threads.iterdir())
        except (FileNotFoundError, ProcessLookupError):  # a thread ended meanwhile, and its children are another's
            if not threads.exists():
                raise


def descriptors(process_id: int | str = "self") -> list[str]:
    """Return what the descriptors of a process are."""
    found = []
    for path in Path(f"/proc/{process_id}/fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except FileNotFoundError:  # the one with which the folder was read
            continue
    return found


def marked(mark: str) -> list[int]:
    """Return the living processes that were started with `mark`, a NAME=value, in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [process_id for process_id in found if alive(process_id)]


@contextmanager
def none_outlives(mark: str) -> Iterator[None]:
    """Kill what is left of `mark` at the end."""
    try:
        yield
    finally:
        for process_id in marked(mark):
            os.kill(process_id, signal.SIGKILL)
