"""The configuration as the service uses it: read once from a file, then never changed.

text → nodes → variables replaced → sections, as far as each can be read → relations → Config
        |
        +--> hash of jobs and defaults, so no secret gets into it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr

from scheduler_service import callables
from scheduler_service.callables import CallableError
from scheduler_service.config import document, relations
from scheduler_service.config.document import join
from scheduler_service.config.jobs import Given, explain_top, read_defaults, read_jobs
from scheduler_service.config.kinds import WRONG, integer
from scheduler_service.config.nodes import ListNode, MapNode, Node, ScalarNode, canonical, described
from scheduler_service.config.problems import Position, Problem, Report
from scheduler_service.config.sections import Section, read_section, unknown
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
from scheduler_service.config.source import SMALLEST, read_text
from scheduler_service.config.substitution import substitute
from scheduler_service.model import Discreet, JobSpec

VERSION = 1
TOP = ("version", *SECTIONS, "defaults", "jobs")


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
    hash: str  # of jobs and defaults before variables are replaced: replicas that differ have drifted
    path: Path
    file: str  # what messages call the file
    warnings: tuple[Problem, ...] = ()
    places: Mapping[str, Position] = Field({}, exclude=True, repr=False)  # of what check_callables looks at


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check the file; ConfigError with every problem at once, in order of position.

    Loads no job: see `check_callables`.
    """
    report = Report(str(path))
    text = read_text(path, report)
    node = document.read(text, report) if text is not None else None
    config = _read(node, path, environ, report) if _is_map(node, report) else None
    report.raise_problems()
    assert config is not None  # noqa: S101  # whatever was None has been reported
    return config


def check_callables(config: Config) -> tuple[Problem, ...]:
    """Load the function of every enabled `run` job; return what is wrong with it or its arguments.

    This runs the code of job modules.  What they print goes to stderr.
    """
    report = Report(config.file)
    with contextlib.redirect_stdout(sys.stderr):
        for job in config.jobs:
            if job.run is None or not job.enabled:
                continue
            path = join("jobs", job.id)
            try:
                function = callables.find(job.run, config.service.jobs_folder)
            except CallableError as error:
                report.add(*_place(config, path, "run", None), _told(config, job, str(error)))
                continue
            for problem in callables.argument_problems(function, job.args, job.kwargs):
                report.add(*_place(config, path, problem.key, problem.name), _told(config, job, problem.message))
    return report.problems


def _place(config: Config, path: str, key: str, name: str | None) -> tuple[Position, str]:
    for wanted in (f"{path}.{key}.{name}" if name else "", f"{path}.{key}", f"{path}.run"):
        if wanted in config.places:
            return config.places[wanted], wanted
    return Position(0, 0), f"{path}.{key}"


def _told(config: Config, job: JobSpec, message: str) -> str:
    """Return the message without what came from variables."""
    if "run" in job.hidden:
        return "what its variables hold cannot be called with these arguments, or is not there"
    if "jobs_folder" in config.service.hidden:
        folder = config.service.jobs_folder
        for path in (str(folder.resolve()), str(folder), folder.name):
            message = message.replace(f"{path}/", "")
    return message


def _is_map(node: Node | None, report: Report) -> bool:
    if isinstance(node, MapNode):
        return True
    if isinstance(node, ScalarNode) and node.value is None:
        report.add(Position(1, 1), "", f"the file is empty; the smallest useful one has {SMALLEST}")
    elif isinstance(node, ListNode | ScalarNode):
        space = "; a space is missing after the colon" if isinstance(node, ScalarNode) and ":" in node.source else ""
        message = f"expected settings such as 'version: 1' at the top of the file, got {described(node)}{space}"
        report.add(node.position, "", message)
    return False


def _read(node: Node | None, path: Path, environ: Mapping[str, str], report: Report) -> Config:
    assert isinstance(node, MapNode)  # noqa: S101  # _is_map has said so
    folder = path.absolute().parent
    drift = _hash(node)
    node = substitute(node, environ, folder, report)
    assert isinstance(node, MapNode)  # noqa: S101  # a map stays one
    nodes = {key: entry.node for key, entry in node.entries.items()}
    positions = {key: entry.position for key, entry in node.entries.items()}
    for key, position in positions.items():
        if key not in TOP:
            report.add(position, key, explain_top(key) or unknown(key, dict.fromkeys(TOP)))
    _check_version(nodes, report)
    top = Position(1, 1)
    sections = {
        name: read_section(model, nodes.get(name), name, report, position=positions.get(name, top))
        for name, model in SECTIONS.items()
    }
    relations.check_sections(sections, report)
    defaults = read_defaults(nodes.get("defaults"), report, positions.get("defaults", top))
    zone = sections["service"].get("timezone")
    given = Given(defaults, sections["workers"], "UTC" if zone is WRONG else zone, folder)
    read = read_jobs(nodes.get("jobs"), given, report)
    jobs, places = tuple(read.specs.values()), read.places
    if "jobs" not in nodes:
        report.add(top, "", "there is no 'jobs'; add it, with one job or more")
    elif not jobs and not report.problems:
        report.warn(positions["jobs"], "jobs", "there are no jobs: this service does nothing")
    return Config(
        **{name: _made(model, sections[name], folder) for name, model in SECTIONS.items()},
        jobs=jobs,
        hash=drift,
        path=path.absolute(),
        file=str(path),
        warnings=report.warnings,
        places=places,
    )


def _check_version(nodes: Mapping[str, Node], report: Report) -> None:
    if "version" not in nodes:
        report.add(Position(1, 1), "", f"the version of the file's format is missing; begin with 'version: {VERSION}'")
        return
    found = integer(0, 10**9).read(nodes["version"], "version", report)
    if found not in (VERSION, WRONG):
        report.add(nodes["version"].position, "version", f"this release reads version {VERSION}; write {VERSION}")


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
    return f"{scheme}:///{folder / file}"


def _hash(node: MapNode) -> str:
    parts = {key: canonical(node.entries[key].node) for key in ("defaults", "jobs") if key in node.entries}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
