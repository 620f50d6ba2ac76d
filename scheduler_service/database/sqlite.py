"""Connections to one SQLite file, with the limits and the durability that the ledger needs.

Times are whole microseconds since the epoch; the database's own time has milliseconds.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scheduler_service.database.errors import StoreRefused

LEAST_VERSION = (3, 35)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = 2440587.5  # as a Julian day
_DAY_SECONDS = 86400.0

_LOCK_SHARE = 0.9  # of the time that an answer may take: how much of it is waiting for the writer


class BufferedCursor(sqlite3.Cursor):
    """A cursor that reads every row at once.

    A statement that is not read to its end stays open: it holds its snapshot, so that the next write on
    the connection fails, and what it wrote is not committed yet.
    """

    _rows: Iterator[Any] = iter(())

    def execute(self, sql: str, parameters: Any = (), /) -> BufferedCursor:
        """Execute one statement to its end."""
        super().execute(sql, parameters)
        self._rows = iter(super().fetchall())
        return self

    def fetchone(self) -> Any:
        """Return the next row or None."""
        return next(self._rows, None)

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        """Return at most `size` rows."""
        return [row for row, _ in zip(self._rows, range(size or 1), strict=False)]

    def fetchall(self) -> list[Any]:
        """Return the rest of the rows."""
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # sqlite3 calls the cursor its own iterator
        return self._rows


class BoundedConnection(sqlite3.Connection):
    """A connection whose statements wait at most `answer_seconds` for the one writer."""

    answer_seconds: float = 2.0
    direct: bool = False

    def cursor(self, factory: Any = BufferedCursor) -> Any:
        """Return a cursor that reads every row at once."""
        return super().cursor(factory)

    @contextlib.contextmanager
    def answering_within(self, seconds: float | None) -> Iterator[None]:
        """Bound the wait by `seconds` instead; None leaves the bound as it is."""
        if seconds is None:
            yield
            return
        self.execute(_busy_timeout(seconds))
        try:
            yield
        finally:
            self.execute(_busy_timeout(self.answer_seconds))


def _busy_timeout(seconds: float) -> str:
    return f"pragma busy_timeout = {round(seconds * _LOCK_SHARE * 1000)}"


# The driver must begin no transaction of its own: every statement commits itself.
_OWN: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "factory": BoundedConnection}


def connect_in_memory(now: Callable[[], datetime]) -> BoundedConnection:
    """Open a database in memory in which it is always what `now` says, to the millisecond."""
    _require_version()
    connection: BoundedConnection = sqlite3.connect(":memory:", **_OWN)
    connection.execute("pragma foreign_keys = on")

    def julian_day(_: str) -> float:
        return _EPOCH_DAY + (now() - _EPOCH).total_seconds() / _DAY_SECONDS

    # Every statement that asks for the time asks for julianday('now'): it finds this one in place of SQLite's own.
    connection.create_function("julianday", 1, julian_day)
    return connection


def connect(arguments: tuple[Any, ...], parameters: dict[str, Any], *, answer_seconds: float) -> BoundedConnection:
    """Open the file, which is made if need be, in WAL mode; StoreRefused where that cannot be."""
    _require_version()
    path = Path(arguments[0])
    if not path.parent.is_dir():
        raise StoreRefused(f"the folder {path.parent} of the database does not exist: create it, or name another file")
    if path.is_dir():
        raise StoreRefused(f"{path} is a folder: name a file in it as the database")
    connection: BoundedConnection = sqlite3.connect(*arguments, **{**parameters, **_OWN})
    try:
        connection.answer_seconds = answer_seconds
        connection.execute(_busy_timeout(answer_seconds))
        connection.execute("pragma foreign_keys = on")
        # A start that is forgotten after a power cut would be made again; NORMAL may forget in WAL mode.
        connection.execute("pragma synchronous = full")
        _use_wal(connection, path, time.monotonic() + answer_seconds)
    except BaseException:
        connection.close()
        raise
    return connection


def _require_version() -> None:
    if sqlite3.sqlite_version_info < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise StoreRefused(f"SQLite {sqlite3.sqlite_version} is too old: scheduler_service needs {least} or later")


def _use_wal(connection: BoundedConnection, path: Path, deadline: float) -> None:
    # The change of mode needs the file alone and does not wait for it as statements do.
    while True:
        try:
            (mode,) = connection.execute("pragma journal_mode = wal").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith("SQLITE_BUSY") and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            raise
        if mode != "wal":
            raise StoreRefused(f"{path} cannot be used in WAL mode: put the database on a local disk")
        return
