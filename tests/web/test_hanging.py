"""What is answered while the database hangs and many look at pages, which wait for it."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from pathlib import Path

import pytest
from fastapi import Response

from scheduler_service.web import limits, view
from scheduler_service.web.rendering import Kept
from tests.relay import Relay
from tests.waiting import wait_until
from tests.web.serving import LIMIT_SECONDS, Site, serving

THREADS = 40  # of anyio's, for all that waits
VIEWERS = 30


@pytest.mark.parametrize("accepted", ["identity", "gzip"])
def test_a_scrape_and_a_style_sheet_wait_for_none_of_the_pages_that_wait(
    migrated_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepted: str
) -> None:
    monkeypatch.setattr(view, "QUERY_SECONDS", LIMIT_SECONDS)
    with Relay(migrated_postgres_url) as relay, serving(tmp_path, relay.url) as site:
        assert site.get("/").status == 200
        relay.stall()
        waiting = [site.connect() for _ in range(THREADS + 10)]
        for number, connection in enumerate(waiting):
            connection.sendall(f"GET /?q={number} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        wait_until(lambda: _working_threads() >= THREADS)
        for path in ("/livez", "/metrics", "/static/page.css"):
            answer = site.ask("GET", path, headers={"Accept-Encoding": accepted})
            assert (answer.status, _answered(waiting)) == (200, 0), path
        relay.heal()
        for connection in waiting:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            connection.close()


def test_a_scrape_is_answered_when_too_much_is_asked_at_once(
    sqlite_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_REQUESTS", 0)
    assert sqlite_site.get("/").status == 503
    assert sqlite_site.get("/metrics").status == 200


@pytest.mark.parametrize("status", [200, 503])
def test_those_who_want_a_page_at_once_share_what_becomes_of_it(status: int) -> None:
    made: list[Response] = []
    go_on = threading.Event()

    def make() -> Response:
        assert go_on.wait(LIMIT_SECONDS)
        made.append(Response(b"a page", status))
        return made[-1]

    async def look() -> list[Response]:
        kept = Kept(lambda began: True)
        viewers = [asyncio.create_task(kept.get("/", make)) for _ in range(VIEWERS)]
        await asyncio.sleep(0)  # all of them have asked
        go_on.set()
        return await asyncio.gather(*viewers)

    assert asyncio.run(look()) == made * VIEWERS
    assert len(made) == 1


def test_who_asks_after_something_happened_is_not_given_what_was_read_before() -> None:
    made: list[Response] = []
    go_on = threading.Event()
    happened_at = 0.0
    clock = iter(range(1, 100))

    def make() -> Response:
        assert go_on.wait(LIMIT_SECONDS)
        made.append(Response(b"a page"))
        return made[-1]

    async def look() -> list[Response]:
        nonlocal happened_at
        kept = Kept(lambda began: began >= happened_at, lambda: float(next(clock)))
        first = asyncio.create_task(kept.get("/", make))
        await asyncio.sleep(0)
        happened_at = float(next(clock))
        others = [asyncio.create_task(kept.get("/", make)) for _ in range(VIEWERS)]
        await asyncio.sleep(0)
        go_on.set()
        return [await first, *await asyncio.gather(*others)]

    before, *after = asyncio.run(look())
    assert [before, after[0]] == made
    assert after == made[1:] * VIEWERS


def test_one_viewer_that_leaves_takes_the_page_from_nobody() -> None:
    go_on = threading.Event()

    def make() -> Response:
        assert go_on.wait(LIMIT_SECONDS)
        return Response(b"a page")

    async def look() -> Response:
        kept = Kept(lambda began: True)
        leaves, stays = (asyncio.create_task(kept.get("/", make)) for _ in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.sleep(0)
        go_on.set()
        return await stays

    assert asyncio.run(look()).body == b"a page"


def _working_threads() -> int:
    return sum(thread.name.startswith("AnyIO worker") for thread in threading.enumerate())


def _answered(connections: list[socket.socket]) -> int:
    return len(select.select(connections, [], [], 0)[0])
