"""What a database's URL may say.  Whatever cannot be is refused when it is read, before anything is connected."""

from __future__ import annotations

import math
from urllib.parse import parse_qsl

from psycopg import pq
from sqlalchemy import URL, exc, make_url

from scheduler_service.database.errors import StoreRefused
from scheduler_service.passwords import SECRET_OPTIONS, has_secret_option, password_problem

_SQLITE_OPTIONS = ("timeout",)
_LAST_PORT = 65_535
_SEVERAL = ("host", "port")  # one for each server


def parse(text: str, *, in_memory: bool = False) -> URL:
    """Return the URL for SQLAlchemy, with the driver that is used here; StoreRefused says what to write instead.

    `in_memory`: the database of a simulation, which has no file.
    """
    if in_memory:
        if text != "sqlite://":
            raise StoreRefused("a simulation has a database of its own in memory: its URL is sqlite://")
        return make_url("sqlite+pysqlite://")
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise _unreadable() from None
    backend, _, driver = url.drivername.partition("+")
    if backend in ("postgresql", "postgres"):
        if driver not in ("", "psycopg"):
            raise StoreRefused(
                f"the driver {driver!r} is not used here: write postgresql:// instead of {url.drivername}://"
            )
        if (problem := password_problem(text)) is not None:
            raise StoreRefused(f"the database's URL: {problem}")
        url = url.set(drivername="postgresql+psycopg")
        _check_postgresql(url, discreet=has_secret_option(text))
        return url
    if backend == "sqlite":
        if driver not in ("", "pysqlite"):
            raise StoreRefused(
                f"the driver {driver!r} is not used here: write sqlite:// instead of {url.drivername}://"
            )
        _check_sqlite(url, text)
        return url.set(drivername="sqlite+pysqlite")
    raise StoreRefused(
        f"{backend!r} is not a database we know: write postgresql://user:password@host/name or sqlite:///file"
    )


def secrets(url: URL) -> tuple[str, ...]:
    """Return what of the URL nobody may read."""
    known = {url.username, url.host, url.database}
    found = {str(url.password or "")} | {str(url.query.get(option, "")) for option in SECRET_OPTIONS}
    return tuple(secret for secret in found if secret and secret not in known)


def _unreadable() -> StoreRefused:
    return StoreRefused(
        "the database's URL cannot be read: write postgresql://user:password@host/name or sqlite:///file, "
        "and letters such as @ : / in the password as %40 %3A %2F"
    )


def _check_postgresql(url: URL, *, discreet: bool) -> None:
    # libpq's alone: the driver's own parameters change how it answers, and take no text.
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for name, value in url.query.items():
        if name not in known and discreet:
            raise StoreRefused(
                "the database's URL has a parameter that PostgreSQL does not know, perhaps the rest of a password: "
                "write & in a password as %26"
            )
        if name not in known:
            raise StoreRefused(
                f"{name!r} in the database's URL is not a connection parameter of PostgreSQL: "
                "leave it out, or write one of libpq's, such as sslmode=require"
            )
        if name not in _SEVERAL and not isinstance(value, str):
            raise StoreRefused(f"the database's URL has {name!r} more than once: write it once")
    try:
        _, parameters = url.get_dialect()().create_connect_args(url)
    except (exc.ArgumentError, ValueError):
        raise StoreRefused(
            "the hosts in the database's URL cannot be read: write host=one:5432&host=two:5432"
        ) from None
    ports = [] if url.port is None else [str(url.port)]
    for port in [*ports, *filter(None, str(parameters.get("port", "")).split(","))]:
        if not (port.isdecimal() and 1 <= int(port) <= _LAST_PORT):
            # Where nobody is named, what stands for the host may be a person, and this a password.
            shown = "what follows the host" if url.username is None else port
            raise StoreRefused(f"{shown} in the database's URL cannot be a port: write one from 1 to {_LAST_PORT}")


def _check_sqlite(url: URL, text: str) -> None:
    if url.username or url.password or url.host or url.port:
        raise StoreRefused("the URL of an SQLite file has three slashes and no host: sqlite:///scheduler.db")
    if not url.database or url.database == ":memory:" or url.query.get("mode") == "memory":
        raise StoreRefused("a database in memory has one connection only: name a file, as in sqlite:///scheduler.db")
    _, mark, options = text.partition("?")
    # Not the names of `url.query`: it leaves out those without a value, such as the rest of a path with a ? in it.
    for name in [name for name, _ in parse_qsl(options, keep_blank_values=True)] or ([mark] if mark else []):
        if name not in _SQLITE_OPTIONS:
            raise StoreRefused(
                f"{name!r} in the database's URL is not used with SQLite: leave it out, as in sqlite:///scheduler.db, "
                "or write %3F for a question mark of the path"
            )
        if not _is_seconds(url.query.get(name, "")):
            raise StoreRefused(f"{name!r} in the database's URL is not a number of seconds: write {name}=5")


def _is_seconds(value: str | tuple[str, ...]) -> bool:
    try:
        seconds = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return False
    return math.isfinite(seconds) and 0 <= seconds <= 1_000_000
