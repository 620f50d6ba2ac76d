"""The configuration as the service uses it: read once from its files, then never changed.

text → nodes → variables replaced → sections, as far as each can be read → relations → Config
        |             |                                       ^
        |             +--> include → more files → their jobs -+
        +--> hash of jobs, defaults and service.timezone, so no secret gets into it
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr

from scheduler_service.config import including, relations
from scheduler_service.config.files import Source, read_included, read_main
from scheduler_service.config.jobs import Jobs, read_defaults
from scheduler_service.config.kinds import WRONG
from scheduler_service.config.nodes import MapNode, canonical
from scheduler_service.config.problems import ConfigError, Position, Problem, Report
from scheduler_service.config.sections import Section, read_section
from scheduler_service.config.settings import (
    SECTIONS,
    Database,
    Election,
    History,
    Http,
    Logging,
    Service,
    Workers,
)
from scheduler_service.model import Discreet, JobSpec


class Config(Discreet):
    """A checked configuration.  `warnings` are what is allowed and hardly meant."""

    service: Service
    database: Database
    election: Election
    workers: Workers
    history: History
    http: Http
    logging: Logging
    jobs: tuple[JobSpec, ...]
    hash: str  # of what jobs do and when, before variables are replaced: replicas that differ have drifted
    path: Path
    file: str  # what messages call the main file
    include: tuple[str, ...] = ()  # absolute patterns
    files: tuple[Path, ...] = ()  # every file that was read, absolute; the main one first
    digests: Mapping[Path, bytes | None] = Field({}, exclude=True, repr=False)  # SHA-256 of each, as it was read
    warnings: tuple[Problem, ...] = ()
    places: Mapping[str, Position] = Field({}, exclude=True, repr=False)  # of what is judged later


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check the file and those that it includes; ConfigError with every problem at once.

    Problems come file by file, in order of position.  Loads no job: see `check_callables`.
    """
    report = Report(str(path))
    main = read_main(path, environ, report)
    if main is None:
        raise ConfigError(report.problems, files=(path.absolute(),))
    included = including.find(main.value("include"), path, report)
    further = read_included(included.files, report.file, environ)
    config = _read(main, further, path, report)
    files, patterns = (path.absolute(), *included.files), tuple(included.patterns)
    if report.problems:
        raise ConfigError(report.problems, files=files, include=patterns)
    digests = {file: source.digest for file, source in zip(files, (main, *further), strict=True)}
    about = {"files": files, "digests": digests, "include": patterns, "warnings": report.warnings}
    return config.model_copy(update=about)


def _read(main: Source, further: Sequence[Source], path: Path, report: Report) -> Config:
    """Return what could be understood; what is wrong with any of the files ends up in the report."""
    sections = {
        name: read_section(model, main.value(name), name, report, position=main.position(name))
        for name, model in SECTIONS.items()
    }
    relations.check_sections(sections, report)
    defaults = read_defaults(main.value("defaults"), report, main.position("defaults"))
    zone = sections["service"].get("timezone")
    jobs = Jobs(defaults, sections["workers"], "UTC" if zone is WRONG else zone)
    for source in (main, *further):
        jobs.read(source.value("jobs"), source.folder, source.report)
    for source in further:
        report.extend(source.report)
    if not jobs.specs:
        key = "jobs" if main.value("jobs") is not None else "include"
        report.warn(main.position(key), key, "there are no jobs: this service does nothing")
    return Config(
        **{name: _made(model, sections[name], main.folder) for name, model in SECTIONS.items()},
        jobs=tuple(jobs.specs.values()),
        hash=_hash(main, further),
        path=path.absolute(),
        file=str(path),
        places=jobs.places | _place(sections["database"], "url"),
    )


def _place(section: Section, name: str) -> dict[str, Position]:
    """Return where a setting stands, by its path; nothing if it is not written."""
    position, path = section.place(name)
    return {path: position} if section.has(name) else {}


def _made(model: type[Discreet], section: Section, folder: Path) -> Any:
    values = section.good()
    if model is Service:
        values["jobs_folder"] = folder / str(section.get("jobs_folder") if section.known("jobs_folder") else "jobs")
    if model is Database:
        url = section.get("url")
        values["url"] = SecretStr("" if url is WRONG else _absolute(url.get_secret_value(), folder))
    return model(**values, hidden=frozenset(section.hidden & model.model_fields.keys()))


def _absolute(url: str, folder: Path) -> str:
    """Return the URL; the path of an SQLite file is relative to the configuration."""
    scheme, _, file = url.partition(":///")
    if not scheme.startswith("sqlite") or not file or file.startswith(("/", "file:")):
        return url
    # What reads the URL takes % for the beginning of a letter, and ? for the end of the path.
    written = str(folder).replace("%", "%25").replace("?", "%3F")
    return f"{scheme}:///{Path(written) / file}"


def _hash(main: Source, further: Sequence[Source]) -> str:
    """Return the hash of jobs, in whichever of the files these stand, of defaults and of the service's zone.

    What else is set may differ from host to host.
    """
    jobs: dict[str, object] = {}
    parts: dict[str, object] = {"jobs": jobs}
    if "defaults" in main.written.entries:
        parts["defaults"] = canonical(main.written.entries["defaults"].node)
    service = main.written.entries["service"].node if "service" in main.written.entries else None
    if isinstance(service, MapNode) and "timezone" in service.entries:
        parts["timezone"] = canonical(service.entries["timezone"].node)
    for source in (main, *further):
        node = source.written.entries["jobs"].node if "jobs" in source.written.entries else None
        jobs |= {key: canonical(entry.node) for key, entry in node.entries.items()} if isinstance(node, MapNode) else {}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
