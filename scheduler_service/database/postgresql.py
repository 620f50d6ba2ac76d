"""Connections to PostgreSQL on which no answer is waited for without end.

A server that is stopped, a network that swallows packets, a lock that nobody gives back: each has a
limit on the side that would wait.  The client's limit is the last one and the only one that closes the
connection, because closing it ends the session and with it every advisory lock.

    client   connect_timeout, keepalives, tcp_user_timeout, and `BoundedConnection.wait`
    server   statement_timeout, lock_timeout, idle_in_transaction_session_timeout, keepalives,
             tcp_user_timeout, client_connection_check_interval
"""

from __future__ import annotations

import contextlib
import math
import os
import select
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen

from scheduler_service.database.errors import StoreRefused

LEAST_VERSION = 14

# Of the time that the client waits for an answer.  The server gives up first, so that a statement that
# takes too long, or waits for a lock, costs the statement and not the session.
_STATEMENT_SHARE = 0.9
_LOCK_SHARE = 0.8

_SET = """
select count(set_config(name, value, false))
  from unnest(%(names)s::text[], %(values)s::text[]) as setting (name, value)
 where pg_backend_pid() = %(pid)s"""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that closes itself when an answer takes longer than `answer_seconds`."""

    answer_seconds: float = 2.0
    direct: bool = False  # the session is ours alone: no pooler hands it to somebody else between statements

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for an answer; OperationalError when it does not come in time, and the connection is closed."""
        limit = self.answer_seconds if timeout is None else timeout
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError as error:
            if timeout is not None or self.closed or not _expired(error):
                raise
            self.close()
            raise psycopg.OperationalError(f"the database did not answer within {limit:g} s") from None

    @contextlib.contextmanager
    def answering_within(self, seconds: float | None) -> Iterator[None]:
        """Bound answers by `seconds` instead; None leaves the bound as it is."""
        usual = self.answer_seconds
        self.answer_seconds = usual if seconds is None else seconds
        try:
            yield
        finally:
            self.answer_seconds = usual


def _expired(error: psycopg.OperationalError) -> bool:
    return type(error).__name__ == "_WaitTimeout"  # psycopg has no public name for it


def connect(parameters: dict[str, Any], *, name: str, answer_seconds: float) -> BoundedConnection:
    """Open a connection in autocommit whose session has every limit set.

    `parameters` are libpq's; those of the URL win over ours.  Raises psycopg.Error, and StoreRefused for
    a server older than 14.  Connecting is bounded for each address that the host name stands for; the
    resolver has limits of its own.
    """
    bounds = {
        "application_name": name,
        "client_encoding": "utf8",
        "connect_timeout": max(2, math.ceil(answer_seconds)),  # less than 2 is not obeyed
        "keepalives": 1,
        "keepalives_idle": 2,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": round(answer_seconds * 1000),
    }
    connection = BoundedConnection.connect(**{**bounds, **parameters}, autocommit=True)
    try:
        connection.answer_seconds = answer_seconds
        _require(connection.info.server_version // 10000)
        _limit_session(connection, session_settings(answer_seconds))
    except BaseException:
        connection.close()
        raise
    return connection


def _require(major: int) -> None:
    if major < LEAST_VERSION:
        raise StoreRefused(f"PostgreSQL {major} is too old: scheduler_service needs {LEAST_VERSION} or later")


def session_settings(answer_seconds: float) -> dict[str, str]:
    """Return the settings of a session whose client waits `answer_seconds` for each answer."""
    return {
        "TimeZone": "UTC",
        "DateStyle": "ISO",
        # The fence rests on a locked row being read again (READ COMMITTED), whatever the role's default is.
        "default_transaction_isolation": "read committed",
        **statement_limits(answer_seconds),
        "idle_in_transaction_session_timeout": _milliseconds(answer_seconds),
        "idle_session_timeout": "0",
        # Keepalives alone never fire while data is in flight.
        "tcp_keepalives_idle": "2",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": _milliseconds(answer_seconds),
        "client_connection_check_interval": "1s",
    }


def statement_limits(answer_seconds: float) -> dict[str, str]:
    """Return the limits of one statement; they end it before the client closes the connection."""
    return {
        "statement_timeout": _milliseconds(answer_seconds * _STATEMENT_SHARE),
        "lock_timeout": _milliseconds(answer_seconds * _LOCK_SHARE),
    }


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _limit_session(connection: BoundedConnection, settings: dict[str, str]) -> None:
    # Nothing is set in a session that a pooler lends us for a statement: it would follow the next client.
    pid = connection.info.backend_pid
    parameters = {"names": list(settings), "values": list(settings.values()), "pid": pid}
    try:
        row = connection.execute(_SET, parameters).fetchone()
    except psycopg.errors.InvalidParameterValue:
        # Not every platform can look whether its client is still there; do without that one.
        kept = {name: value for name, value in settings.items() if name != "client_connection_check_interval"}
        if len(kept) == len(settings):
            raise
        _limit_session(connection, kept)
        return
    connection.direct = row is not None and row[0] == len(settings)
    if not connection.direct:
        connection.prepare_threshold = None  # a prepared statement stays behind in somebody else's session


def is_readable(connection: BoundedConnection) -> bool:
    """Whether the server has said something, or the connection has ended.  Asks nobody."""
    if connection.closed:
        return True
    watcher = select.poll()
    watcher.register(connection.fileno(), select.POLLIN)  # POLLHUP and POLLERR come unasked
    return bool(watcher.poll(0))


def forget(connection: BoundedConnection) -> None:
    """Let a forked child let go of its parent's connection without a word to the server."""
    if not connection.closed:
        blind(connection.fileno())


def blind(descriptor: int) -> None:
    """Put nothing in the place of `descriptor`: whoever still uses it reaches no one."""
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nothing, descriptor, inheritable=False)
    finally:
        os.close(nothing)
