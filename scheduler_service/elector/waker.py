"""A wait that ends early when another thread, or the server, has something to say."""

from __future__ import annotations

import contextlib
import math
import select
import socket


class Waker:
    """For one thread that waits; any thread may wake it."""

    def __init__(self) -> None:
        self._hears, self._says = socket.socketpair()
        self._hears.setblocking(False)
        self._says.setblocking(False)

    def wait(self, seconds: float, server: int | None) -> None:
        """Wait so long at most, or until `wake` was called or the descriptor `server` becomes readable."""
        poller = select.poll()
        poller.register(self._hears, select.POLLIN)
        if server is not None:
            poller.register(server, select.POLLIN)
        poller.poll(math.ceil(seconds * 1000))
        with contextlib.suppress(OSError):
            self._hears.recv(4096)

    def wake(self) -> None:
        """End the wait, or the next one."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it has stopped
            self._says.send(b"!")

    def close(self) -> None:
        """Give the descriptors back."""
        self._hears.close()
        self._says.close()
