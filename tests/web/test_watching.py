"""The places of those who watch what happens: never more are taken than there are, and each is given back."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from scheduler_service.web import watching
from scheduler_service.web.app import create_app
from tests.web.serving import Site

PLACES, COMING = 3, 20
SCOPE = {
    "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/events", "raw_path": b"/events",
    "query_string": b"", "root_path": "", "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
}  # fmt: skip


class Client:
    """Somebody who asks for the stream and goes when told to."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self.asked = False

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status.set_result(message["status"])


async def come(app: Any, count: int) -> tuple[Counter[int], list[Client], list[asyncio.Task[None]]]:
    """Let so many ask at once; return what they were told."""
    clients = [Client() for _ in range(count)]
    tasks = [asyncio.create_task(app(dict(SCOPE), one.receive, one.send)) for one in clients]
    return Counter([await one.status for one in clients]), clients, tasks


async def go(clients: list[Client], tasks: list[asyncio.Task[None]]) -> None:
    for one in clients:
        one.gone.set()
    await asyncio.gather(*tasks)


def test_of_many_who_come_at_once_no_more_watch_than_there_are_places(
    sqlite_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_WATCHERS", PLACES)

    async def story() -> None:
        app = create_app(sqlite_site.view)
        for _ in range(2):  # and when they have left there is room again
            told, clients, tasks = await come(app, COMING)
            assert told == {200: PLACES, 503: COMING - PLACES}
            await go(clients, tasks)

    asyncio.run(story())


def test_who_leaves_before_the_stream_begins_keeps_no_place(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_WATCHERS", PLACES)

    async def story() -> None:
        app = create_app(sqlite_site.view)
        clients = [Client() for _ in range(PLACES)]
        for one in clients:
            one.gone.set()
        await asyncio.gather(*(app(dict(SCOPE), one.receive, one.send) for one in clients))
        told, clients, tasks = await come(app, PLACES)
        assert told == {200: PLACES}
        await go(clients, tasks)

    asyncio.run(story())
