"""Read the configuration again when its files change, or when asked to.

    in force --another content--> unsettled --the same in two looks, or asked--> read and checked
       ^                              |                                             |      |
       |<---------- it went back -----+                                             |      |
       |<-- right: handed to the conductor, whole; config_reloaded -----------------+      |
       |<-- wrong: config_rejected, once; the old configuration stays -----> rejected <----+

The content decides: of the configuration file, of the files it includes and of those that come to match
its patterns, however they were written, exchanged or linked.  A half-written file is no edit yet.

This thread reads YAML and loads people's modules, which may take long.  It touches nothing that is in
use: what it found right goes to the conductor as one immutable message (I9).

A rejected edit is tried again when a file that it needs changes, and every half minute, because what it
lacks may be elsewhere: a secret, a package, a module that a module imports.

`step` takes one look and says when to take the next.  It starts no thread and never sleeps.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scheduler_service.clock import Clock
from scheduler_service.config import (
    Config,
    ConfigError,
    Problem,
    callable_warnings,
    check_callables,
    format_problems,
    load,
    restart_needed,
)
from scheduler_service.config.settings import SECTIONS
from scheduler_service.config.source import HOW_TO_BEGIN
from scheduler_service.database.configured import check_url
from scheduler_service.events import Events, listed
from scheduler_service.mailbox import Mailbox
from scheduler_service.model import Isolation, JobSpec
from scheduler_service.reloading.files import Contents, contents, look, stands_still
from scheduler_service.reloading.modules import Modules, module_of

__all__ = ["Reloaded", "Reloader"]

LOOK_SECONDS = 2.0
SETTLE_SECONDS = 0.5  # from the first look at an edit to the second
IMPATIENT_SECONDS = 10.0  # a file that never rests is read as it is
AGAIN_SECONDS = 30.0  # how often a rejected edit is tried again
SWITCH_SECONDS = 0.0005  # how long this thread keeps the interpreter to itself, a tenth of what is usual
ROUNDS = 3  # of reading files that change while they are read

NO_FILE = "is not an ordinary file, so it cannot be read again"
OLD_MODULE = "; {module} has changed since this replica loaded it: restart it, or use isolation: process"
OLD_FOLDER = "; service.jobs_folder has changed too: that takes a restart"


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A configuration to use from now on, and what is different in it: ids of jobs."""

    config: Config
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """What the files held: a configuration, or text that says what is wrong."""

    contents: Contents
    config: Config | None
    problems: str = ""


