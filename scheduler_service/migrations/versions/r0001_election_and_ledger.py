"""The tables of election and ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make everything."""
    context = op.get_context()
    schema: str | None = context.version_table_schema
    if context.dialect.name == "postgresql":
        op.execute(sa.schema.CreateSequence(sa.Sequence("leader_term_seq", schema=schema)))
    _make_election(schema)
    _make_ledger(schema)
    _index_ledger(schema)
    if context.dialect.name == "postgresql":
        op.create_index(
            "leader_lease_expires_at", "leader_lease", ["expires_at"], schema=schema, postgresql_using="brin"
        )


def _make_election(schema: str | None) -> None:
    op.create_table(
        "leader_lease",
        sa.Column("id", _ID, primary_key=True, autoincrement=False),
        sa.Column(
            "leader_id", sa.Text, sa.CheckConstraint("leader_id <> ''", name="leader_lease_leader_id"), nullable=False
        ),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("lease_seconds", sa.Double, nullable=False),
        sa.Column("guard_pid", sa.Integer),
        sa.Column("guard_boot", _MOMENT),
        sa.Column("resign_term", sa.BigInteger),
        sa.CheckConstraint("expires_at > created_at", name="leader_lease_expiry"),
        schema=schema,
        postgresql_with={"fillfactor": 50},
    )
    # Makes `term` a key column: taking the lease over needs the row lock that a fenced statement excludes.
    op.create_index("leader_lease_id_term", "leader_lease", ["id", "term"], unique=True, schema=schema)
    op.create_table(
        "leader_term",
        sa.Column("lock_id", sa.BigInteger, nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("leader_id", sa.Text, nullable=False),
        sa.Column("acquired_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT),
        sa.Column("end_reason", sa.Text),
        sa.PrimaryKeyConstraint("lock_id", "term", name="leader_term_pkey"),
        schema=schema,
    )
    op.create_table(
        "replica",
        sa.Column("instance_id", sa.Text, primary_key=True),
        sa.Column("lock_id", sa.BigInteger, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("config_hash", sa.Text, nullable=False),
        sa.Column("config_loaded_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        schema=schema,
    )


def _make_ledger(schema: str | None) -> None:
    op.create_table(
        "job_state",
        sa.Column("lock_id", sa.BigInteger, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("schedule", sa.Text, nullable=False),
        sa.Column("timezone", sa.Text, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("accountable_from", _MOMENT, nullable=False),
        sa.Column("settled_until", _MOMENT, nullable=False),
        sa.Column("present_at", _MOMENT, nullable=False),
        sa.Column("paused_at", _MOMENT),
        sa.Column("paused_until", _MOMENT),
        sa.Column("paused_by", sa.Text),
        sa.Column("pause_reason", sa.Text),
        sa.PrimaryKeyConstraint("lock_id", "job_id", name="job_state_pkey"),
        schema=schema,
    )
    op.create_table(
        "run",
        sa.Column("id", _ID, sa.Identity(), primary_key=True),
        sa.Column("lock_id", sa.BigInteger, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("scheduled_at", _MOMENT, nullable=False),
        sa.Column("until", _MOMENT),
        sa.Column("due_at", _MOMENT, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("exclusive", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("slot_held", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("decided_at", _MOMENT, nullable=False),
        sa.Column("decided_by", sa.Text),
        sa.Column("cancel_requested_at", _MOMENT),
        sa.Column("requested_by", sa.Text),
        sa.Column("request_key", sa.Text),
        sa.Column("arguments", sa.Text),
        schema=schema,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "run_attempt",
        sa.Column("id", _ID, sa.Identity(), primary_key=True),
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("instance_id", sa.Text, nullable=False),
        sa.Column("claim_id", sa.Text),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.Column("finished_at", _MOMENT),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("exit_code", sa.Integer),
        sa.Column("result", sa.Text),
        _belongs_to("run", "run_id", "run_attempt_run_id_fkey", schema),
        schema=schema,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "run_output",
        sa.Column("attempt_id", _ID, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False, server_default=sa.text("false")),
        _belongs_to("run_attempt", "attempt_id", "run_output_attempt_id_fkey", schema),
        schema=schema,
    )


def _belongs_to(table: str, column: str, name: str, schema: str | None) -> sa.ForeignKeyConstraint:
    target = f"{table}.id" if schema is None else f"{schema}.{table}.id"
    return sa.ForeignKeyConstraint([column], [target], ondelete="CASCADE", name=name)


def _index_ledger(schema: str | None) -> None:
    def index(name: str, table: str, *columns: str, unique: bool = False, where: str | None = None) -> None:
        predicate = None if where is None else sa.text(where)
        op.create_index(
            name, table, list(columns), unique=unique, schema=schema, postgresql_where=predicate, sqlite_where=predicate
        )

    ticks = "kind in ('scheduled', 'catch_up', 'range')"
    index("run_tick", "run", "lock_id", "job_id", "scheduled_at", unique=True, where=ticks)
    index("run_request_key", "run", "lock_id", "request_key", unique=True)
    index("run_slot", "run", "lock_id", "job_id", unique=True, where="slot_held and exclusive")
    index("run_waiting", "run", "lock_id", "due_at", where="state = 'waiting'")
    index("run_open", "run", "lock_id", "job_id", where="state in ('waiting', 'running')")
    index("run_slot_held", "run", "lock_id", where="slot_held")
    index("run_job", "run", "lock_id", "job_id", "id")
    index("run_scheduled_at", "run", "lock_id", "scheduled_at")
    index("run_attempt_run", "run_attempt", "run_id", "attempt", unique=True)
    index("run_attempt_running", "run_attempt", "instance_id", where="state = 'running'")
    index("run_attempt_claim", "run_attempt", "claim_id")
