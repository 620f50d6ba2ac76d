"""Compare the tables that are there with those that the code expects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, Connection, Index, Inspector, Table, inspect, text
from sqlalchemy.engine.interfaces import ReflectedColumn, ReflectedIndex

from scheduler_service.database import Database, quoted
from scheduler_service.tables.definitions import metadata
from scheduler_service.tables.revisions import HEAD, current_revision


def check(database: Database) -> list[str]:
    """Return what differs, one line each for a person; nothing if the tables are as they must be."""
    schema = database.schema_or_none
    current = current_revision(database)
    if current is None:
        return ["there are no tables: run `scheduler-service db upgrade`"]
    differences = [] if current == HEAD else [f"revision: {current}, expected {HEAD}"]
    with database.connect() as connection:
        inspector = inspect(connection)
        present = set(inspector.get_table_names(schema=schema))
        for table in metadata(schema).sorted_tables:
            if table.name in present:
                differences += _compare_columns(connection, inspector, table)
                differences += _compare_indexes(connection, inspector, table)
            else:
                differences.append(f"{table.name}: the table is missing")
        if schema is not None:
            if "leader_term_seq" not in inspector.get_sequence_names(schema=schema):
                differences.append("leader_term_seq: the sequence is missing")
            differences += _check_fence(connection, schema)
    return differences


def _compare_columns(connection: Connection, inspector: Inspector, table: Table) -> Iterator[str]:
    found = {column["name"]: column for column in inspector.get_columns(table.name, schema=table.schema)}
    for column in table.columns:
        here = found.pop(column.name, None)
        if here is None:
            yield f"{table.name}.{column.name}: the column is missing"
            continue
        wanted_type = column.type.compile(connection.dialect)
        found_type = here["type"].compile(connection.dialect)
        if found_type != wanted_type:
            yield f"{table.name}.{column.name}: is {found_type}, expected {wanted_type}"
        if here["nullable"] != column.nullable:
            yield f"{table.name}.{column.name}: {_nullable(here['nullable'])}, expected: {_nullable(column.nullable)}"
        if column.server_default is not None and _fills_nothing(here) and not _counts_up(connection, column):
            yield f"{table.name}.{column.name}: the default is missing"
    # A column more may be left by somebody's report or by a later version; one that must be filled stops us.
    yield from (
        f"{table.name}.{name}: a column that we do not know must be filled"
        for name, here in found.items()
        if not here["nullable"] and _fills_nothing(here)
    )
    key = inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"]
    wanted_key = [column.name for column in table.primary_key.columns]
    if key != wanted_key:
        yield f"{table.name}: the primary key is ({', '.join(key)}), expected ({', '.join(wanted_key)})"


def _fills_nothing(column: ReflectedColumn) -> bool:
    return column.get("default") is None and column.get("identity") is None


def _counts_up(connection: Connection, column: Column[Any]) -> bool:
    return connection.dialect.name == "sqlite" and column.primary_key  # an integer key does so by itself there


def _nullable(nullable: bool | None) -> str:
    return "may be null" if nullable else "must not be null"


def _compare_indexes(connection: Connection, inspector: Inspector, table: Table) -> Iterator[str]:
    found = {index["name"]: index for index in inspector.get_indexes(table.name, schema=table.schema)}
    for index in table.indexes:
        if index.dialect_options["postgresql"]["using"] == "brin" and connection.dialect.name != "postgresql":
            continue
        name = str(index.name)
        here = found.get(name)
        if here is None:
            yield f"{table.name}: the index {name} is missing"
        elif _described(here) != _expected(index):
            yield f"{table.name}: the index {name} is {_described(here)}, expected {_expected(index)}"


def _described(index: ReflectedIndex) -> str:
    options = index.get("dialect_options", {})
    partial = any(options.get(name) is not None for name in ("postgresql_where", "sqlite_where"))
    return _words(bool(index["unique"]), [str(name) for name in index["column_names"]], partial=partial)


def _expected(index: Index) -> str:
    partial = index.dialect_options["postgresql"]["where"] is not None
    return _words(bool(index.unique), [column.name for column in index.columns], partial=partial)


def _words(unique: bool, columns: list[str], *, partial: bool) -> str:
    return f"{'unique ' if unique else ''}({', '.join(columns)}){' where …' if partial else ''}"


def _check_fence(connection: Connection, schema: str) -> Iterator[str]:
    # Row locks look at exactly this: a unique, immediate, valid index without predicate or expression.
    query = text("""
        select count(*) from pg_index i
         where i.indrelid = to_regclass(:table) and i.indisunique and i.indimmediate and i.indisvalid
           and i.indpred is null and i.indexprs is null
           and (select attnum from pg_attribute where attrelid = i.indrelid and attname = 'term') = any (i.indkey)""")
    if not connection.execute(query, {"table": f"{quoted(schema)}.leader_lease"}).scalar():
        yield (
            "leader_lease: no plain unique index on (id, term), so a leader that was replaced could still write: "
            "create unique index leader_lease_id_term on leader_lease (id, term)"
        )
