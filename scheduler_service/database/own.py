"""One connection outside every pool, for a thread that must neither wait for others nor be waited for."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from sqlalchemy import Connection, CursorResult, Executable, exc

from scheduler_service.database import postgresql, sqlite
from scheduler_service.database.errors import DRIVER_ERRORS, StoreUnavailable, driver_error, translate

_CLOSING_SECONDS = 1.0
_READS = 100  # at a time; what is left keeps the socket readable

DriverConnection = postgresql.BoundedConnection | sqlite.BoundedConnection


class OwnConnection:
    """A connection in autocommit that one thread uses and any thread may close.

    After an error of the connection itself it is broken for good: close it and open another.
    """

    def __init__(self, connection: Connection, secrets: Iterable[str] = ()) -> None:
        self._connection = connection
        self._secrets = tuple(secrets)
        driver = connection.connection.driver_connection
        if not isinstance(driver, DriverConnection):
            raise TypeError(f"not a connection of ours: {type(driver).__name__}")
        self._driver: DriverConnection = driver
        self._busy = threading.Lock()
        self._closed = False
        # Another thread may shut our socket while we use it.  It does so through a descriptor of its own:
        # the driver's may be closed at any moment and its number given to somebody else.
        self._shutter = _shutter(driver)
        self._payloads: list[str] = []
        if isinstance(driver, postgresql.BoundedConnection):
            driver.add_notify_handler(lambda notification: self._payloads.append(notification.payload))

    @property
    def broken(self) -> bool:
        """Whether it was closed or lost: it will answer nothing any more."""
        if self._closed or self._connection.closed or self._connection.invalidated:
            return True
        return isinstance(self._driver, postgresql.BoundedConnection) and self._driver.closed

    @property
    def direct(self) -> bool:
        """Whether the session is ours alone: not SQLite's, and not lent by a pooler for each statement."""
        return self._driver.direct

    @property
    def backend_pid(self) -> int | None:
        """The server process of the handshake; None on SQLite."""
        if isinstance(self._driver, postgresql.BoundedConnection) and not self.broken:
            return self._driver.info.backend_pid
        return None

    def fileno(self) -> int | None:
        """Return the socket to wait on: readable when the server has something to say; None on SQLite."""
        if isinstance(self._driver, postgresql.BoundedConnection) and not self.broken:
            with contextlib.suppress(psycopg.Error):  # closed by another thread just now
                return self._driver.fileno()
        return None

    def execute(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> CursorResult[Any]:
        """Execute one statement, which commits itself; its rows are all here when this returns.

        The answer may take as long as the connection was opened for.  Raises StoreUnavailable; after that, look at
        `broken`.
        """
        with self._busy:
            if self.broken:
                raise StoreUnavailable("the connection is closed")
            try:
                return self._connection.execute(statement, parameters)
            except (exc.SQLAlchemyError, *DRIVER_ERRORS) as error:
                translated = self._translate(error)
                self._closed = self.broken
                raise translated from driver_error(error)
            finally:
                if self._closed:
                    self._discard()

    def notifications(self) -> tuple[str, ...]:
        """Return the payloads that came in since the last call, without waiting.

        Those that came along with an answer are among them and no longer make `fileno` readable: ask before
        waiting, not only after.
        Raises StoreUnavailable when the server has ended the session.
        """
        with self._busy:
            if self.broken:
                raise StoreUnavailable("the connection is closed")
            if isinstance(self._driver, postgresql.BoundedConnection):
                try:
                    self._read(self._driver)
                except psycopg.Error as error:
                    self._closed = True
                    self._discard()
                    raise translate(error, self._secrets) from error
            payloads = tuple(self._payloads)
            self._payloads.clear()
            return payloads

    def close(self) -> None:
        """Close it.  A statement that another thread has in hand fails at once."""
        self._closed = True
        if self._shutter is not None:
            with contextlib.suppress(OSError):
                self._shutter.shutdown(socket.SHUT_RDWR)
        elif isinstance(self._driver, sqlite.BoundedConnection):
            with contextlib.suppress(Exception):
                self._driver.interrupt()
        # The thread that uses it wakes at once and discards it; one that waits for SQLite's writer does so later.
        if self._busy.acquire(timeout=_CLOSING_SECONDS):
            try:
                self._discard()
            finally:
                self._busy.release()

    def forget(self) -> None:
        """Let go of it in a forked child: the parent goes on using it."""
        self._closed = True
        if self._shutter is not None and self._shutter.fileno() >= 0:
            postgresql.blind(self._shutter.fileno())
        self._busy = threading.Lock()

    def _read(self, driver: postgresql.BoundedConnection) -> None:
        # A server that says good-bye sends its reason first; the end comes behind it.
        for _ in range(_READS):
            if not postgresql.is_readable(driver):
                break
            driver.pgconn.consume_input()
        while (notification := driver.pgconn.notifies()) is not None:
            self._payloads.append(notification.extra.decode())

    def _translate(self, error: Exception) -> StoreUnavailable:
        if self._closed:
            return StoreUnavailable("the connection was closed while it waited for an answer")
        return translate(error, self._secrets)

    def _discard(self) -> None:
        with contextlib.suppress(exc.SQLAlchemyError, *DRIVER_ERRORS):
            self._connection.invalidate()
        with contextlib.suppress(exc.SQLAlchemyError, *DRIVER_ERRORS):
            self._connection.close()
        if self._shutter is not None:
            self._shutter.close()


def _shutter(driver: DriverConnection) -> socket.socket | None:
    if isinstance(driver, postgresql.BoundedConnection):
        return socket.socket(fileno=os.dup(driver.fileno()))
    return None
