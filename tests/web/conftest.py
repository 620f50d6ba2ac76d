"""A ledger as HTTP shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.story import Story
from tests.web.serving import Site, serving


@pytest.fixture
def site(story: Story, tmp_path: Path) -> Iterator[Site]:
    """The story over HTTP, on both databases; writing is on."""
    with serving(tmp_path, story.url) as site:
        yield site


@pytest.fixture
def sqlite_site(sqlite_story: Story, tmp_path: Path) -> Iterator[Site]:
    """The same, on SQLite alone."""
    with serving(tmp_path, sqlite_story.url) as site:
        yield site
