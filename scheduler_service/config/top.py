"""The top of a file: which keys may stand there, in the main file and in the files that it includes."""

from __future__ import annotations

from scheduler_service.config import suggestions
from scheduler_service.config.kinds import WRONG, integer
from scheduler_service.config.nodes import ListNode, MapNode, Node, ScalarNode, described
from scheduler_service.config.problems import Position, Report
from scheduler_service.config.sections import unknown
from scheduler_service.config.settings import SECTIONS, Job, Policies

VERSION = 1
TOP = ("version", "include", *SECTIONS, "defaults", "jobs")
TOP_OF_INCLUDED = ("version", "jobs")
START = Position(1, 1)
_SMALLEST = "version: 1, then jobs: with one job in it"


def check_main(node: Node, report: Report) -> MapNode | None:
    """Return the map that the main file is, its keys checked, or None when the report says what it is instead."""
    top = _map(node, f"the file is empty; the smallest useful one has {_SMALLEST}", report)
    if top is None:
        return None
    for key, entry in top.entries.items():
        if key not in TOP:
            report.add(entry.position, key, _explain(key) or unknown(key, dict.fromkeys(TOP)))
    if "version" not in top.entries:
        report.add(START, "", f"the version of the file's format is missing; begin with 'version: {VERSION}'")
    _check_version(top, report)
    if "jobs" not in top.entries and "include" not in top.entries:
        report.add(START, "", "there is no 'jobs'; add it, with one job or more")
    return top


def check_included(node: Node, main: str, report: Report) -> MapNode | None:
    """Return the map that an included file is, its keys checked, or None; `main` is the file that includes it."""
    # An error: an editor that empties the file before it writes must not take all its jobs away for a moment.
    top = _map(node, "the file is empty; write 'jobs: {}' if there shall be no jobs in it", report)
    if top is None:
        return None
    for key, entry in top.entries.items():
        if key not in TOP_OF_INCLUDED:
            report.add(entry.position, key, _explain_included(key, entry.node, main))
    _check_version(top, report)
    if "jobs" not in top.entries:
        report.add(START, "", "there is no 'jobs'; add it, with the jobs of this file below it")
    return top


def _map(node: Node, empty: str, report: Report) -> MapNode | None:
    if isinstance(node, MapNode):
        return node
    if isinstance(node, ScalarNode) and node.value is None:
        report.add(START, "", empty)
    elif isinstance(node, ListNode | ScalarNode):
        space = "; a space is missing after the colon" if isinstance(node, ScalarNode) and ":" in node.source else ""
        message = f"expected settings such as 'version: 1' at the top of the file, got {described(node)}{space}"
        report.add(node.position, "", message)
    return None


def _check_version(top: MapNode, report: Report) -> None:
    if "version" in top.entries:
        node = top.entries["version"].node
        if integer(0, 10**9).read(node, "version", report) not in (VERSION, WRONG):
            report.add(node.position, "version", f"this release reads version {VERSION}; write {VERSION}")


def _explain(key: str) -> str | None:
    """Answer a key that belongs further in."""
    if (section := _section_of(key)) is not None:
        return f"no such setting here; did you mean {f'{section}.{key}'!r}?"
    if key in Policies.model_fields:
        return "no such setting here; it belongs into a job, or into 'defaults'"
    return _explain_job(key)


def _explain_included(key: str, node: Node, main: str) -> str:
    if key == "include":
        return f"only {main} includes files: add the pattern there"
    if key in TOP:
        return f"belongs into {main}; here are jobs only"
    if isinstance(node, MapNode) and not {"run", "command"}.isdisjoint(node.entries):
        return "no such setting; if this is a job, write it below 'jobs:'"
    if (section := _section_of(key)) is not None:
        return f"no such setting here; {f'{section}.{key}'!r} belongs into {main}"
    return _explain_job(key) or unknown(key, dict.fromkeys(TOP_OF_INCLUDED))


def _explain_job(key: str) -> str | None:
    if key in Job.model_fields or suggestions.foreign(key) is not None:
        return "no such setting here; it belongs into a job: jobs, then its id, then its settings"
    return None


def _section_of(key: str) -> str | None:
    for name, model in SECTIONS.items():
        fields = {field.alias or field_name for field_name, field in model.model_fields.items()}
        if key in fields - {"hidden"}:
            return name
    return None
