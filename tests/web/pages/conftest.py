"""Replicas with pages, and browsers to look at them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.fleet import Fleet
from tests.servers import SharedServer
from tests.web.pages.browser import Browser, chromium
from tests.web.pages.cluster import cluster


@pytest.fixture(scope="module")
def fleet(postgres_server: SharedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three replicas on PostgreSQL, which the tests of a module share and do not hurt."""
    with postgres_server.database() as url, cluster(tmp_path_factory.mktemp("fleet"), url) as fleet:
        fleet.start(3)
        fleet.leader()
        yield fleet


@pytest.fixture(scope="session")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    """A browser as people have it."""
    shared_browser.renew()
    yield shared_browser
    shared_browser.rest()
