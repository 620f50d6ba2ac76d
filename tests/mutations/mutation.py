"""A bug of one line, and the tests that must notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class MisfitError(Exception):
    """The list and the tree do not fit together: one of the two has to be mended."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One text, which occurs once in its file, and what takes its place."""

    path: str  # from the root of the tree
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bug, and the tests of which each must fail while it is in.

    Where two lines stand behind each other, so that either alone would do, `edits` are both of them.
    """

    name: str  # for the command line
    bug: str  # in words
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]  # ids as pytest has them; without [parameters] one of a test's kinds is enough

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that it changes."""
        return tuple(dict.fromkeys(edit.path for edit in self.edits))

    def texts(self, root: Path) -> dict[str, str]:
        """Return the changed files by path; MisfitError where the mutation no longer applies."""
        texts: dict[str, str] = {}
        for edit in self.edits:
            path = root / edit.path
            text = texts.get(edit.path)
            if text is None:
                if not path.is_file():
                    raise MisfitError(f"{self.name}: the mutation no longer applies: there is no {edit.path}")
                text = path.read_text()
            if (count := text.count(edit.old)) != 1:
                raise MisfitError(
                    f"{self.name}: the mutation no longer applies: its text occurs {count} times in {edit.path}, "
                    f"not once: {edit.old!r}"
                )
            texts[edit.path] = text.replace(edit.old, edit.new)
        for changed, text in texts.items():
            if changed.endswith(".py"):
                try:
                    compile(text, changed, "exec")
                except SyntaxError as error:
                    raise MisfitError(f"{self.name}: what it makes of {changed} is no Python: {error}") from error
        return texts


def mutation(name: str, bug: str, path: str, old: str, new: str, *tests: str) -> Mutation:
    """Return a mutation of one line."""
    return Mutation(name, bug, (Edit(path, old, new),), tests)
