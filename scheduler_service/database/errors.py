"""What can go wrong with the database, in four words that callers can act on.

    StoreUnavailable   nothing is wrong with the question: ask again later
    StoreRefused       rights, schema or settings are wrong: a person must change something
    StoreFull          there is no room for it now: smaller rows may still find some
    StoreConflict      the row is refused, by a constraint or for a value: other rows may still be written

The message is one line for a person and never holds a password; `__cause__` is the driver's error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import psycopg
from sqlalchemy import exc


class StoreUnavailable(Exception):  # noqa: N818  # a state of the store that callers live with, not an error
    """The database did not answer, or could not do what was asked just now."""


class StoreRefused(StoreUnavailable):
    """The database refuses for good: asking again will not help by itself."""


class StoreFull(StoreUnavailable):
    """The database, or its host, has no room for what was asked."""


class StoreConflict(StoreUnavailable):
    """The row is refused: by a constraint (unique, foreign key, check, not null), or for a value out of range."""


# Classes and codes of SQLSTATE.  25006 (read-only) is not among the refusals: a standby may be promoted.
_REFUSED_CLASSES = {"0A", "28", "3D", "3F", "42"}
_DISK_FULL = "53100"
_CONFLICT_CLASSES = {"22", "23"}  # 22: a value that cannot be; asked again, it never can

# libpq passes on no SQLSTATE for a connection that was refused, only the server's words.
_REFUSED_CONNECTIONS = (
    "password authentication failed",
    "authentication failed for user",
    "no pg_hba.conf entry",
    "no password supplied",
    "permission denied for database",
    "is not permitted to log in",
    "unsupported startup parameter",
    "invalid connection option",
    "invalid sslmode value",
    "certificate verify failed",
    "server does not support SSL",
)
_DOES_NOT_EXIST = ('role "', 'database "')

_REFUSED_SQLITE = {
    "SQLITE_READONLY",
    "SQLITE_CANTOPEN",
    "SQLITE_NOTADB",
    "SQLITE_CORRUPT",
    "SQLITE_PERM",
    "SQLITE_AUTH",
}


DRIVER_ERRORS = (exc.DBAPIError, exc.TimeoutError, psycopg.Error, sqlite3.Error)


def translate(error: Exception, secrets: Iterable[str] = ()) -> StoreUnavailable:
    """Return `error`, SQLAlchemy's or a driver's, as one of ours; `secrets` are blotted out of its message.

    Raise it `from driver_error(error)`.
    """
    cause = driver_error(error)
    if isinstance(cause, StoreUnavailable):
        return cause
    message = _primary(cause, secrets)
    return _kind(cause, message)(message)


def driver_error(error: Exception) -> BaseException:
    """Return what the driver raised where SQLAlchemy wraps it."""
    return error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error


def _primary(cause: BaseException, secrets: Iterable[str]) -> str:
    if isinstance(cause, exc.TimeoutError):
        return "no connection of the pool became free in time"
    said = str(cause)
    if isinstance(cause, psycopg.Error) and cause.diag.message_primary:
        said = cause.diag.message_primary
    for secret in secrets:  # before a line is taken, which may hold half of one
        said = said.replace(secret, "***")
    lines = said.strip().splitlines()
    return lines[0].strip() if lines else type(cause).__name__


def _kind(cause: BaseException, message: str) -> type[StoreUnavailable]:
    if isinstance(cause, psycopg.Error):
        return _kind_postgresql(cause, message)
    if isinstance(cause, sqlite3.IntegrityError):
        return StoreConflict
    if isinstance(cause, sqlite3.Error):
        name = getattr(cause, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            return StoreFull
        code = "_".join(name.split("_")[:2])  # SQLITE_READONLY_DBMOVED → SQLITE_READONLY
        # SQLITE_ERROR stands for whatever is wrong with a statement: a table or a column that is not there
        return StoreRefused if code in _REFUSED_SQLITE or name == "SQLITE_ERROR" else StoreUnavailable
    return StoreUnavailable


def _kind_postgresql(cause: psycopg.Error, message: str) -> type[StoreUnavailable]:
    state = cause.sqlstate
    if state is None:
        missing = message.endswith("does not exist") and any(what in message for what in _DOES_NOT_EXIST)
        refused = missing or any(words in message for words in _REFUSED_CONNECTIONS)
        return StoreRefused if refused or isinstance(cause, psycopg.ProgrammingError) else StoreUnavailable
    if state[:2] in _CONFLICT_CLASSES:
        return StoreConflict
    if state == _DISK_FULL:
        return StoreFull
    return StoreRefused if state[:2] in _REFUSED_CLASSES else StoreUnavailable