class Reloader:
    """Watches over the configuration `config`, in which the service was started.

    `announce` gets each new one; it must not block.  `request` and `stop` may be called by any thread, and
    by a signal handler.
    """

    def __init__(
        self,
        config: Config,
        *,
        announce: Callable[[Reloaded], None],
        events: Events,
        clock: Clock,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._started = self._config = config
        self._announce = announce
        self._events = events
        self._clock = clock
        self._environ = dict(environ)  # what jobs make of the process's environment is not ours
        self._asked: Mailbox[bool] = Mailbox()
        self._stopping = False
        self._modules = Modules(events)
        self._modules.note()
        self._paths = _paths(config.path, config.files)
        self._patterns = config.include
        self._judged: Contents = config.digests  # in which the answer below was found
        self._rejected: str | None = None  # what is wrong with the newest edit
        self._needs: Contents = {}  # the modules that a rejected edit names
        self._judged_at = 0.0
        self._seen: Contents | None = None  # an edit that is not settled
        self._seen_at = 0.0
        self._owed = False  # an answer to a request
        self._restart: tuple[str, ...] = ()  # settings that were told to need one
        # Once read, a pipe is empty: there is nothing to watch.
        self._is_file = config.path.is_file()

    # --- from other threads

    @property
    def config(self) -> Config:
        """The configuration in use."""
        return self._config

    def request(self) -> None:
        """Read the configuration now, whether it changed or not, and say what came of it."""
        self._asked.put(True)

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping = True
        self._asked.put(False)

    # --- the thread

    def run(self) -> None:
        """Step until `stop`."""
        seconds = LOOK_SECONDS
        while True:
            asked = self._asked.get(seconds) or False
            while self._asked:  # two requests at once have one answer
                asked = self._asked.get(0.0) or asked
            if self._stopping:
                return
            seconds = self.step(asked=asked)

    def step(self, *, asked: bool = False) -> float:
        """Take a look and do what follows from it; return the seconds until the next."""
        asked, self._owed = asked or self._owed, False
        self._modules.look(self._config.jobs)
        if not self._is_file:
            if asked:
                self._reject(f"{self._config.file}: {NO_FILE}", asked=True)
            return LOOK_SECONDS
        found = contents(look(self._paths, self._patterns))
        if not asked:
            if found == self._judged:
                self._seen = None
                if self._rejected is None or not self._worth_another_try():
                    return LOOK_SECONDS
            elif not self._settled(found):
                return SETTLE_SECONDS
        with _giving_way():
            read = self._read()
            if read is None:
                self._owed = asked
                return SETTLE_SECONDS
            self._judge(read, asked=asked)
        return LOOK_SECONDS

    def _settled(self, found: Contents) -> bool:
        now = self._clock.monotonic()
        if self._seen is None:
            self._seen_at = now
        same, self._seen = found == self._seen, found
        return same or now - self._seen_at >= IMPATIENT_SECONDS

    def _worth_another_try(self) -> bool:
        return self._clock.monotonic() - self._judged_at >= AGAIN_SECONDS or contents(look(self._needs)) != self._needs

    # --- reading

    def _read(self) -> _Read | None:
        """Return what the files hold; None if they changed while they were read."""
        for _ in range(ROUNDS):
            before = look(self._paths, self._patterns)
            config, problems = self._load()
            # What was read is known only now: files that were not looked at before are looked at in the next round.
            if before == (after := look(self._paths, self._patterns)):
                return _Read(contents(after), config, problems)
        return None

    def _load(self) -> tuple[Config | None, str]:
        if stands_still(self._config.path):
            return None, f"{self._config.file}: {NO_FILE}"
        try:
            config = load(self._config.path, self._environ)
        except ConfigError as error:
            self._paths, self._patterns = _paths(self._config.path, error.files), error.include
            return None, str(error).removesuffix(HOW_TO_BEGIN)  # we had one
        except Exception as error:  # a mistake of ours must not end replicas that do their work
            return None, f"{self._config.file}: cannot be read: {type(error).__name__}: {error}"
        self._paths, self._patterns = _paths(config.path, config.files), config.include
        if problems := check_url(config):
            return None, format_problems(problems)
        return config, ""

    def _in_force(self, config: Config) -> Config:
        """Return a configuration with the settings that need a restart as they were when we started."""
        started = {name: getattr(self._started, name) for name in SECTIONS}
        live = {"timezone": config.service.timezone, "shutdown_grace": config.service.shutdown_grace}
        started["service"] = self._started.service.model_copy(update=live)
        return config.model_copy(update=started)

    # --- judging

    def _judge(self, read: _Read, *, asked: bool) -> None:
        # Not so where a folder matches a pattern, or the main file by another path: they only look like an edit.
        edited = set(read.contents.values()) - {None} != set(self._judged.values()) - {None}
        self._judged, self._judged_at, self._seen = read.contents, self._clock.monotonic(), None
        if read.config is None:
            self._needs = {}
            self._reject(read.problems, asked=asked)
            return
        config = self._in_force(read.config)
        news = _differences(self._config, config)
        if problems := self._check(config, news, moved=read.config.service.jobs_folder != config.service.jobs_folder):
            self._needs = contents(look(_module_files(config, news)))
            self._reject(problems, asked=asked)
            return
        self._accept(config, news, restart_needed(self._started, read.config), told=asked or edited)

    def _accept(self, config: Config, news: Reloaded, restart: tuple[str, ...], *, told: bool) -> None:
        rejected, self._rejected = self._rejected, None
        told_restart, self._restart = self._restart, restart
        former, self._config = self._config, config
        known = {(one.path, one.message) for one in _warnings(former)}
        for warning in _warnings(config):
            if (warning.path, warning.message) not in known:
                self._events.emit("config_warning", message=str(warning))
        if _means(former) != _means(config):
            self._announce(news)
        elif rejected is not None:
            self._events.emit("config_restored", hash=config.hash)
        elif told and restart in ((), told_restart):
            self._events.emit("config_unchanged", hash=config.hash)
        if restart not in ((), told_restart):
            self._events.emit("restart_needed", settings=listed(restart))

    def _reject(self, problems: str, *, asked: bool) -> None:
        if asked or problems != self._rejected:
            self._events.emit("config_rejected", hash=self._config.hash, error=problems)
        self._rejected = problems

    def _check(self, config: Config, news: Reloaded, *, moved: bool) -> str:
        """Return what is wrong with the functions of new and changed jobs; the others run already."""
        changed = self._modules.changed()
        specs = _concerned(config, news)
        problems = [*_checked(config, [spec for spec in specs if module_of(spec) not in changed])]
        for spec in specs:
            # Of a module that has changed since it was loaded, only threads use what was loaded.
            if module_of(spec) in changed and spec.isolation is Isolation.THREAD:
                hint = OLD_MODULE.format(module=module_of(spec))
                problems += [replace(one, message=one.message + hint) for one in _checked(config, [spec])]
        self._modules.note()
        if moved:
            problems = [replace(one, message=one.message + OLD_FOLDER) for one in problems]
        return format_problems(sorted(problems, key=lambda one: (one.file, one.line, one.column)))


@contextlib.contextmanager
def _giving_way() -> Iterator[None]:
    """Let other threads interrupt this one sooner: they start jobs, and wait for the interpreter at each step."""
    former = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(former)


def _checked(config: Config, specs: Iterable[JobSpec]) -> tuple[Problem, ...]:
    try:
        return check_callables(config.model_copy(update={"jobs": tuple(specs)}))
    except Exception as error:  # as in `_load`
        return (Problem(config.file, 0, 0, "", f"cannot be checked: {type(error).__name__}: {error}"),)


def _warnings(config: Config) -> tuple[Problem, ...]:
    return (*config.warnings, *callable_warnings(config))


def _differences(former: Config, config: Config) -> Reloaded:
    old, new = ({spec.id: spec for spec in one.jobs} for one in (former, config))
    return Reloaded(
        config,
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(job_id for job_id in old.keys() & new.keys() if old[job_id] != new[job_id])),
    )


def _concerned(config: Config, news: Reloaded) -> list[JobSpec]:
    """Return the jobs that are new or changed."""
    concerned = {*news.added, *news.changed}
    return [spec for spec in config.jobs if spec.id in concerned]


def _means(config: Config) -> object:
    """Return what of a configuration can change while the service runs; not where in the files it stands."""
    return config.jobs, config.service, config.hash


def _paths(main: Path, others: Iterable[Path]) -> frozenset[Path]:
    return frozenset((main, *others))


def _module_files(config: Config, news: Reloaded) -> Iterable[Path]:
    """Return the files in which the functions of new and changed jobs may be."""
    for spec in _concerned(config, news):
        if spec.run is not None:
            path = config.service.jobs_folder.joinpath(*spec.run.partition(":")[0].split("."))
            yield path.with_name(f"{path.name}.py")
            yield path / "__init__.py"
