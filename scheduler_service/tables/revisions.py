"""Bring the tables to the revision that this version needs, once, whoever comes first.

Any number of replicas may start on an empty database at once.  Each takes a lock, looks again under it,
and does what is left to do in the same transaction.  Whoever makes the tables without asking for the lock
(a person who runs `db sql`) may be in the middle of it: that shows as a conflict, and we look again.
Replicas of the version before go on meanwhile: tables that they use are waited for in short turns.

Alembic is imported only when there is something to do: it costs a quarter of a second.
"""

from __future__ import annotations

import hashlib
import time

from sqlalchemy import Connection, column, select, table, text

from scheduler_service import __version__
from scheduler_service.database import Database, StoreConflict, StoreRefused, StoreUnavailable, quoted
from scheduler_service.tables.definitions import metadata

HEAD = "0004"  # the newest of migrations/versions
VERSION_TABLE = "alembic_version"

UPGRADE = "run `scheduler-service db upgrade`, or set database.create_tables: true"  # for a replica that may not

_ATTEMPTS = 3
_CHANGE_SECONDS = 30.0  # for each statement of a change, however short the wait for it may be
_TURN_SECONDS = 0.4  # for so long a change waits for a table that is in use, well below an attempt of the election,
_BETWEEN_TURNS_SECONDS = 0.5  # and so long it leaves to others
_HELD_BY_OTHERS = {"55P03", "40P01"}  # no lock in time, deadlock


def current_revision(database: Database) -> str | None:
    """Return the revision of the tables, or None where there are none of ours."""
    with database.connect() as connection:
        return _read(database, connection)


def require_current(database: Database, advice: str = UPGRADE) -> None:
    """Raise StoreRefused, with `advice` what to do, unless the tables are those that this version needs."""
    current = current_revision(database)
    if current == HEAD:
        return
    if current is not None:
        _require_known(database, current)
    found = "has none of our tables" if current is None else f"is at revision {current}, before {HEAD}"
    raise StoreRefused(f"{_place(database)} {found}: {advice}")


def upgrade(database: Database, *, wait_seconds: float = 30.0) -> tuple[str | None, str]:
    """Make or migrate the tables, and return the revisions before and after; equal if nothing was to do.

    Waits at most `wait_seconds`, or a second, for another session that is at it.  Raises StoreRefused for a schema of a
    later version, and where a right is missing or other tables are in the way.
    """
    deadline = time.monotonic() + wait_seconds
    for attempt in range(1, _ATTEMPTS + 1):
        current = current_revision(database)
        if current == HEAD:
            return current, HEAD
        if current is not None:
            _require_known(database, current)
        try:
            return _upgrade_in_turns(database, deadline), HEAD
        except (StoreConflict, StoreRefused) as error:
            # Somebody made them without the lock, while we waited for the name or before we asked.
            if not _exists_already(error):
                raise _refused(database, error) from error.__cause__
            if attempt == _ATTEMPTS:
                raise StoreRefused(
                    f"{_place(database)} holds tables that are in the way ({error}): name another database.schema, "
                    "or a database of its own"
                ) from error.__cause__
    raise AssertionError("unreachable")


def upgrade_sql(dialect: str, schema: str = "scheduler", role: str | None = None) -> str:
    """Return the SQL that makes the tables in an empty database, for a person to run.

    On PostgreSQL it ends with the rights that `role` needs to run the service; without a role they are
    comments.
    """
    from scheduler_service.tables import scripts  # noqa: PLC0415  # imports Alembic

    body = scripts.render(dialect, schema if dialect == "postgresql" else None)
    if dialect == "sqlite":
        return f"begin immediate;\n\n{body}\n\ncommit;\n"
    grants = grants_sql(schema, role or "scheduler_runtime")
    if role is None:
        grants = "".join(f"-- {line}\n" for line in grants.splitlines())
    return f"begin;\n\ncreate schema if not exists {quoted(schema)};\n\n{body}\n\n{grants}\ncommit;\n"


def grants_sql(schema: str, role: str) -> str:
    """Return the rights that `role` needs to run the service, and no more: it cannot alter the schema."""
    place, grantee = quoted(schema), quoted(role)
    names = ", ".join(f"{place}.{quoted(one.name)}" for one in metadata().sorted_tables)
    return (
        f"grant usage on schema {place} to {grantee};\n"
        f"grant select, insert, update, delete on {names} to {grantee};\n"
        f"grant usage on sequence {place}.leader_term_seq to {grantee};\n"
        f"grant select on {place}.{VERSION_TABLE} to {grantee};\n"
    )


