"""Indexes to find the rare runs of one job, and the rare ones of a rare kind, without a walk over those of all others.

As with the former ones, none is written for a run that a schedule started and that went well.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the indexes."""
    schema: str | None = op.get_context().version_table_schema

    def index(name: str, *columns: str, where: str) -> None:
        predicate = sa.text(where)
        op.create_index(name, "run", list(columns), schema=schema, postgresql_where=predicate, sqlite_where=predicate)

    unusual = "state in ('failed', 'timed_out', 'cancelled', 'lost', 'missed', 'skipped')"
    index("run_job_unusual", "lock_id", "job_id", "state", "scheduled_at", where=unusual)
    index("run_job_kind", "lock_id", "job_id", "kind", "scheduled_at", where="kind <> 'scheduled'")
    both = f"kind <> 'scheduled' and {unusual}"
    index("run_kind_unusual", "lock_id", "kind", "state", "scheduled_at", where=both)
    index("run_job_kind_unusual", "lock_id", "job_id", "kind", "state", "scheduled_at", where=both)
