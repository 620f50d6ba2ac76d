"""Indexes to find, in a long history, the runs that are rare: those that went wrong, were asked for, or are ranges.

None of them is written for a run that a schedule started and that went well.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the indexes."""
    schema: str | None = op.get_context().version_table_schema

    def index(name: str, *columns: str, where: str) -> None:
        predicate = sa.text(where)
        op.create_index(name, "run", list(columns), schema=schema, postgresql_where=predicate, sqlite_where=predicate)

    unusual = "state in ('failed', 'timed_out', 'cancelled', 'lost', 'missed', 'skipped')"
    index("run_unusual", "lock_id", "state", "scheduled_at", where=unusual)
    index("run_kind", "lock_id", "kind", "scheduled_at", where="kind <> 'scheduled'")
    index("run_until", "lock_id", "until", where="until is not null")
