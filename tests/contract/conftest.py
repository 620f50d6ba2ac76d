"""What the tests of several parts of a leader share."""

from __future__ import annotations

import pytest


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty jobs are settled in one statement, and as many are known before all are adopted."""
    monkeypatch.setattr("scheduler_service.dispatcher.BATCH_JOBS", 20)
    monkeypatch.setattr("scheduler_service.dispatcher.adopting.RECALLED_JOBS", 20)
