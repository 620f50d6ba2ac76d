"""Functions in threads that shall be stopped: a warning where nothing can stop them, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler_service.config import Problem, callable_warnings, check_callables, load

WORK = """\
import asyncio, functools
from scheduler_service.context import RunContext

def plain(*args): ...
def looks(run: RunContext, *args): ...
def perhaps(run: "RunContext | None" = None): ...
async def coroutine(*args): ...
bound = functools.partial(functools.partial(coroutine, 1), 2)
bound_plain = functools.partial(plain, 1)

def decorator(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

decorated = decorator(coroutine)

class Callable:
    async def __call__(self): ...
    async def method(self): ...

instance = Callable()
print("loaded")
"""
TOLD = (
    "a function in a thread goes on until it returns, whatever is asked of it; use 'isolation: process', a coroutine, "
    "or look at 'stopping' of a RunContext"
)


@pytest.fixture
def warned(tmp_path: Path):
    """Return a function that gives the warnings of a configuration with these jobs."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "work.py").write_text(WORK)

    def warned(jobs: str, top: str = "") -> list[Problem]:
        (tmp_path / "config.yaml").write_text(f"version: 1\n{top}jobs:\n{jobs}")
        config = load(tmp_path / "config.yaml", {})
        assert config.warnings == ()
        return list(callable_warnings(config))

    return warned


@pytest.mark.parametrize("setting", ["timeout: 5m", "overlap: replace", "on_leadership_lost: cancel"])
@pytest.mark.parametrize("name", ["plain", "bound_plain"])
def test_a_plain_function_cannot_be_stopped_from_outside(warned, setting, name):
    (warning,) = warned(f"  a:\n    run: work:{name}\n    every: 1h\n    {setting}\n")

    key = setting.partition(":")[0]
    assert (warning.line, warning.column) == (6, 7 + len(key))
    assert (warning.path, warning.message) == (f"jobs.a.{key}", TOLD)


@pytest.mark.parametrize(
    "name", ["looks", "perhaps", "coroutine", "bound", "decorated", "instance", "instance.method"]
)  # fmt: skip
def test_a_coroutine_and_what_takes_a_context_can_be_stopped(warned, name):
    assert warned(f"  a: {{run: 'work:{name}', every: 1h, timeout: 5m}}\n") == []


def test_what_is_not_to_be_stopped_or_runs_in_a_process_is_no_cause(warned):
    job = "  {0}: {{{1}, every: 1h, {2}}}\n".format
    jobs = job("free", "run: 'work:plain'", "overlap: allow")
    jobs += job("process", "run: 'work:plain'", "timeout: 5m, isolation: process")
    jobs += job("command", "command: x", "timeout: 5m")
    jobs += job("off", "run: 'work:plain'", "timeout: 5m, enabled: false")
    jobs += job("none", "run: 'work:plain'", "timeout: none")

    assert warned(jobs) == []


def test_a_policy_in_defaults_is_told_once_with_the_jobs_that_it_concerns(warned):
    defaults = "defaults: {timeout: 5m, overlap: replace}\n"
    jobs = "".join(f"  job-{number}: {{run: 'work:plain', every: 1h}}\n" for number in range(7))
    jobs += "  own: {run: 'work:plain', every: 1h, timeout: 1m}\n  good: {run: 'work:coroutine', every: 1h}\n"

    assert [(problem.line, problem.path, problem.message) for problem in warned(jobs, defaults)] == [
        (2, "defaults.timeout", f"{TOLD} (this is about job-0, job-1, job-2, job-3, job-4 and 2 more)"),
        (11, "jobs.own.timeout", TOLD),
    ]


def test_what_is_wrong_with_a_function_is_no_warning_and_nothing_goes_to_stdout(tmp_path, warned, capsys):
    assert warned("  a: {run: 'work:none', every: 1h, timeout: 5m}\n") == []

    assert len(check_callables(load(tmp_path / "config.yaml", {}))) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "loaded\n")
