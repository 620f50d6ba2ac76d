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
from tests.story import LOCK_ID, Story

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


@pytest.fixture
def tokyo(sqlite_story: Story, tmp_path: Path) -> list[str]:
    """Names the story by the configuration of a service in Tokyo."""
    config = tmp_path / "tokyo.yaml"
    document = {
        "version": 1,
        "service": {"timezone": "Asia/Tokyo"},
        "database": {"url": sqlite_story.url},
        "election": {"lock_id": LOCK_ID},
        "jobs": {},
    }
    config.write_text(json.dumps(document))  # JSON is YAML
    return ["-c", str(config)]


def process_environment(**others: str) -> dict[str, str]:
    """The environment of a process that finds this checkout from any folder."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {key: value for key, value in os.environ.items() if key != "SCHEDULER_CONFIG"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **others}
