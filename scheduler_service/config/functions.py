"""The functions of `run` jobs against what the configuration asks of them.  Looking loads them: people's code."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from scheduler_service import callables
from scheduler_service.callables import CallableError
from scheduler_service.config.configuration import Config
from scheduler_service.config.document import join
from scheduler_service.config.problems import WHOLE_FILE, Position, Problem, Report
from scheduler_service.model import Isolation, JobSpec, OnLeadershipLost, Overlap

NAMED = 5  # so many jobs are named where a setting in `defaults` concerns many


def check_callables(config: Config) -> tuple[Problem, ...]:
    """Load the function of every enabled `run` job; return what is wrong with it or its arguments.

    This runs the code of job modules.  What they print goes to stderr.
    """
    report = Report(config.file)
    for job, function in _functions(config):
        path = join("jobs", job.id)
        if isinstance(function, CallableError):
            report.add(*_place(config, path, "run", None), _told(config, job, str(function)))
            continue
        for problem in callables.argument_problems(function, job.args, job.kwargs):
            report.add(*_place(config, path, problem.key, problem.name), _told(config, job, problem.message))
    return report.problems


def callable_warnings(config: Config) -> tuple[Problem, ...]:
    """Return warnings of functions in threads that shall be stopped and cannot be: nothing ends a thread.

    A coroutine can be stopped, and a function that takes a RunContext is trusted to look at it.  Loads modules
    as `check_callables` does, and says nothing of those that it finds wrong.
    """
    report = Report(config.file)
    concerned: dict[tuple[Position, str], list[str]] = {}
    for job, function in _functions(config):
        name = _asks_to_stop(job)
        if name is not None and not isinstance(function, CallableError) and not _can_stop(function):
            place = _place(config, join("jobs", job.id), name, None, f"defaults.{name}")
            concerned.setdefault(place, []).append(job.id)
    for (position, path), jobs in concerned.items():
        message = (
            "a function in a thread goes on until it returns, whatever is asked of it; use 'isolation: process', "
            "a coroutine, or look at 'stopping' of a RunContext"
        )
        if path.startswith("defaults."):
            more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
            message += f" (this is about {', '.join(jobs[:NAMED])}{more})"
        report.warn(position, path, message)
    return report.warnings


def _functions(config: Config) -> Iterator[tuple[JobSpec, Callable[..., Any] | CallableError]]:
    """Yield the enabled `run` jobs with their functions, or why there is none."""
    for job in config.jobs:
        if job.run is None or not job.enabled:
            continue
        with contextlib.redirect_stdout(sys.stderr):
            try:
                function: Callable[..., Any] | CallableError = callables.find(job.run, config.service.jobs_folder)
            except CallableError as error:
                function = error
        yield job, function


def _asks_to_stop(job: JobSpec) -> str | None:
    """Return the setting by which a run of this job may be stopped though only its own code can do that."""
    if job.isolation is Isolation.PROCESS:
        return None
    if job.timeout is not None:
        return "timeout"
    if job.overlap is Overlap.REPLACE:
        return "overlap"
    return "on_leadership_lost" if job.on_leadership_lost is OnLeadershipLost.CANCEL else None


def _can_stop(function: Callable[..., Any]) -> bool:
    called: Any = function
    while isinstance(called, functools.partial):
        called = called.func
    if not inspect.isroutine(called):
        called = type(called).__call__
    return inspect.iscoroutinefunction(inspect.unwrap(called)) or callables.context_parameter(function) is not None


def _place(config: Config, path: str, key: str, name: str | None, *others: str) -> tuple[Position, str]:
    for wanted in (f"{path}.{key}.{name}" if name else "", f"{path}.{key}", *others, f"{path}.run"):
        if wanted in config.places:
            return config.places[wanted], wanted
    return WHOLE_FILE, f"{path}.{key}"


def _told(config: Config, job: JobSpec, message: str) -> str:
    """Return the message without what came from variables."""
    if "run" in job.hidden:
        return "what its variables hold cannot be called with these arguments, or is not there"
    if "jobs_folder" in config.service.hidden:
        folder = config.service.jobs_folder
        for path in (str(folder.resolve()), str(folder), folder.name):
            message = message.replace(f"{path}/", "")
    return message
