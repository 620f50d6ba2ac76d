"""A network that can be hurt: a relay between a client and a server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable

from sqlalchemy import make_url

_BACKEND_KEY = b"K\x00\x00\x00"


class Relay:
    """Listens on a port of its own and passes everything on to the server of `url`.

    `stall` keeps every byte back while the connections stand, as a network that swallows packets does;
    `cut` ends them.  `pooled` gives clients a process id that is not the server's, as a pooler does.
    """

    def __init__(self, url: str, *, pooled: bool = False) -> None:
        self._url = make_url(url)
        self._pooled = pooled
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._flowing = threading.Event()
        self._flowing.set()
        self._stopped = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        """The URL of the same database, by way of the relay."""
        port = self._listener.getsockname()[1]
        return self._url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def stall(self) -> None:
        """Pass nothing on, in either direction."""
        self._flowing.clear()

    def heal(self) -> None:
        """Pass on what was kept back, and what comes."""
        self._flowing.set()

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

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
        for one in self._sockets:
            one.close()

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
                server = socket.create_connection((self._url.host or "127.0.0.1", self._url.port or 5432))
            except OSError:
                return
            self._sockets += [client, server]
            self._start(self._pump, client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            with contextlib.suppress(OSError):
                while True:
                    for key, _ in selector.select():
                        source: socket.socket = key.fileobj
                        data = source.recv(65536)
                        self._flowing.wait()
                        if not data:
                            raise ConnectionResetError
                        key.data.sendall(_disguised(data) if self._pooled and source is server else data)
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _disguised(data: bytes) -> bytes:
    # BackendKeyData: 'K', length, process id, key.  It comes once, among the first answers.
    place = data.find(_BACKEND_KEY)
    if place < 0:
        return data
    (pid,) = struct.unpack_from("!i", data, place + 5)
    return data[: place + 5] + struct.pack("!i", pid + 1_000_000) + data[place + 9 :]
