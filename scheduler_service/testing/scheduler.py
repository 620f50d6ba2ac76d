"""From a configuration to a world: the value of the fixture `scheduler`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scheduler_service import config as configs
from scheduler_service.config import Config, ConfigError
from scheduler_service.testing.world import Calling, World

INLINE = "the configuration in the test"

Jobs = Mapping[str, Mapping[str, Any]]


class Scheduler:
    """Reads configurations, as the service does, and makes worlds of them.

    Relative paths are relative to `folder`.  A context manager: at the end its worlds are closed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worlds: list[World] = []

    def load(
        self, path: str | Path, *, environ: Mapping[str, str] | None = None, call: bool = False, frozen: bool = True
    ) -> World:
        """Read a configuration file; ConfigError with every problem in it.

        `environ` is what `${VAR}` in it refers to; nothing of the machine's environment is.  What the file says of
        a database is checked and not used.

        With `call`, the functions of its jobs are called, in the order and at the moments of the simulation; else
        only what would run is recorded.  Commands are never started.  `frozen`: functions that ask for the time
        get the simulated moment, which needs freezegun.
        """
        known = dict(environ or {})
        return self._world(configs.load(self._folder / path, known), known, call=call, frozen=frozen)

    def jobs(
        self,
        jobs: Jobs,
        *,
        environ: Mapping[str, str] | None = None,
        call: bool = False,
        frozen: bool = True,
        **sections: Mapping[str, Any],
    ) -> World:
        """Take jobs, and other sections of a configuration, as they would stand in a file.

        scheduler.jobs({"report": {"run": "report:main", "cron": "30 2 * * *"}}, service={"timezone": "Europe/Rome"})
        """
        known = dict(environ or {})
        return self._world(self._inline(jobs, known, sections), known, call=call, frozen=frozen)

    def close(self) -> None:
        """Close all worlds."""
        while self._worlds:
            self._worlds.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _world(self, config: Config, environ: Mapping[str, str], *, call: bool, frozen: bool) -> World:
        def read(other: Any) -> Config:
            if isinstance(other, Mapping):
                return checked(self._inline(other, environ, {}))
            return checked(configs.load(self._folder / other, environ))

        def checked(one: Config) -> Config:
            if call and (problems := configs.check_callables(one)):
                raise ConfigError(problems)
            return one

        world = World(checked(config), calling=Calling(frozen) if call else None, read=read)
        self._worlds.append(world)
        return world

    def _inline(self, jobs: Jobs, environ: Mapping[str, str], sections: Mapping[str, Any]) -> Config:
        service = dict(sections.get("service", {}))
        service["jobs_folder"] = str(self._folder.absolute() / service.get("jobs_folder", "jobs"))
        document = {"version": 1, **sections, "service": service, "jobs": jobs}
        try:
            text = json.dumps(document, indent=1, ensure_ascii=False)  # which is YAML too
        except TypeError as error:
            raise ValueError(f"write jobs as they would stand in the file, with text for times: {error}") from None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            file.write_text(text, encoding="utf-8")
            try:
                return configs.load(file, environ)
            except ConfigError as error:
                # Nobody wrote this file, so its name and its lines tell nothing.
                raise ConfigError(replace(one, file=INLINE, line=0) for one in error.problems) from None
