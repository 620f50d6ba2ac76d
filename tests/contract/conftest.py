"""What the tests of several parts of a leader share."""

from __future__ import annotations

import pytest


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty jobs are settled in one statement."""
    monkeypatch.setattr("scheduler_service.dispatcher.BATCH_JOBS", 20)
