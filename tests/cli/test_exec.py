"""`exec`: one job of the configuration here and now, with nothing recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scheduler_service.cli import trying
from scheduler_service.context import Stopping
from tests import forked
from tests.cli.conftest import PROCESS_SECONDS, Answered, Command, process_environment

CONFIG = """\
version: 1
database: {url: "postgresql://nobody@127.0.0.1:9/none"}
jobs:
  plain: {run: "tried:plain", manual: true, kwargs: {whom: you}}
  coroutine: {run: "tried:coroutine", manual: true}
  command: {command: "echo out; echo err >&2; exit 3", manual: true}
  slow: {command: "echo begun; sleep 1000 & wait", manual: true}
  limited: {command: "echo begun; sleep 1000", manual: true, timeout: 200ms, kill_after: 1s}
  deaf: {run: "tried:deaf", manual: true}
  chatty: {run: "tried:chatty", manual: true}
  broken: {run: "tried:broken", manual: true, enabled: false}
  absent: {run: "tried:absent", manual: true}
history: {output_limit: 1KiB}
"""
TRIED = """\
import asyncio
import logging
import time

from scheduler_service.context import RunContext


def plain(whom: str, run: RunContext) -> tuple:
    print("hello", whom)
    logging.getLogger("tried").warning("careful")
    return run.job, run.fence, run.term, run.attempt


async def coroutine() -> None:
    print("begun", flush=True)
    await asyncio.sleep(1000)


def deaf() -> None:
    print("begun")
    while True:
        time.sleep(1)


def chatty() -> None:
    for number in range(5000):
        print("line", number)


def broken() -> None:
    raise ValueError("not today")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "tried.py").write_text(TRIED)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


class Begun:
    """A job that goes on."""

    def __init__(self, folder: Path, job: str) -> None:
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        self.process = forked.start(("exec", job), folder, process_environment(), stdout=its_out, stderr=its_err)
        os.close(its_out)
        os.close(its_err)
        self.out, self.err = os.fdopen(out), os.fdopen(err)
        assert self.out.readline() == "begun\n"  # as it comes, for the job has not ended

    def end(self) -> Answered:
        code = self.process.wait(PROCESS_SECONDS)
        return Answered(code, self.out.read(), self.err.read())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PROCESS_SECONDS)
        self.out.close()
        self.err.close()


@pytest.fixture
def begin(folder: Path) -> Iterator[list[Begun]]:
    """Jobs that were begun; none outlives the test."""
    begun: list[Begun] = []
    yield begun
    for one in begun:
        one.close()


def test_a_function_is_run_with_its_arguments_and_what_it_returns_is_shown(process: Command, folder: Path) -> None:
    answered = process("exec", "plain", folder=folder)

    assert answered.out == "hello you\nWARNING tried: careful\n"
    (line,) = answered.lines
    assert line.startswith("plain succeeded after ")
    assert line.endswith(", returned ('plain', 0, 0, 1)")


def test_arguments_of_the_command_line_are_merged_over_the_jobs_own(process: Command, folder: Path) -> None:
    assert process("exec", "plain", "--arg", "whom=Ann", folder=folder).out.startswith("hello Ann\n")


def test_a_command_that_fails_has_its_exit_code_named(process: Command, folder: Path) -> None:
    answered = process("exec", "command", folder=folder, exit_code=1)

    assert sorted(answered.out.splitlines()) == ["err", "out"]
    assert answered.lines[-1].startswith("command failed after ")
    assert answered.lines[-1].endswith(" with exit code 3")


IGNORING = "import os, signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"


def test_a_module_that_ignores_the_end_of_children_costs_no_exit_code(process: Command, folder: Path) -> None:
    (folder / "jobs" / "tried.py").write_text(f"{IGNORING}def plain(whom): return os.system('exit 4') >> 8\n")
    assert "returned 4" in process("exec", "plain", folder=folder).lines[-1]


