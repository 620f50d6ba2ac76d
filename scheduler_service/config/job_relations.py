"""Relations between the settings of one job: what does not go together, and what has no effect beside the rest.

Checked is what counts for the job, whether it stands there or in `defaults`; reported is only what the job
itself asks for: a policy in `defaults` is for those jobs on which it has an effect.
"""

from __future__ import annotations

from typing import Any

from scheduler_service.config.kinds import WRONG
from scheduler_service.config.problems import Report
from scheduler_service.config.sections import Section
from scheduler_service.config.values import duration_text
from scheduler_service.model import CatchUp, Isolation, Overlap, Retry

_FOR_PROCESSES = {
    "env": "sets the environment of a process; a function in a thread gets what it needs in kwargs",
    "working_directory": "is where a process runs; a function in a thread runs where the service was started",
}


def check_job(job: Section, workers: Section, report: Report) -> None:
    """Report settings of a job that do not go together; `workers` is the section of that name."""
    _check_what(job, report)
    _check_policies(job, report)
    _check_retry(job, report)
    _check_max_running(job, workers, report)


def retry_of(job: Section) -> Retry:
    """Return how the job is tried again: maps merge, so each setting comes from the job, else from `defaults`."""
    values: dict[str, Any] = {}
    for section in reversed(_retries(job)):
        values |= section.good()
    return Retry(**values)


def _retries(job: Section) -> list[Section]:
    """Return the `retry` of the job and that of `defaults`, as far as they are written."""
    sections = [section.get("retry") for section in (job, job.fallback) if section is not None and section.has("retry")]
    return [section for section in sections if isinstance(section, Section)]


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
        if job.has("isolation") and job.get("isolation") is Isolation.PROCESS:
            position, path = job.place("isolation")
            report.add(position, path, "goes with 'run' only: a command always is a process of its own; remove it")
    elif job.get("isolation") is Isolation.THREAD:
        for name, message in _FOR_PROCESSES.items():
            if job.has(name):
                position, path = job.place(name)
                report.add(position, path, f"{message}; remove it, or add 'isolation: process'")


def _check_policies(job: Section, report: Report) -> None:
    """Report policies that have no effect beside the others."""
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


def _check_retry(job: Section, report: Report) -> None:
    retry, written = retry_of(job), _retries(job)
    if retry.delay > retry.max_delay:
        source = next((section for section in written if section.has("delay") or section.has("max_delay")), None)
        if source is not None:
            position, path = source.place("delay", "max_delay")
            message = "the wait before the second start is longer than max_delay; lower it or raise that"
            report.add(position, path, message)
    own = job.get("retry") if job.has("retry") else None
    if not isinstance(own, Section):
        return
    if retry.attempts == 1:
        for name in ("delay", "factor", "max_delay", "on"):
            if own.has(name):
                report.warn(*own.place(name), "has no effect: 'attempts' is 1, so no failed run is tried again")
                return
    elif retry.on == ("timeout",) and job.get("timeout") is None:
        position, path = own.place("on", "attempts")
        report.warn(position, path, "only time-outs are tried again, and the job has no 'timeout'")


def _check_max_running(job: Section, workers: Section, report: Report) -> None:
    """Warn of more runs at once than the one replica that runs them has places for."""
    most = job.get("max_running")
    if most in (None, WRONG):
        return
    in_process = job.has("run") and job.get("isolation") is Isolation.PROCESS
    for name in ("processes", "threads") if in_process else ("threads",):
        if workers.known(name) and most > workers.get(name):
            position, path = job.place("max_running")
            shown = f" ({workers.get(name)})" if workers.shows(name) else ""
            message = f"is never reached: at most workers.{name}{shown} run at once; raise that, or lower this"
            report.warn(position, path, message)
            return
