"""From the map of jobs to JobSpecs: what runs, under which policies, and whether all that goes together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler_service.config import job_relations, suggestions
from scheduler_service.config.document import join
from scheduler_service.config.nodes import ListNode, MapNode, Node, ScalarNode
from scheduler_service.config.problems import Position, Report
from scheduler_service.config.sections import Section, entries, read_section
from scheduler_service.config.settings import JOB_ID, SECTIONS, Job, Policies, RetrySettings
from scheduler_service.config.timing import KINDS, read_schedule
from scheduler_service.model import JobSpec

_TIMING = (*KINDS, "timezone", "offset", "starts_at", "ends_at")


@dataclass(frozen=True, slots=True)
class Given:
    """What the jobs of one file are read with, beside what they say themselves."""

    defaults: Section
    workers: Section
    timezone: str  # the service's, for jobs without one
    folder: Path  # relative paths are relative to it


@dataclass(frozen=True, slots=True)
class JobsOfFile:
    """The jobs of one file by their ids, as far as they could be read."""

    specs: Mapping[str, JobSpec]
    keys: Mapping[str, Position]  # where each id stands, also of jobs that could not be read
    places: Mapping[str, Position]  # of settings by their paths: those that are judged when functions are loaded


def read_defaults(node: Node | None, report: Report, position: Position) -> Section:
    """Read `defaults`: policies only."""
    return read_section(Policies, node, "defaults", report, position=position, explain=_explain_default)


def read_jobs(node: Node | None, given: Given, report: Report) -> JobsOfFile:
    """Return the jobs that could be read."""
    specs: dict[str, JobSpec] = {}
    keys: dict[str, Position] = {}
    places: dict[str, Position] = {}
    for job_id, position, value in entries(node, "jobs", report, expected="a map of jobs by their ids"):
        path = join("jobs", job_id)
        if not re.fullmatch(JOB_ID, job_id):
            report.add(position, path, f"cannot be the id of a job; {_better_id(job_id)}")
        spec = _read_job(job_id, value, path, position, given, report)
        if spec is not None:
            specs.setdefault(job_id, spec)
        keys.setdefault(job_id, position)
        places |= _places(value, path)
    return JobsOfFile(specs, keys, places)


def _read_job(job_id: str, node: Node, path: str, position: Position, given: Given, report: Report) -> JobSpec | None:
    if isinstance(node, ScalarNode) and node.value is not None:
        hint = f"{job_id}: {{run: {node.source}, …}}" if ":" in node.source else "run: or command:, and a schedule"
        report.add(node.position, path, f"expected a map of settings; write {hint}")
        return None
    if isinstance(node, ListNode):
        report.add(node.position, path, "expected a map of settings, got a list")
        return None
    defaults = given.defaults
    job = read_section(Job, node, path, report, position=position, fallback=defaults, explain=_explain_job)
    job_relations.check_job(job, given.workers, report)
    found = read_schedule(job, given.timezone, report)
    if found is None:
        return None
    settings = {**defaults.good(), **job.good()}
    hidden = {*job.hidden, *(name for name in defaults.hidden if not job.has(name))}
    if hidden.intersection(_TIMING):
        hidden.add("schedule")
    for name in _TIMING:
        settings.pop(name, None)
    if job.has("command"):
        settings.pop(
            "isolation", None
        )  # of callables, as `defaults` may have it: no part that counts them shall see it
    settings["retry"] = job_relations.retry_of(job)
    if settings.get("working_directory") is not None:
        settings["working_directory"] = _folder(job, given.folder, report)
    known = JobSpec.model_fields.keys()
    return JobSpec(id=job_id, schedule=found, hidden=frozenset(hidden & known), **settings)


def _folder(job: Section, folder: Path, report: Report) -> Path:
    found = folder / str(job.get("working_directory"))
    if not found.is_dir():
        position, path = job.place("working_directory")
        report.warn(position, path, "there is no such folder; make it before the job runs")
    return found


def _places(node: Node, path: str) -> dict[str, Position]:
    places: dict[str, Position] = {}
    if isinstance(node, MapNode):
        for key in ("run", "args", "kwargs"):
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


def explain_top(key: str) -> str | None:
    """Answer a key at the top of the file that belongs further in."""
    for name, model in SECTIONS.items():
        fields = {field.alias or field_name for field_name, field in model.model_fields.items()}
        if key in fields - {"hidden"}:
            return f"no such setting here; did you mean {f'{name}.{key}'!r}?"
    if key in Policies.model_fields:
        return "no such setting here; it belongs into a job, or into 'defaults'"
    if key in Job.model_fields or suggestions.foreign(key) is not None:
        return "no such setting here; it belongs into a job: jobs, then its id, then its settings"
    return None


def _better_id(job_id: str) -> str:
    better = re.sub(r"[^a-z0-9_.-]+", "-", job_id.lower()).strip("-_.")[:100]
    rule = "lower-case letters, digits, '_', '.' and '-', at most 100, the first a letter or digit"
    return f"write {better!r}: {rule}" if re.fullmatch(JOB_ID, better) else f"write {rule}"
