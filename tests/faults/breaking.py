"""Break a chosen statement: before it is sent, or after it has committed, when only its answer is lost.

    BreakingRelay     PostgreSQL: stands between all clients and the server and reads their messages
    breaking_sqlite   SQLite: the cursor that every connection of ours uses

Both ask one `Breaker`, which knows statements by what they say and counts how often each was sent.  Connecting
is a statement too.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import sqlite3
import struct
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from scheduler_service.database import sqlite as sqlite_connections
from tests.relay import Link, Relay


class Moment(StrEnum):
    """When a statement breaks."""

    BEFORE = "before it is sent"
    AFTER = "after it committed"


Choice = Callable[[str, int], bool]  # what a statement says, and how often it was sent with this time


class Breaker:
    """Breaks those statements that `chosen` names, at `moment`."""

    def __init__(self, moment: Moment, chosen: Choice) -> None:
        self.sent: Counter[str] = Counter()
        self.broken: list[tuple[str, int]] = []
        self._moment = moment
        self._chosen = chosen
        self._lock = threading.Lock()

    def meet(self, statement: str) -> Moment | None:
        """Count a statement; return when it breaks, or None."""
        said = told_apart(statement)
        with self._lock:
            self.sent[said] += 1
            if not self._chosen(said, self.sent[said]):
                return None
            self.broken.append((said, self.sent[said]))
        return self._moment


def told_apart(statement: str) -> str:
    """Return a statement without what differs each time it is sent: numbers, and how long its lists are."""
    words = " ".join(statement.split())
    words = re.sub(r"\d+", "#", words)
    return re.sub(r"((?:\$#|\?)[:\w]*)(?:, (?:\$#|\?)[:\w]*)+", r"\1, …", words)


class BreakingRelay(Relay):
    """A relay that ends the connection on which the chosen statement is sent.

    A statement is everything that a client sends up to its Sync, or a simple query.  What breaks before is not
    passed on; after, it is, and its answer is read to its end and kept.
    """

    def __init__(self, url: str, breaker: Breaker) -> None:
        self._breaker = breaker
        super().__init__(url)

    def _carry(self, client: socket.socket, server: socket.socket) -> Link:
        link = Link(client, server, users=1)
        self._start(self._listen, link, client, server)
        return link

    def _listen(self, link: Link, client: socket.socket, server: socket.socket) -> None:
        with link.used(), contextlib.suppress(OSError):
            _Session(client, server, self._breaker).run()


_CANCEL_REQUEST, _ENCRYPTION_REQUESTS = 80877102, (80877103, 80877104)


class _Session:
    """What a client and the server say to each other, message by message."""

    def __init__(self, client: socket.socket, server: socket.socket, breaker: Breaker) -> None:
        self._client, self._server, self._breaker = client, server, breaker
        self._from_client, self._from_server = b"", b""
        self._began = False  # the start-up message was passed on
        self._ready = False  # the server has taken the client in
        self._refusing = 0  # answers of one byte that are due: whether the connection is encrypted
        self._statement = b""  # messages up to the next Sync
        self._words: list[str] = []
        self._prepared: dict[bytes, str] = {}  # by the statement's name
        self._name = ""
        self._breaking = False  # the next complete answer ends everything

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._client, selectors.EVENT_READ)
            selector.register(self._server, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(65536)
                    if not data:
                        raise ConnectionResetError
                    if key.fileobj is self._client:
                        self._from_client += data
                        self._read_client()
                    else:
                        self._from_server += data
                        self._read_server()

    def _read_client(self) -> None:
        while not self._began and len(self._from_client) >= 8:
            length, code = struct.unpack_from("!ii", self._from_client)
            if len(self._from_client) < length:
                return
            message, self._from_client = self._from_client[:length], self._from_client[length:]
            if code in _ENCRYPTION_REQUESTS:
                self._refusing += 1
                self._server.sendall(message)
            else:
                self._start(message, code)
        while self._began and len(self._from_client) >= 5:
            length = 1 + struct.unpack_from("!i", self._from_client, 1)[0]
            if len(self._from_client) < length:
                return
            message, self._from_client = self._from_client[:length], self._from_client[length:]
            self._take(message)

    def _start(self, message: bytes, code: int) -> None:
        self._began = True
        if code != _CANCEL_REQUEST:
            words = message[8:].split(b"\x00")
            settings = dict(zip(words[::2], words[1::2], strict=False))
            self._name = settings.get(b"application_name", b"").decode()
            self._meet("connect")
        self._server.sendall(message)

    def _take(self, message: bytes) -> None:
        kind, body = message[:1], message[5:]
        self._statement += message
        if kind == b"Q":
            self._words.append(body.split(b"\x00")[0].decode())
        elif kind == b"P":
            name, words = body.split(b"\x00")[:2]
            self._prepared[name] = words.decode()
        elif kind == b"B":
            self._words.append(self._prepared[body.split(b"\x00")[1]])
        if kind in (b"P", b"B", b"D", b"E", b"C"):
            return  # more belongs to it, up to Sync
        if self._words:
            self._meet("; ".join(self._words))
        statement, self._statement, self._words = self._statement, b"", []
        self._server.sendall(statement)

    def _meet(self, statement: str) -> None:
        moment = self._breaker.meet(f"{self._name}: {statement}")
        if moment is Moment.BEFORE:
            raise ConnectionResetError
        self._breaking = moment is Moment.AFTER

    def _read_server(self) -> None:
        while self._refusing and self._from_server:
            answer, self._from_server = self._from_server[:1], self._from_server[1:]
            assert answer == b"N", "what is encrypted cannot be read"
            self._refusing -= 1
            self._client.sendall(answer)
        while len(self._from_server) >= 5:
            length = 1 + struct.unpack_from("!i", self._from_server, 1)[0]
            if len(self._from_server) < length:
                return
            message, self._from_server = self._from_server[:length], self._from_server[length:]
            complete = message[:1] == b"Z"
            if self._breaking and complete:
                raise ConnectionResetError
            # Without those to whom it must still prove who it is, the server does not come to its end.
            if not self._breaking or not self._ready:
                self._client.sendall(message)
            self._ready = self._ready or complete


@contextlib.contextmanager
def breaking_sqlite(breaker: Breaker) -> Iterator[None]:
    """Break statements on every connection of ours to an SQLite file."""
    cursor = sqlite_connections.BufferedCursor
    execute = cursor.execute

    former: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def breaking(self: sqlite3.Cursor, sql: str, parameters: Any = (), /) -> Any:
        # A commit is told apart by what it commits.
        words = f"commit after {former[self.connection]}" if sql == "commit" else sql
        former[self.connection] = sql
        moment = breaker.meet(f"{threading.current_thread().name}: {words}")
        if moment is Moment.BEFORE:
            raise _failure()
        answer = execute(self, sql, parameters)
        if moment is Moment.AFTER:
            raise _failure()
        return answer

    cursor.execute = breaking
    try:
        yield
    finally:
        cursor.execute = execute


def _failure() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR"
    return error
