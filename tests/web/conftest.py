"""A ledger with a story in it, and HTTP that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler_service.database import Database
from tests.cli.conftest import Story
from tests.web.serving import Site, serving


@pytest.fixture
def story(store_url: str) -> Iterator[Story]:
    """A ledger to tell a story in: once SQLite, once PostgreSQL."""
    database = Database(store_url)
    yield Story(database, store_url)
    database.dispose()


@pytest.fixture
def sqlite_story(migrated_sqlite_url: str) -> Iterator[Story]:
    """The same, on SQLite alone."""
    database = Database(migrated_sqlite_url)
    yield Story(database, migrated_sqlite_url)
    database.dispose()


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
