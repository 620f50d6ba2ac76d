"""The pytest plugin: one fixture, found through the entry point of the installed package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scheduler_service.testing.scheduler import Scheduler


@pytest.fixture
def scheduler(pytestconfig: pytest.Config) -> Iterator[Scheduler]:
    """Runs configurations on a fake clock; relative paths are relative to pytest's root folder."""
    with Scheduler(pytestconfig.rootpath) as scheduler:
        yield scheduler
