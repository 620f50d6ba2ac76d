"""The files of one configuration, with their variables replaced: maps with the right keys, not yet understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler_service.config import document, top
from scheduler_service.config.nodes import MapNode, Node
from scheduler_service.config.problems import WHOLE_FILE, Position, Report
from scheduler_service.config.source import LARGEST, NO_FILE, Text, read_text
from scheduler_service.config.substitution import substitute

LONGEST_TOGETHER = 4 * LARGEST  # characters of all included files
NOTHING = MapNode(top.START, {})


@dataclass(frozen=True, slots=True)
class Source:
    """One file as far as it could be read; its report says what could not."""

    report: Report
    folder: Path  # relative paths in the file are relative to it
    written: MapNode
    replaced: MapNode  # the same with variables replaced
    digest: bytes | None  # of the file, if it could be read

    def value(self, key: str) -> Node | None:
        """Return what stands under a key at the top, variables replaced."""
        entry = self.replaced.entries.get(key)
        return entry.node if entry is not None else None

    def position(self, key: str) -> Position:
        """Return where a key at the top stands; without it, where the file begins."""
        entry = self.replaced.entries.get(key)
        return entry.position if entry is not None else top.START


def read_main(path: Path, environ: Mapping[str, str], report: Report) -> Source | None:
    """Return the main file, or None when the report says why nothing of it can be used."""
    text = read_text(path, report, NO_FILE)
    written = _checked(text, report, top.check_main)
    return _source(path, text, written, environ, report) if written is not None else None


def read_included(files: Mapping[Path, str], main: str, environ: Mapping[str, str]) -> list[Source]:
    """Return the included files, each as far as it can be read; `main` is what messages call the including file."""

    def check(node: Node, report: Report) -> MapNode | None:
        return top.check_included(node, main, report)

    sources = []
    length = 0
    for path, file in files.items():
        report = Report(file)
        # Its name was found a moment ago: a link that leads nowhere, or somebody is at work here.
        text = read_text(path, report, "there is no such file, or what this link names is not there")
        length += 0 if text is None else len(text.text)
        if length > LONGEST_TOGETHER:
            message = f"with this one, the included files are larger than {LONGEST_TOGETHER // 1024**2} MiB together"
            report.add(WHOLE_FILE, "", message)
            text = None
        sources.append(_source(path, text, _checked(text, report, check) or NOTHING, environ, report))
        if length > LONGEST_TOGETHER:
            break
    return sources


def _checked(text: Text | None, report: Report, check: Callable[[Node, Report], MapNode | None]) -> MapNode | None:
    node = document.read(text.text, report) if text is not None else None
    return check(node, report) if node is not None else None


def _source(path: Path, text: Text | None, written: MapNode, environ: Mapping[str, str], report: Report) -> Source:
    # Not resolved: in a volume of Kubernetes every file is a link into a folder with a name of its own.
    folder = path.absolute().parent
    replaced = substitute(written, environ, folder, report)
    assert isinstance(replaced, MapNode)  # noqa: S101  # a map stays one
    return Source(report, folder, written, replaced, None if text is None else text.digest)
