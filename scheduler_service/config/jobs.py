"""From the map of jobs to JobSpecs: what runs, under which policies, and whether all that goes together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler_service.config import suggestions, unavailable
from scheduler_service.config.document import join
from scheduler_service.config.kinds import WRONG
from scheduler_service.config.nodes import ListNode, MapNode, Node, ScalarNode
from scheduler_service.config.problems import Position, Report
from scheduler_service.config.sections import Section, entries, read_section
from scheduler_service.config.settings import JOB_ID, SECTIONS, Job, Policies, RetrySettings
from scheduler_service.config.timing import KINDS, read_schedule
from scheduler_service.config.values import duration_text
from scheduler_service.model import CatchUp, JobSpec, Overlap, Retry

_TIMING = (*KINDS, "timezone", "offset", "starts_at", "ends_at")
_FOR_COMMANDS = {
    "env": "sets the environment of commands; a function gets what it needs in kwargs",
    "working_directory": "is where commands run; a function runs where the service was started",
    "kill_after": "is for commands; a function cannot be killed",
}


def read_defaults(node: Node | None, report: Report, position: Position) -> Section:
    """Read `defaults`: policies only."""
    defaults = read_section(Policies, node, "defaults", report, position=position, explain=_explain_default)
    unavailable.check_policies(defaults, report)
    return defaults


def read_jobs(
    node: Node | None, defaults: Section, timezone: str, folder: Path, report: Report
) -> tuple[tuple[JobSpec, ...], Mapping[str, Position]]:
    """Return the jobs that could be read, and the positions of their settings by path.

    `timezone` is the service's; relative paths are relative to `folder`.
    """
    specs: dict[str, JobSpec] = {}
    places: dict[str, Position] = {}
    for job_id, position, value in entries(node, "jobs", report, expected="a map of jobs by their ids"):
        path = join("jobs", job_id)
        if not re.fullmatch(JOB_ID, job_id):
            report.add(position, path, f"cannot be the id of a job; {_better_id(job_id)}")
        spec = _read_job(job_id, value, path, position, defaults, timezone, folder, report)
        if spec is not None:
            specs.setdefault(job_id, spec)
        places |= _places(value, path)
    return tuple(specs.values()), places


def _read_job(
    job_id: str,
    node: Node,
    path: str,
    position: Position,
    defaults: Section,
    timezone: str,
    folder: Path,
    report: Report,
) -> JobSpec | None:
    if isinstance(node, ScalarNode) and node.value is not None:
        hint = f"{job_id}: {{run: {node.source}, …}}" if ":" in node.source else "run: or command:, and a schedule"
        report.add(node.position, path, f"expected a map of settings; write {hint}")
        return None
    if isinstance(node, ListNode):
        report.add(node.position, path, "expected a map of settings, got a list")
        return None
    job = read_section(Job, node, path, report, position=position, fallback=defaults, explain=_explain_job)
    _check_what(job, report)
    _check_policies(job, report)
    unavailable.check_policies(job, report)
    unavailable.check_timeout(job, report)
    found = read_schedule(job, timezone, report)
    if found is None:
        return None
    settings = {**defaults.good(), **job.good()}
    hidden = {*job.hidden, *(name for name in defaults.hidden if not job.has(name))}
    if hidden.intersection(_TIMING):
        hidden.add("schedule")
    for name in _TIMING:
        settings.pop(name, None)
    settings["retry"] = Retry(**_retry_values(job))
    if settings.get("working_directory") is not None:
        settings["working_directory"] = _folder(job, folder, report)
    known = JobSpec.model_fields.keys()
    return JobSpec(id=job_id, schedule=found, hidden=frozenset(hidden & known), **settings)


def _folder(job: Section, folder: Path, report: Report) -> Path:
    found = folder / str(job.get("working_directory"))
    if not found.is_dir():
        position, path = job.place("working_directory")
        report.warn(position, path, "there is no such folder; make it before the job runs")
    return found


def _retry_values(job: Section) -> dict[str, Any]:
    """Return the settings of `retry`: maps merge, so each comes from the job, else from `defaults`."""
    values: dict[str, Any] = {}
    for section in (job.fallback, job):
        retry = section.get("retry") if section is not None and section.has("retry") else None
        if isinstance(retry, Section):
            values |= retry.good()
    return values


def _check_what(job: Section, report: Report) -> None:
    """Report what is wrong with run, command and what goes with only one of them."""
    if not job.has("run") and not job.has("command"):
        report.add(job.position, job.path, "has nothing to run; add 'run: module:function' or 'command: …'")
    elif job.has("run") and job.has("command"):
        position, path = max(job.place("run"), job.place("command"))
        report.add(position, path, "a job has either 'run' or 'command'; remove one of them")
    elif job.has("command"):
        for name in ("args", "kwargs"):
            if job.has(name):
                position, path = job.place(name)
                report.add(position, path, "goes with 'run' only; write a command's arguments into the command")
    else:
        for name, message in _FOR_COMMANDS.items():
            if job.has(name):
                position, path = job.place(name)
                report.add(position, path, f"{message}; remove it")


def _check_policies(job: Section, report: Report) -> None:
    """Report policies that have no effect beside the others, where the job itself asks for them."""
    for name, other, values in (
        ("queue_limit", "overlap", (Overlap.QUEUE,)),
        ("catch_up_limit", "catch_up", (CatchUp.ALL,)),
        ("catch_up_window", "catch_up", (CatchUp.LATEST, CatchUp.ALL)),
    ):
        if job.has(name) and job.known(other) and job.get(other) not in values:
            position, path = job.place(name)
            wanted = " or ".join(f"'{other}: {value}'" for value in values)
            report.add(position, path, f"has an effect only with {wanted}; remove it, or set that")
    window, grace = job.get("catch_up_window"), job.get("misfire_grace")
    if job.has("catch_up_window") and WRONG not in (window, grace) and window < grace:
        position, path = job.place("catch_up_window")
        shown = f" {duration_text(grace)}" if job.shows("misfire_grace") else ""
        report.warn(position, path, f"is shorter than misfire_grace{shown}, which counts then")
    retry = Retry(**_retry_values(job))
    if retry.delay > retry.max_delay and (job.has("retry") or (job.fallback and job.fallback.has("retry"))):
        _report_delay(job, report)


def _report_delay(job: Section, report: Report) -> None:
    sections = [section.get("retry") for section in (job, job.fallback) if section is not None and section.has("retry")]
    written = [section for section in sections if isinstance(section, Section)]
    source = next((s for s in written if s.has("delay") or s.has("max_delay")), None)
    if source is not None:
        position, path = source.place("delay", "max_delay")
        report.add(position, path, "the wait before the second start is longer than max_delay; lower it or raise that")


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
