"""Types and times that are written differently in the two databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# The database's time as SQL text: timestamptz, or whole microseconds.  SQLite counts in milliseconds, and
# its 'now' is the same everywhere in one statement.
DATABASE_TIME = {
    "postgresql": "clock_timestamp()",
    "sqlite": "(cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000)",
}

# What counts up by itself: an integer primary key on SQLite must be called INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


def to_microseconds(moment: datetime) -> int:
    """Return an aware moment as microseconds since the epoch, exactly; ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone: moments are aware UTC")
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Return the moment that many microseconds after the epoch, aware UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


class UtcMicroseconds(TypeDecorator[datetime]):
    """An aware UTC moment: timestamptz on PostgreSQL, integer microseconds on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type."""
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Refuse naive moments; give SQLite its microseconds."""
        if value is None:
            return None
        microseconds = to_microseconds(value)
        return microseconds if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return an aware UTC moment, whatever zone a pooler's session is in."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return from_microseconds(value)
        moment: datetime = value
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


class database_time(FunctionElement[datetime]):  # noqa: N801  # reads as the SQL function that it stands for
    """The database's own time, now and not at the start of the transaction."""

    name = "database_time"
    type = UtcMicroseconds()
    inherit_cache = True


@compiles(database_time)
def _database_time(_: database_time, compiler: SQLCompiler, **__: Any) -> str:
    return DATABASE_TIME[compiler.dialect.name]
