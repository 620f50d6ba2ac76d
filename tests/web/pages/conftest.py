"""Replicas with pages, and browsers to look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fleet import Fleet
from tests.servers import SharedServer
from tests.web.pages.browser import Browser, chromium
from tests.web.pages.cluster import cluster

OpenBrowser = Callable[..., Browser]


@pytest.fixture(scope="module")
def fleet(postgres_server: SharedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three replicas on PostgreSQL, which the tests of a module share and do not hurt."""
    with postgres_server.database() as url, cluster(tmp_path_factory.mktemp("fleet"), url) as fleet:
        fleet.start(3)
        fleet.leader()
        yield fleet


@pytest.fixture
def open_browser(tmp_path: Path) -> Iterator[OpenBrowser]:
    """Open a browser that is closed with the test."""
    with ExitStack() as stack:

        def opened(**options: Any) -> Browser:
            return stack.enter_context(chromium(tmp_path / "profile", **options))

        yield opened


@pytest.fixture
def browser(open_browser: OpenBrowser) -> Browser:
    """A browser as people have it."""
    return open_browser()
