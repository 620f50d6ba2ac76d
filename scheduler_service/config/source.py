"""Read the bytes of a configuration file and make text of them, or say why not in one line."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from scheduler_service.config.problems import WHOLE_FILE, Position, Report

LARGEST = 4 * 1024 * 1024  # bytes; ten thousand jobs are about one million
_CONTROL = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
HOW_TO_BEGIN = "; make one with: scheduler-service init"
NO_FILE = f"there is no such file{HOW_TO_BEGIN}"


@dataclass(frozen=True, slots=True)
class Text:
    """What a file holds; `digest` is the SHA-256 of its bytes."""

    text: str  # without a byte order mark
    digest: bytes


def read_text(path: Path, report: Report, no_file: str = NO_FILE) -> Text | None:
    """Return the text of the file, or None when the report says why not.

    `no_file` is what to say when it is not there.
    """
    problem = None
    try:
        if path.is_dir():
            problem = "this is a folder; name the file in it"
        else:
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
    except FileNotFoundError:
        problem = no_file
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if problem is not None:
        report.add(WHOLE_FILE, "", problem)
        return None
    if len(content) > LARGEST:
        report.add(WHOLE_FILE, "", f"is larger than {LARGEST // 1024**2} MiB; is it a configuration?")
        return None
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        report.add(position_of(before, len(before)), "", message)
        return None
    if found := _CONTROL.search(text):
        message = f"character U+{ord(found[0]):04X} cannot stand here; remove it, or write it as an escape in quotes"
        report.add(position_of(text, found.start()), "", message)
        return None
    return Text(text if text.strip() else "", hashlib.sha256(content).digest())


def position_of(text: str, index: int) -> Position:
    """Return where in the file the character at `index` stands."""
    start = text.rfind("\n", 0, index) + 1
    return Position(text.count("\n", 0, index) + 1, index - start + 1)
