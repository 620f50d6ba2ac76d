"""The modules of the jobs folder: what this process has loaded, and whether the files still hold that.

Python loads a module once.  A function that runs in a thread stays the one that was loaded until the
replica is started anew; one with `isolation: process` is loaded from the file for each run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from scheduler_service.callables import PACKAGE
from scheduler_service.events import Events, listed
from scheduler_service.model import Isolation, JobSpec
from scheduler_service.reloading.files import look

CHANGED = "its file has changed since it was loaded"
GONE = "its file is gone"
ADVICE = "; jobs in threads go on with what is loaded until this replica is restarted"


@dataclass(slots=True)
class _Loaded:
    """A module, what its file held when we saw it first and last, and the content of which we told."""

    module: ModuleType
    first: bytes | None
    last: bytes | None
    told: bytes | None


class Modules:
    """Tells once of each content that a loaded module's file has, and the module has not."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._known: dict[str, _Loaded] = {}

    def note(self) -> None:
        """Take note of modules that were loaded since; the sooner, the surer that their files hold what was loaded."""
        self._find()

    def changed(self) -> frozenset[str]:
        """Return the modules whose files hold something else now than what was loaded."""
        return frozenset(name for name, (one, content) in self._find().items() if content != one.first)

    def look(self, specs: Iterable[JobSpec]) -> None:
        """Tell what has changed, once it has been the same in two looks."""
        specs = tuple(specs)
        for name, (one, content) in self._find().items():
            settled = content == one.last
            one.last = content
            if not settled or content == one.told:
                continue
            one.told = content
            if content != one.first:
                self._tell(name, gone=content is None, specs=specs)

    def _find(self) -> Mapping[str, tuple[_Loaded, bytes | None]]:
        files = {}
        for name, module in sys.modules.copy().items():
            if name.partition(".")[0] == PACKAGE and isinstance(file := getattr(module, "__file__", None), str):
                files[name] = (module, Path(file))
        found = look(path for _, path in files.values())
        self._known = {name: one for name, one in self._known.items() if name in files}
        result = {}
        for name, (module, path) in files.items():
            content = found[path].content
            if name not in self._known or self._known[name].module is not module:
                self._known[name] = _Loaded(module, content, content, content)
            result[name] = (self._known[name], content)
        return result

    def _tell(self, name: str, *, gone: bool, specs: Iterable[JobSpec]) -> None:
        users = [spec for spec in specs if spec.enabled and module_of(spec) == name]
        threads = [spec.id for spec in users if spec.isolation is Isolation.THREAD]
        if users and not threads and not gone:
            return  # their next runs use it
        jobs = {"jobs": listed(threads)} if threads else {}
        self._events.emit("module_changed", module=name, **jobs, message=(GONE if gone else CHANGED) + ADVICE)


def module_of(spec: JobSpec) -> str | None:
    """Return what a job's module is called if it is in the jobs folder; None for a command."""
    return None if spec.run is None else f"{PACKAGE}.{spec.run.partition(':')[0]}"
