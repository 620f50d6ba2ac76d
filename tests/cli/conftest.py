"""The commands as a person runs them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from scheduler_service.cli import commands
from tests import forked

PROCESS_SECONDS = 60


@dataclass(frozen=True)
class Answered:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Command = Callable[..., Answered]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in this process."""
    monkeypatch.delenv("SCHEDULER_CONFIG", raising=False)

    def call(*arguments: object, exit_code: int | None = 0) -> Answered:
        result = CliRunner().invoke(commands, [str(argument) for argument in arguments], prog_name="scheduler-service")
        if result.exception is not None and not isinstance(result.exception, SystemExit | click.ClickException):
            raise result.exception
        answered = Answered(result.exit_code, result.stdout, result.stderr)
        assert exit_code is None or answered.code == exit_code, answered
        return answered

    return call


@pytest.fixture
def process() -> Command:
    """Runs a command as a process of its own."""

    def call(*arguments: object, folder: Path, exit_code: int | None = 0, **environment: str) -> Answered:
        done = forked.run(tuple(map(str, arguments)), folder, process_environment(**environment), PROCESS_SECONDS)
        answered = Answered(done.returncode, done.stdout, done.stderr)
        assert exit_code is None or answered.code == exit_code, answered
        return answered

    return call


def process_environment(**others: str) -> dict[str, str]:
    """The environment of a process that finds this checkout from any folder."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {key: value for key, value in os.environ.items() if key != "SCHEDULER_CONFIG"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **others}
