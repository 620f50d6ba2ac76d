"""Statements that are executed and not yet committed, and others that come across them.

    Parked    a database whose statements stay in one open transaction until it is told how that ends
    Traffic   executes statements; one that waits for a parked one waits until that has been ended

Whoever waits for whom is asked of PostgreSQL, so that no time decides anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from enum import StrEnum
from typing import TypeVar

import psycopg
from sqlalchemy import Connection, text

from scheduler_service.database import Database, OwnConnection, StoreUnavailable
from scheduler_service.database.errors import DRIVER_ERRORS, driver_error, translate
from tests.waiting import wait_until

PATIENCE_SECONDS = 60.0  # of every statement: here nothing runs out of time
LOOK_SECONDS = 0.01

Answer = TypeVar("Answer")


class End(StrEnum):
    """How a transaction ends."""

    COMMIT = "commit"
    ROLL_BACK = "roll back"
    KILL = "kill"


class Parked(Database):
    """A database on one connection, whose transaction begins with the first statement."""

    def __init__(self, url: str) -> None:
        super().__init__(url, attempt_seconds=PATIENCE_SECONDS, statement_seconds=PATIENCE_SECONDS, name="parked")
        self._closing = contextlib.ExitStack()
        self._pooled: Connection | None = None
        self._owned_one: OwnConnection | None = None
        self.pid: int | None = None

    @contextlib.contextmanager
    def connect(self, *, seconds: float | None = None) -> Iterator[Connection]:
        if self._pooled is None:
            self._pooled = self._closing.enter_context(super().connect())
            self._pooled.exec_driver_sql("begin")
            self.pid = self._pooled.connection.driver_connection.info.backend_pid
        try:
            yield self._pooled
        except DRIVER_ERRORS as error:
            raise translate(error) from driver_error(error)

    def own_connection(self, *, name: str | None = None, seconds: float | None = None) -> OwnConnection:
        self._owned_one = super().own_connection(name=name, seconds=PATIENCE_SECONDS)
        self._owned_one.execute(text("begin"))
        self.pid = self._owned_one.backend_pid
        return self._owned_one

    def end(self, how: End) -> None:
        """Commit, or roll back and close."""
        words = "commit" if how is End.COMMIT else "rollback"
        if self._pooled is not None:
            self._pooled.exec_driver_sql(words)
        if self._owned_one is not None:
            self._owned_one.execute(text(words))
        self.close()

    def close(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # killed
            self._closing.close()
        if self._owned_one is not None:
            self._owned_one.close()
        self.dispose()


class Traffic:
    """Executes one statement after another, while others are parked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.director = psycopg.connect(url, autocommit=True)
        self.administrator = psycopg.connect(url, autocommit=True)  # whose statements may have to wait, too
        self._thread = ThreadPoolExecutor(1)
        self._parked: dict[int, Callable[[], None]] = {}

    def park(self, parked: Parked, end: Callable[[], None]) -> None:
        """Keep a statement that was executed; `end` is called when another waits for it."""
        assert parked.pid is not None
        self._parked[parked.pid] = end

    def ended(self, parked: Parked) -> None:
        self._parked.pop(parked.pid or 0, None)

    def kill(self, pid: int) -> None:
        """End a session from outside, and wait until the server has let go of all it held."""
        self.director.execute("select pg_terminate_backend(%s)", [pid])
        alive = "select count(*) from pg_stat_activity where pid = %s"
        wait_until(lambda: self.director.execute(alive, [pid]).fetchone() == (0,))

    def send(self, statement: Callable[[], Answer]) -> tuple[Answer, bool]:
        """Execute a statement; return its answer, and whether it had to wait for a parked one."""
        sent, waited = self._thread.submit(statement), False
        while True:
            wait([sent], LOOK_SECONDS)
            if sent.done():
                return sent.result(), waited
            for pid in self._waited_for():
                waited = True
                self._parked.pop(pid)()

    def close(self) -> None:
        self._thread.shutdown()
        self.director.close()
        self.administrator.close()

    def _waited_for(self) -> set[int]:
        waiting = self.director.execute(
            "select unnest(pg_blocking_pids(pid)) from pg_stat_activity where wait_event_type = 'Lock'"
        )
        return {pid for (pid,) in waiting} & self._parked.keys()
