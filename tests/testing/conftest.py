"""Worlds for the tests of the simulation; the plugin's own fixture is tested through pytester."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler_service.testing import Scheduler


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Scheduler]:
    """A maker of worlds whose folder is empty."""
    with Scheduler(tmp_path) as scheduler:
        yield scheduler


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pytest of a project of its own load our plugin and none of the others, which take a second."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
