"""What Alembic runs: on the connection that it is given, or as text for a person to run."""

from __future__ import annotations

from alembic import context

_given = context.config.attributes
_schema: str | None = _given["schema"]

if context.is_offline_mode():
    context.configure(dialect_name=_given["dialect"], version_table_schema=_schema)
else:
    # The caller's transaction holds all of it, the lock included.
    context.configure(connection=_given["connection"], version_table_schema=_schema)
context.run_migrations()
