"""From the map of jobs to JobSpecs: what runs, under which policies, and whether all that goes together."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler_service.config import job_relations, suggestions
from scheduler_service.config.document import join
from scheduler_service.config.nodes import ListNode, MapNode, Node, ScalarNode
from scheduler_service.config.problems import Position, Report
from scheduler_service.config.sections import Section, entries, read_section
from scheduler_service.config.settings import JOB_ID, Job, Policies, RetrySettings
from scheduler_service.config.timing import KINDS, read_schedule
from scheduler_service.model import JobSpec

_TIMING = (*KINDS, "timezone", "offset", "starts_at", "ends_at")
_ENDING = ("timeout", "overlap", "on_leadership_lost")  # what may end a run from outside


def read_defaults(node: Node | None, report: Report, position: Position) -> Section:
    """Read `defaults`: policies only."""
    return read_section(Policies, node, "defaults", report, position=position, explain=_explain_default)


class Jobs:
    """The jobs of all files, as far as they can be read.

    `places` are the positions of those settings, by their paths, that are judged when functions are loaded.
    """

    def __init__(self, defaults: Section, workers: Section, timezone: str) -> None:
        """`timezone` is the service's, for jobs without one."""
        self.specs: dict[str, JobSpec] = {}
        self.places = {defaults.place(name)[1]: defaults.place(name)[0] for name in _ENDING if defaults.has(name)}
        self._defaults = defaults
        self._workers = workers
        self._timezone = timezone
        self._keys: dict[str, Position] = {}  # where the id of each job stands

    def read(self, node: Node | None, folder: Path, report: Report) -> None:
        """Add the `jobs` of one file, in which paths are relative to `folder`; an id of another file is reported."""
        keys: dict[str, Position] = {}
        for job_id, position, value in entries(node, "jobs", report, expected="a map of jobs by their ids"):
            path = join("jobs", job_id)
            if not re.fullmatch(JOB_ID, job_id):
                report.add(position, path, f"cannot be the id of a job; {_better_id(job_id)}")
            if job_id in self._keys:
                other = self._keys[job_id]
                report.add(position, path, f"is set twice; {other.file}:{other.line} sets it too: keep one")
            spec = self._read_job(job_id, value, path, position, folder, report)
            if spec is not None:
                self.specs.setdefault(job_id, spec)
            keys.setdefault(job_id, position)
            self.places |= _places(value, path)
        self._keys = {**keys, **self._keys}

    def _read_job(
        self, job_id: str, node: Node, path: str, position: Position, folder: Path, report: Report
    ) -> JobSpec | None:
        if isinstance(node, ScalarNode) and node.value is not None:
            hint = f"{job_id}: {{run: {node.source}, …}}" if ":" in node.source else "run: or command:, and a schedule"
            report.add(node.position, path, f"expected a map of settings; write {hint}")
            return None
        if isinstance(node, ListNode):
            report.add(node.position, path, "expected a map of settings, got a list")
            return None
        defaults = self._defaults
        job = read_section(Job, node, path, report, position=position, fallback=defaults, explain=_explain_job)
        job_relations.check_job(job, self._workers, report)
        found = read_schedule(job, self._timezone, report)
        if found is None:
            return None
        settings = {**defaults.good(), **job.good()}
        hidden = {*job.hidden, *(name for name in defaults.hidden if not job.has(name))}
        if hidden.intersection(_TIMING):
            hidden.add("schedule")
        for name in _TIMING:
            settings.pop(name, None)
        if job.has("command"):
            settings.pop("isolation", None)  # from `defaults`: of functions, and what counts them must not see it here
        settings["retry"] = job_relations.retry_of(job)
        if settings.get("working_directory") is not None:
            settings["working_directory"] = _folder(job, folder, report)
        if isinstance(settings.get("command"), tuple):
            _look_for_program(job, settings, report)
        known = JobSpec.model_fields.keys()
        return JobSpec(id=job_id, schedule=found, hidden=frozenset(hidden & known), **settings)


def _folder(job: Section, folder: Path, report: Report) -> Path:
    found = folder / str(job.get("working_directory"))
    if not found.is_dir():
        position, path = job.place("working_directory")
        report.warn(position, path, "there is no such folder; make it before the job runs")
    return found


def _look_for_program(job: Section, settings: Mapping[str, Any], report: Report) -> None:
    program, folder = settings["command"][0], settings.get("working_directory")
    name = "'***'" if "command" in job.hidden else repr(program)
    if "/" in program:
        if not program.startswith("/") and (folder is None or not folder.is_dir()):
            return  # relative to where the service will be started, or to a folder that is missed already
        found, missing = shutil.which(str(Path(folder or "/", program))), f"executable file {name}"
    else:
        path = settings.get("env", {}).get("PATH", os.environ.get("PATH", os.defpath))
        found, missing = shutil.which(program, path=path), f"program {name} on the PATH"
    if found is None:
        position, place = job.place("command")
        report.warn(position, place, f"there is no {missing}; make it before the job runs")


def _places(node: Node, path: str) -> dict[str, Position]:
    places: dict[str, Position] = {}
    if isinstance(node, MapNode):
        for key in ("run", "args", "kwargs", *_ENDING):
            if key in node.entries:
                places[join(path, key)] = node.entries[key].node.position
                inner = node.entries[key].node
                if isinstance(inner, MapNode):
                    places |= {f"{join(path, key)}.{name}": entry.position for name, entry in inner.entries.items()}
    return places


def _explain_job(key: str) -> str | None:
    answer = suggestions.foreign(key)
    if answer is not None:
        return f"no such setting; {key!r} {answer}"
    if key in RetrySettings.model_fields:
        return f"no such setting; did you mean {key!r} in 'retry'?"
    return None


def _explain_default(key: str) -> str | None:
    if key in Job.model_fields and key not in Policies.model_fields:
        return "belongs into the jobs: defaults hold policies only, never what runs or when"
    return _explain_job(key)


def _better_id(job_id: str) -> str:
    better = re.sub(r"[^a-z0-9_.-]+", "-", job_id.lower()).strip("-_.")[:100]
    rule = "lower-case letters, digits, '_', '.' and '-', at most 100, the first a letter or digit"
    return f"write {better!r}: {rule}" if re.fullmatch(JOB_ID, better) else f"write {rule}"
