"""A network that can be hurt: a relay between clients and a server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from sqlalchemy import make_url

_BACKEND_KEY = b"K\x00\x00\x00"
_AUTHENTICATED = b"R"
_READY_AND_IDLE = b"Z\x00\x00\x00\x05I"
_PIECE_BYTES = 65536


class Way:
    """One direction of every connection: whether it flows, and how long a piece takes."""

    def __init__(self) -> None:
        self._flowing = threading.Event()
        self._flowing.set()
        self.delay_seconds = 0.0

    def stall(self) -> None:
        """Keep every byte back while the connections stand."""
        self._flowing.clear()

    def heal(self) -> None:
        """Pass on what was kept back, and what comes, at once."""
        self.delay_seconds = 0.0
        self._flowing.set()

    def travel(self) -> None:
        """Take as long as a piece takes."""
        if self.delay_seconds:
            time.sleep(self.delay_seconds)
        self._flowing.wait()


class Relay:
    """Listens on a port of its own and passes everything on to the server of `url`.

    `stall` keeps every byte back while the connections stand, as a network that swallows packets does, and
    `requests` and `replies` can be stalled alone; `delay` makes both slow.  `cut` ends connections with FIN,
    `reset` with RST; `drop_replies` lets statements be executed and ends the connection instead of telling.
    `pooled` gives clients a process id that is not the server's, as a pooler does.
    """

    def __init__(self, url: str, *, pooled: bool = False) -> None:
        self._url = make_url(url)
        self._pooled = pooled
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests = Way()
        self.replies = Way()
        self._drops_left = 0
        self._dropped = threading.Condition()
        self._stopped = False
        self._links: list[Link] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        """The URL of the same database, by way of the relay."""
        port = self._listener.getsockname()[1]
        return self._url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def stall(self) -> None:
        """Pass nothing on, in either direction."""
        self.requests.stall()
        self.replies.stall()

    def delay(self, seconds: float) -> None:
        """Let every piece take so long, in both directions."""
        self.requests.delay_seconds = self.replies.delay_seconds = seconds

    def heal(self) -> None:
        """Pass on what was kept back, and what comes, at once."""
        self.requests.heal()
        self.replies.heal()

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        for link in self._links:
            link.end()

    def reset(self) -> None:
        """End every connection with RST, to both sides."""
        for link in self._links:
            link.end(abruptly=True)

    def drop_replies(self, count: int) -> None:
        """Swallow the next `count` answers of the server, each with its connection.

        The server has executed, and in autocommit committed, what it answers.
        """
        with self._dropped:
            self._drops_left = count

    def await_drops(self, limit_seconds: float) -> None:
        """Return when as many answers as asked for were swallowed."""
        with self._dropped:
            if not self._dropped.wait_for(lambda: self._drops_left == 0, limit_seconds):
                raise AssertionError(f"{self._drops_left} answers more did not come within {limit_seconds:g} s")

    def close(self) -> None:
        """End everything."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((self._url.host or "127.0.0.1", self._url.port or 5432))
            except OSError:
                client.close()  # the server is down, as the client finds out; it may come back
                continue
            self._links = [*(one for one in self._links if not one.ended), self._carry(client, server)]

    def _carry(self, client: socket.socket, server: socket.socket) -> Link:
        """Begin to pass on what one client and the server say."""
        link = Link(client, server, users=2)
        self._start(self._pump, link, client, server, self.requests)
        self._start(self._pump, link, server, client, self.replies)
        return link

    def _pump(self, link: Link, source: socket.socket, target: socket.socket, way: Way) -> None:
        with link.used(), contextlib.suppress(OSError):
            while True:
                data = source.recv(_PIECE_BYTES)
                way.travel()  # good-bye too
                if not data or (way is self.replies and self._is_to_be_dropped(data)):
                    break
                target.sendall(_disguised(data) if self._pooled and way is self.replies else data)

    def _is_to_be_dropped(self, data: bytes) -> bool:
        # Answered, outside of a transaction: what was asked is committed.  A new session's greeting ends so too.
        if not data.endswith(_READY_AND_IDLE) or data.startswith(_AUTHENTICATED):
            return False
        with self._dropped:
            if not self._drops_left:
                return False
            self._drops_left -= 1
            self._dropped.notify_all()
            return True


class Link:
    """The two sockets of one connection, which end together; `users` threads pass on what is said."""

    def __init__(self, client: socket.socket, server: socket.socket, users: int) -> None:
        self._sockets = (client, server)
        self._abrupt = False
        self._users = users
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        return self._users == 0

    def end(self, *, abruptly: bool = False) -> None:
        """Let nobody send or receive any more; abruptly, so that both sides are told of an error."""
        self._abrupt = self._abrupt or abruptly
        for one in self._sockets:
            with contextlib.suppress(OSError):
                if self._abrupt:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Shut for reading alone, so that nothing is sent before it is closed, and that resets it.
                one.shutdown(socket.SHUT_RD if self._abrupt else socket.SHUT_RDWR)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Hold the sockets; whoever leaves ends the connection, and the last one closes it."""
        try:
            yield
        finally:
            self.end()
            with self._lock:
                self._users -= 1
            if self.ended:
                for one in self._sockets:
                    one.close()


def _disguised(data: bytes) -> bytes:
    # BackendKeyData: 'K', length, process id, key.  It comes once, among the first answers.
    place = data.find(_BACKEND_KEY)
    if place < 0:
        return data
    (pid,) = struct.unpack_from("!i", data, place + 5)
    return data[: place + 5] + struct.pack("!i", pid + 1_000_000) + data[place + 9 :]
