"""A replica's HTTP, really served, for tests to ask.

    with serving(folder, url) as site:
        site.get("/api/v1/status").document

The parts of the replica are made and not started: nothing leads and nothing changes but what a test does.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scheduler_service.config import load
from scheduler_service.events import Event, Events
from scheduler_service.service import assemble
from scheduler_service.web import Server, View, view_of
from scheduler_service.web.app import create_app

LIMIT_SECONDS = 60.0
TOKEN = "a-token-that-may-write"
LOCK_ID = 7


@dataclass(frozen=True)
class Answer:
    """What was answered."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """The last part of a problem's type."""
        assert self.headers["content-type"] == "application/problem+json", self
        return str(self.document["type"]).rpartition(":")[2]


class Site:
    """A server and whoever asks it."""

    def __init__(self, url: str, view: View, told: list[Event]) -> None:
        self.url = url
        self.view = view
        self.told = told
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 0

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask over a connection of its own; a body that is not bytes is sent as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=LIMIT_SECONDS)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.headers.items()}, response.read()
            )
        finally:
            connection.close()

    def get(self, path: str, *, token: str | None = None) -> Answer:
        return self.ask("GET", path, token=token)

    def post(self, path: str, body: Any = None, *, token: str | None = TOKEN) -> Answer:
        return self.ask("POST", path, body, token=token)

    def connect(self) -> socket.socket:
        """Open a connection to write bytes to."""
        return socket.create_connection((self.host, self.port), timeout=LIMIT_SECONDS)

    def raw(self, request: bytes) -> bytes:
        """Return all that is answered to these bytes until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return received(connection)


def received(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


@contextlib.contextmanager
def serving(
    folder: Path,
    url: str,
    *,
    token: str | None = TOKEN,
    read_token: str | None = None,
    host: str = "127.0.0.1",
    timezone: str = "UTC",
) -> Iterator[Site]:
    """Serve a ledger."""
    path = folder / "served.yaml"
    tokens = {"token": token, "read_token": read_token}
    path.write_text(
        json.dumps(  # JSON is YAML
            {
                "version": 1,
                "service": {"timezone": timezone},
                "database": {"url": url},
                "election": {"lock_id": LOCK_ID},
                "http": {"host": host, **{name: value for name, value in tokens.items() if value is not None}},
                "jobs": {"report": {"command": "true", "cron": "* * * * *"}},
            }
        )
    )
    told: list[Event] = []
    events = Events()
    events.subscribe(told.append)
    config = load(path)
    view = view_of(config, assemble(config, events))
    app = create_app(view)  # here, not on the server's thread: two made at once disturb each other's warning filters
    server = Server(lambda: app, host=host, port=0, events=events, close=view.close)
    server.start()
    try:
        site = Site(server.url, view, told)
        yield site
    finally:
        server.stop(LIMIT_SECONDS)
    assert not [event for event in told if event.name in {"http_failed", "request_failed"}]
