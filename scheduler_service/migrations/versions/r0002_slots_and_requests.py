"""Numbered slots, who asked for what, and the memory of a run in a process of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns that may be empty, and indexes: replicas of the version before go on meanwhile."""
    schema: str | None = op.get_context().version_table_schema

    def index(name: str, table: str, *columns: str, where: str, unique: bool = False) -> None:
        predicate = sa.text(where)
        op.create_index(
            name, table, list(columns), unique=unique, schema=schema, postgresql_where=predicate, sqlite_where=predicate
        )

    for table, column in (
        ("leader_lease", sa.Column("resign_by", sa.Text)),
        ("job_state", sa.Column("max_running", sa.Integer)),
        ("job_state", sa.Column("resumed_by", sa.Text)),
        ("run", sa.Column("slot", sa.Integer)),
        ("run", sa.Column("cancel_requested_by", sa.Text)),
        ("run_attempt", sa.Column("peak_memory_bytes", sa.BigInteger)),
    ):
        op.add_column(table, column, schema=schema)
    # The slot that `exclusive` stood for so far.
    run = "run" if schema is None else f'"{schema}".run'
    op.execute(f"update {run} set slot = 0 where exclusive and slot_held")  # noqa: S608  # our own name
    index("run_slot_number", "run", "lock_id", "job_id", "slot", unique=True, where="slot_held")
    index("job_state_paused", "job_state", "lock_id", where="paused_at is not null")