def _upgrade_in_turns(database: Database, deadline: float) -> str | None:
    """Change the tables at a moment when nobody holds them."""
    while True:
        try:
            return _upgrade_alone(database, max(1.0, deadline - time.monotonic()))
        except StoreUnavailable as error:
            if _state(error) not in _HELD_BY_OTHERS:
                raise
            if time.monotonic() >= deadline:
                raise StoreUnavailable(
                    f"other sessions have held tables of {_place(database)} all the while: try again when they are done"
                ) from error
        time.sleep(_BETWEEN_TURNS_SECONDS)


def _upgrade_alone(database: Database, seconds: float) -> str | None:
    from scheduler_service.tables import scripts  # noqa: PLC0415  # imports Alembic

    postgresql = database.dialect == "postgresql"
    with database.transaction(seconds=max(seconds, _CHANGE_SECONDS) if postgresql else seconds) as connection:
        if postgresql:
            connection.exec_driver_sql(f"set local lock_timeout = '{round(seconds * 1000)}ms'")
            _take_lock(database, connection)
        before = _read(database, connection)
        if before == HEAD:
            return before
        if before is not None:
            _require_known(database, before)
        if postgresql:
            if before is not None:
                # Behind our wait for a table waits everybody who needs it, the leader that renews its lease too.
                connection.exec_driver_sql(f"set local lock_timeout = '{_TURN_SECONDS:g}s'")
            _make_schema(database, connection)
        scripts.run(connection, database.schema_or_none)
        return before


def _take_lock(database: Database, connection: Connection) -> None:
    try:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _lock_key(database.schema)})
    except Exception as error:
        if getattr(getattr(error, "orig", None), "sqlstate", None) == "55P03":
            raise StoreUnavailable(
                f"another session has been changing {_place(database)} all the while: try again when it is done"
            ) from error
        raise


def _lock_key(schema: str) -> int:
    digest = hashlib.blake2b(f"scheduler_service migrations {schema}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _make_schema(database: Database, connection: Connection) -> None:
    # Even CREATE SCHEMA IF NOT EXISTS asks for the right to create one.
    query = text("select 1 from pg_namespace where nspname = :name")
    if connection.execute(query, {"name": database.schema}).first() is None:
        connection.exec_driver_sql(f"create schema {quoted(database.schema)}")


def _read(database: Database, connection: Connection) -> str | None:
    # Asked first, because a table that is missing would be an error in the server's log; and asked of the
    # catalogue, because to_regclass may answer from before we had the lock.
    catalogue = {
        "postgresql": "select 1 from pg_tables where tablename = :name and schemaname = :schema",
        "sqlite": "select 1 from sqlite_schema where type = 'table' and name = :name and :schema <> ''",
    }
    names = {"name": VERSION_TABLE, "schema": database.schema}
    there = connection.execute(text(catalogue[database.dialect]), names).first()
    if there is None:
        return None
    version = table(VERSION_TABLE, column("version_num"), schema=database.schema_or_none)
    revision: str | None = connection.execute(select(version)).scalar()
    return revision


def _require_known(database: Database, revision: str) -> None:
    from scheduler_service.tables import scripts  # noqa: PLC0415  # imports Alembic

    if revision not in scripts.known_revisions():
        raise StoreRefused(
            f"{_place(database)} is at revision {revision}, which scheduler_service {__version__} does not know: "
            "a later version made it; install that one here too"
        )


def _refused(database: Database, error: StoreUnavailable) -> StoreRefused:
    if _state(error) != "42501":
        return StoreRefused(str(error))
    return StoreRefused(
        f"{_place(database)} cannot be made or changed ({error}): have its owner run `scheduler-service db upgrade` "
        "or the output of `scheduler-service db sql`, and set database.create_tables: false here"
    )


def _exists_already(error: StoreUnavailable) -> bool:
    # schema, table or index, other object; SQLite has only words for it
    taken = _state(error) in {"42P06", "42P07", "42710"} or str(error).endswith("already exists")
    return taken or isinstance(error, StoreConflict)


def _state(error: StoreUnavailable) -> str | None:
    return getattr(error.__cause__, "sqlstate", None)


def _place(database: Database) -> str:
    return f"the schema {quoted(database.schema)}" if database.dialect == "postgresql" else database.safe_url