def test_a_parent_that_ignores_the_end_of_children_costs_no_exit_code(folder: Path) -> None:
    service = [sys.executable, "-m", "scheduler_service", "exec", "command"]
    words = [sys.executable, "-c", f"{IGNORING}os.execv(sys.argv[1], sys.argv[1:])", *service]
    done = subprocess.run(words, cwd=folder, env=process_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "exit code 3")


def test_a_function_in_a_process_of_its_own_shows_the_same_and_its_memory(process: Command, folder: Path) -> None:
    isolated = CONFIG.replace("kwargs: {whom: you}}", "kwargs: {whom: you}, isolation: process}")
    (folder / "config.yaml").write_text(isolated)

    answered = process("exec", "plain", folder=folder)

    assert answered.out == "hello you\nWARNING tried: careful\n"
    assert ", returned ('plain', 0, 0, 1), peak memory " in answered.lines[-1]


def test_a_child_does_not_inherit_what_its_module_changes_as_it_is_loaded(process: Command, folder: Path) -> None:
    (folder / "config.yaml").write_text(CONFIG.replace("kwargs: {whom: you}}", "isolation: process}"))
    changes = 'os.environ["LOADED"] = os.environ.get("LOADED", "") + " once"'
    (folder / "jobs" / "tried.py").write_text(f"import os\n{changes}\ndef plain(): return os.environ['LOADED']\n")

    assert ", returned ' once', " in process("exec", "plain", folder=folder).lines[-1]


def test_a_disabled_job_can_be_tried_and_its_error_is_shown(process: Command, folder: Path) -> None:
    answered = process("exec", "broken", folder=folder, exit_code=1)

    assert "ValueError: not today" in answered.lines
    assert 'raise ValueError("not today")' in answered.err
    assert answered.lines[-1].startswith("broken failed after ")


def test_the_whole_of_a_flood_is_shown(process: Command, folder: Path) -> None:
    answered = process("exec", "chatty", folder=folder)

    assert answered.out.splitlines() == [f"line {number}" for number in range(5000)]


def test_the_jobs_time_out_holds(process: Command, folder: Path) -> None:
    answered = process("exec", "limited", folder=folder, exit_code=1)

    assert answered.out == "begun\n"
    assert answered.lines[-1].startswith("limited timed out after ")


@pytest.mark.parametrize("job", ["coroutine", "slow"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_job_as_a_cancel_would(begin: list[Begun], folder: Path, job: str, number: int) -> None:
    begin.append(Begun(folder, job))
    begin[0].process.send_signal(number)

    answered = begin[0].end()

    assert answered.code == 1
    assert answered.lines[0] == "stopping; once more to stop at once"
    assert f"stopped: {signal.Signals(number).name} was received" in answered.lines
    assert answered.lines[-1].startswith(f"{job} cancelled after ")


def test_a_second_signal_ends_what_does_not_listen(begin: list[Begun], folder: Path) -> None:
    begin.append(Begun(folder, "deaf"))
    begin[0].process.send_signal(signal.SIGINT)
    assert begin[0].err.readline() == "stopping; once more to stop at once\n"
    begin[0].process.send_signal(signal.SIGINT)

    assert begin[0].end().code == 130


def test_a_second_signal_counts_while_the_first_is_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click, "echo", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended, trying._stopping(Stopping()):
        signal.raise_signal(signal.SIGINT)
    assert ended.value.code == 130


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["plian"], "error: there is no job 'plian' in config.yaml; did you mean 'plain'?"),
        (["command", "--arg", "a=1"], "error: command is a command: it takes no arguments"),
        (["plain", "--args", "[1"], "error: --args is not JSON, such as "),
        (["absent"], "config.yaml:12:"),
    ],
)
def test_a_mistake_is_one_line(process: Command, folder: Path, words: list[str], line: str) -> None:
    answered = process("exec", *words, folder=folder, exit_code=2)

    assert answered.out == ""
    assert len(answered.lines) == 1
    assert answered.err.startswith(line)
