"""Serve an application on a thread of its own.

The port is taken before anything else begins, so that one which is in use is said at once.  The libraries
are loaded on the thread: they take longer than everything else of a start together, and nobody waits for them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from scheduler_service.events import Events

if TYPE_CHECKING:
    import uvicorn

USUAL_PORT = 8080
TRIED_PORTS = 100  # from the usual one on, where nobody named one
BACKLOG = 128
IDLE_SECONDS = 15  # a connection may wait for its next request
LONGEST_HEAD = 16 * 1024  # bytes of a head that is not whole yet; one read, of 256 KiB, may make it so


class PortUnavailableError(Exception):
    """The address cannot be listened on; the message is for a person."""


class Server:
    """An HTTP server that makes its application when it starts.

    `port` 0 is any free one; None the usual one, or the next that is free.  `stopping` is set when it is to
    end, so that answers without an end can end too.  Raises PortUnavailableError.
    """

    def __init__(
        self,
        make_app: Callable[[], Any],
        *,
        host: str,
        port: int | None,
        events: Events,
        close: Callable[[], None],
        stopping: threading.Event | None = None,
    ) -> None:
        self._make_app = make_app
        self._events = events
        self._close = close
        self._socket = _listen(host, port)
        self._server: uvicorn.Server | None = None
        self._stopping = stopping or threading.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        _servers.add(self)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Stop serving; answers that are being written may take `seconds`."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(seconds)
        self._socket.close()
        self._close()

    def forget(self) -> None:
        """Leave the port to the parent in a forked child, which would keep it from the parent's successor."""
        self._socket.close()

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # people cannot look any more, but the jobs run
            self._events.emit("http_failed", error=f"{type(error).__name__}: {error}")

    def _serve(self) -> None:
        import uvicorn  # noqa: PLC0415  # see above

        from scheduler_service.web.connections import BoundedProtocol  # noqa: PLC0415  # loads uvicorn
        from scheduler_service.web.repeating import Repeats  # noqa: PLC0415  # loads starlette

        # What a client does wrong is told to the client: a log is not for strangers to fill.
        logging.getLogger("uvicorn").setLevel(logging.ERROR)

        config = uvicorn.Config(
            self._make_app(),
            http=partial(BoundedProtocol, Repeats()),  # type: ignore[arg-type]  # it is called, and nothing else
            loop="asyncio",
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=LONGEST_HEAD,
            proxy_headers=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        if not self._stopping.is_set():
            self._server.run(sockets=[self._socket])


def _listen(host: str, port: int | None) -> socket.socket:
    wanted = [port] if port is not None else [*range(USUAL_PORT, USUAL_PORT + TRIED_PORTS), 0]
    for candidate in wanted:
        try:
            return _bound(host, candidate)
        except UnicodeError:  # of the resolver, for what can be no name
            raise PortUnavailableError(f"{host!r} (http.host) can be no host: write a name or an address") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE and candidate != wanted[-1]:
                continue
            raise PortUnavailableError(_problem(host, candidate, error)) from None
    raise AssertionError("the last candidate returns or raises")


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except BaseException:
        with contextlib.suppress(OSError):
            bound.close()
        raise
    return bound


def _problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: choose another with --port (0 = any free) or http.port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} (http.host) is no address of this machine: write one that is, or 0.0.0.0 for all"
    if error.errno == errno.EACCES:
        return f"port {port} is for root alone: choose one from 1024 on with --port or http.port"
    return f"cannot listen on {host} port {port} (http.host, --port): {error.strerror or error}"


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_servers):
        server.forget()


os.register_at_fork(after_in_child=_after_fork)
