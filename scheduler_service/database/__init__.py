"""Connections to the database, PostgreSQL or SQLite, with a limit on every wait.

    Database.connect()         a pooled connection, each statement commits itself
    Database.transaction()     a pooled connection in one transaction
    Database.own_connection()  one outside every pool, for the elector and its guard

Whatever the driver says comes out as StoreUnavailable or one of its kinds.  What is not
promised: a limit on the resolver of host names, and on a disk that does not answer SQLite.

A forked child shares no socket with its parent: it begins with no connections, and may open its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, QueuePool, StaticPool, create_engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry

from scheduler_service.clock import Clock
from scheduler_service.database import postgresql, sqlite, urls
from scheduler_service.database.errors import (
    DRIVER_ERRORS,
    StoreConflict,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    driver_error,
    translate,
)
from scheduler_service.database.own import DriverConnection, OwnConnection
from scheduler_service.passwords import SECRET_OPTIONS

__all__ = [
    "Connecting",
    "Database",
    "OwnConnection",
    "StoreConflict",
    "StoreFull",
    "StoreRefused",
    "StoreUnavailable",
    "quoted",
]

KEPT_CONNECTIONS = 4  # that stay open when nobody needs them
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Connecting:
    """When a thread began to connect, or when it had done with it: boot clock."""

    at: float
    going_on: bool


class Database:
    """One database, as a URL names it.

    `url` is `postgresql://…` (or `postgres://…`), or `sqlite:///file`; `schema` is the namespace of our tables
    on PostgreSQL.  StoreRefused where one of them cannot be.  `attempt_seconds` bounds an answer on an own
    connection, `statement_seconds` on the pooled ones, of which there are at most `most_connections` at a time.
    `name` is shown by the server as application_name.
    No connection is made before one is asked for.

    With `simulated_time`, a simulation's, `url` is `sqlite://`: a database in memory, on one connection for one
    thread, in which it is always what `simulated_time` says.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "scheduler",
        attempt_seconds: float = 2.0,
        statement_seconds: float = 10.0,
        name: str = "scheduler-service",
        most_connections: int = 8,
        simulated_time: Callable[[], datetime] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
            raise StoreRefused(
                f"{schema!r} cannot be the schema: use at most 63 letters, digits, _ and -, "
                "beginning with a letter or _, and not with pg_"
            )
        self._url = urls.parse(url, in_memory=simulated_time is not None)
        self.dialect: str = self._url.get_backend_name()
        self.schema = schema
        self.attempt_seconds = attempt_seconds
        self.statement_seconds = statement_seconds
        self._name = name
        self._most_connections = most_connections
        self._simulated_time = simulated_time
        self._clock = clock
        self._secrets = urls.secrets(self._url)
        self._abandoned: list[Any] = []  # of the parent, in a forked child
        self._begin()
        _databases.add(self)

    def _begin(self) -> None:
        self._drivers: weakref.WeakSet[DriverConnection] = weakref.WeakSet()
        self._owned: weakref.WeakSet[OwnConnection] = weakref.WeakSet()
        self._engines: dict[tuple[str, float, bool], Engine] = {}
        self._opening = threading.Lock()
        self._connecting: dict[str, Connecting] = {}

    def __repr__(self) -> str:
        return f"Database({self.safe_url!r})"

    @property
    def safe_url(self) -> str:
        """The URL for people to read, its passwords hidden."""
        hidden = {name: "***" for name in SECRET_OPTIONS if name in self._url.query}
        url = self._url.set(drivername=self.dialect).update_query_dict(hidden)
        if self.file is not None:
            # Only what a URL cannot hold is escaped: people look for the path as they know it.
            path = str(self.file).replace("%", "%25").replace("?", "%3F")
            shown = path.encode("utf-8", "backslashreplace").decode()  # a name need not be UTF-8
            return url.set(database="").render_as_string().replace("///", f"///{shown}", 1)
        return url.render_as_string(hide_password=True).replace("%2A", "*")

    @property
    def file(self) -> Path | None:
        """The file of SQLite; None on PostgreSQL, and of a database in memory."""
        return Path(self._url.database) if self.dialect == "sqlite" and self._url.database else None

    @property
    def schema_or_none(self) -> str | None:
        """The schema of our tables; None on SQLite, which has none."""
        return self.schema if self.dialect == "postgresql" else None

    @property
    def prefix(self) -> str:
        """What to write before the name of a table or sequence in SQL text: `"scheduler".`, or nothing on SQLite."""
        return quoted(self.schema) + "." if self.dialect == "postgresql" else ""

    @contextlib.contextmanager
    def connect(self, *, seconds: float | None = None) -> Iterator[Connection]:
        """Lend a connection of the pool on which each statement commits itself.

        Each answer may take `seconds`, or `statement_seconds`.  Whatever the driver says leaves the block as
        StoreUnavailable; inside the block it is still SQLAlchemy's error, so look for it around the block.
        """
        try:
            engine = self._engine(self._name, self.statement_seconds, own=False)
            with engine.connect() as connection, _driver(connection).answering_within(seconds):
                yield connection
        except DRIVER_ERRORS as error:
            raise translate(error, self._secrets) from driver_error(error)

    @contextlib.contextmanager
    def transaction(self, *, seconds: float | None = None) -> Iterator[Connection]:
        """Lend a connection of the pool in one transaction, which commits at the end of the block.

        On SQLite it is the one that may write (BEGIN IMMEDIATE).  `seconds` bounds each answer and each
        statement on the server in place of `statement_seconds`.
        """
        with self.connect(seconds=seconds) as connection:
            connection.exec_driver_sql("begin immediate" if self.dialect == "sqlite" else "begin")
            try:
                if seconds is not None and self.dialect == "postgresql":
                    for setting, value in postgresql.statement_limits(seconds).items():
                        connection.exec_driver_sql(f"set local {setting} = '{value}'")
                yield connection
                connection.exec_driver_sql("commit")
            except BaseException:
                self._roll_back(connection)
                raise

    def own_connection(self, *, name: str | None = None, seconds: float | None = None) -> OwnConnection:
        """Open a connection outside every pool.

        `name` is added to the application_name; each answer may take `seconds`, or `attempt_seconds`.
        """
        label = f"{self._name} {name}" if name else self._name
        limit = self.attempt_seconds if seconds is None else seconds
        try:
            connection = OwnConnection(self._engine(label, limit, own=True).connect(), self._secrets)
        except DRIVER_ERRORS as error:
            raise translate(error, self._secrets) from driver_error(error)
        self._owned.add(connection)
        return connection

    def connecting(self, thread: str) -> Connecting | None:
        """Return when the thread of this name connected last, and whether it still does; None if it never did.

        For a database that was given a clock.
        """
        return self._connecting.get(thread)

    def dispose(self) -> None:
        """Close the idle connections of the pool.  Own connections belong to those who opened them."""
        with self._opening:
            for engine in self._engines.values():
                engine.dispose()

    def forget(self) -> None:
        """Begin anew in a forked child: without a word to the server, and without the parent's sockets."""
        for driver in list(self._drivers):
            # Nothing of the parent's may be closed here: SQLite would take its locks for ours.
            self._abandoned.append(driver)
            if isinstance(driver, postgresql.BoundedConnection):
                postgresql.forget(driver)
        for connection in list(self._owned):
            connection.forget()
            self._abandoned.append(connection)
        self._abandoned.append(self._engines)
        self._begin()

    def _engine(self, name: str, answer_seconds: float, *, own: bool) -> Engine:
        if self._simulated_time is not None:
            # What is in memory can be reached on one connection only.
            name, answer_seconds, own = self._name, self.statement_seconds, False
        with self._opening:
            engine = self._engines.get((name, answer_seconds, own))
            if engine is None:
                engine = self._engines[name, answer_seconds, own] = self._make_engine(name, answer_seconds, own=own)
            return engine

    def _make_engine(self, name: str, answer_seconds: float, *, own: bool) -> Engine:
        options: dict[str, Any] = {"poolclass": NullPool}
        if not own:
            kept = min(KEPT_CONNECTIONS, self._most_connections)
            options = {"poolclass": QueuePool, "pool_timeout": answer_seconds}
            options |= {"pool_size": kept, "max_overflow": self._most_connections - kept}
        if self._simulated_time is not None:
            options = {"poolclass": StaticPool, "pool_reset_on_return": None}
        if self.dialect == "postgresql":
            options["use_native_hstore"] = False  # asking for its type costs a round trip
            options["execution_options"] = {"schema_translate_map": {None: self.schema}}
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT", **options)

        @event.listens_for(engine, "do_connect")
        def open_one(_: Any, __: Any, arguments: tuple[Any, ...], parameters: dict[str, Any]) -> DriverConnection:
            driver: DriverConnection
            with self._telling():
                if self.dialect == "postgresql":
                    driver = postgresql.connect(parameters, name=name, answer_seconds=answer_seconds)
                elif self._simulated_time is not None:
                    driver = sqlite.connect_in_memory(self._simulated_time)
                else:
                    driver = sqlite.connect(arguments, parameters, answer_seconds=answer_seconds)
            self._drivers.add(driver)
            return driver

        @event.listens_for(engine, "checkout")
        def look(driver: DriverConnection, record: ConnectionPoolEntry, _: Any) -> None:
            # The server has nothing to say to an idle session but good-bye.
            idle = record.info.setdefault("idle", False)
            if idle and isinstance(driver, postgresql.BoundedConnection) and postgresql.is_readable(driver):
                raise exc.DisconnectionError("the server ended the session")
            record.info["idle"] = True

        return engine

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell that this thread connects: nobody bounds how long a resolver takes, and a host's many addresses."""
        if self._clock is None:  # nobody asks, and the threads of jobs have a new name for each run
            yield
            return
        thread = threading.current_thread().name
        self._connecting[thread] = Connecting(self._clock.monotonic(), going_on=True)
        try:
            yield
        finally:
            self._connecting[thread] = Connecting(self._clock.monotonic(), going_on=False)

    def _roll_back(self, connection: Connection) -> None:
        try:
            if not connection.invalidated:
                connection.exec_driver_sql("rollback")
        except (exc.SQLAlchemyError, *DRIVER_ERRORS):
            connection.invalidate()


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _driver(connection: Connection) -> DriverConnection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, DriverConnection)  # noqa: S101  # our own engine makes no others
    return driver


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork() -> None:
    for database in list(_databases):
        database.forget()


os.register_at_fork(after_in_child=_after_fork)
