"""The pytest plugin: one fixture, found through the entry point of the installed package.

pytest imports this module at every start, so what the fixture needs is imported when a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scheduler_service.testing.scheduler import Scheduler


@pytest.fixture
def scheduler(pytestconfig: pytest.Config) -> Iterator[Scheduler]:
    """Runs configurations on a fake clock; relative paths are relative to pytest's root folder."""
    from scheduler_service.testing.scheduler import Scheduler  # noqa: PLC0415

    with Scheduler(pytestconfig.rootpath) as scheduler:
        yield scheduler
