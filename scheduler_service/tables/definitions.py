"""The tables of election and ledger, as the code uses them.

On leader_lease rests every fence: `term` is a column of a plain unique index, so taking the lease over
needs the row lock that a fenced statement excludes.  No foreign key may point there, for its checks would
lock the row.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    Table,
    Text,
    text,
)

from scheduler_service.tables.columns import Id, UtcMicroseconds

_metadata = MetaData()

UNUSUAL = "state in ('failed', 'timed_out', 'cancelled', 'lost', 'missed', 'skipped')"
RARE = "kind <> 'scheduled'"


def _index(name: str, *columns: str, unique: bool = False, where: str | None = None) -> Index:
    predicate = None if where is None else text(where)
    return Index(name, *columns, unique=unique, postgresql_where=predicate, sqlite_where=predicate)


leader_term_seq = Sequence("leader_term_seq", metadata=_metadata)

leader_lease = Table(
    "leader_lease",
    _metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),  # the lock id
    Column("leader_id", Text, CheckConstraint("leader_id <> ''", name="leader_lease_leader_id"), nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("expires_at", UtcMicroseconds, nullable=False),
    Column("created_at", UtcMicroseconds, nullable=False),  # when this term began
    Column("lease_seconds", Double, nullable=False),
    Column("guard_pid", Integer),
    Column("guard_boot", UtcMicroseconds),
    Column("resign_term", BigInteger),
    Column("resign_by", Text),  # who asked for it
    CheckConstraint("expires_at > created_at", name="leader_lease_expiry"),
    _index("leader_lease_id_term", "id", "term", unique=True),
    Index("leader_lease_expires_at", "expires_at", postgresql_using="brin").ddl_if(dialect="postgresql"),
    postgresql_with={"fillfactor": 50},
)

leader_term = Table(
    "leader_term",
    _metadata,
    Column("lock_id", BigInteger, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("leader_id", Text, nullable=False),
    Column("acquired_at", UtcMicroseconds, nullable=False),
    Column("ended_at", UtcMicroseconds),
    Column("end_reason", Text),
    PrimaryKeyConstraint("lock_id", "term", name="leader_term_pkey"),
)

replica = Table(
    "replica",
    _metadata,
    Column("instance_id", Text, primary_key=True),
    Column("lock_id", BigInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("config_hash", Text, nullable=False),
    Column("config_loaded_at", UtcMicroseconds, nullable=False),
    Column("started_at", UtcMicroseconds, nullable=False),
    Column("seen_at", UtcMicroseconds, nullable=False),
)

job_state = Table(
    "job_state",
    _metadata,
    Column("lock_id", BigInteger, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("schedule", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("accountable_from", UtcMicroseconds, nullable=False),
    Column("settled_until", UtcMicroseconds, nullable=False),
    Column("present_at", UtcMicroseconds, nullable=False),
    Column("max_running", Integer),  # how many of its runs may go on at once; null: any number
    Column("paused_at", UtcMicroseconds),
    Column("paused_until", UtcMicroseconds),
    Column("paused_by", Text),
    Column("pause_reason", Text),
    Column("resumed_by", Text),
    PrimaryKeyConstraint("lock_id", "job_id", name="job_state_pkey"),
    _index("job_state_paused", "lock_id", where="paused_at is not null"),
)

run = Table(
    "run",
    _metadata,
    Column("id", Id, Identity(), primary_key=True),
    Column("lock_id", BigInteger, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("scheduled_at", UtcMicroseconds, nullable=False),
    Column("until", UtcMicroseconds),  # the last tick of a range
    Column("due_at", UtcMicroseconds, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("exclusive", Boolean, nullable=False, server_default=text("false")),
    Column("slot_held", Boolean, nullable=False, server_default=text("false")),
    Column("slot", Integer),  # which of the job's slots it holds, from 0; null where there is no limit
    Column("decided_at", UtcMicroseconds, nullable=False),
    Column("decided_by", Text),
    Column("cancel_requested_at", UtcMicroseconds),
    Column("cancel_requested_by", Text),
    Column("requested_by", Text),
    Column("request_key", Text),
    Column("arguments", Text),  # JSON
    _index(
        "run_tick", "lock_id", "job_id", "scheduled_at", unique=True, where="kind in ('scheduled', 'catch_up', 'range')"
    ),
    _index("run_request_key", "lock_id", "request_key", unique=True),
    _index("run_slot", "lock_id", "job_id", unique=True, where="slot_held and exclusive"),
    _index("run_slot_number", "lock_id", "job_id", "slot", unique=True, where="slot_held"),
    _index("run_waiting", "lock_id", "due_at", where="state = 'waiting'"),
    _index("run_open", "lock_id", "job_id", where="state in ('waiting', 'running')"),
    _index("run_slot_held", "lock_id", where="slot_held"),
    _index("run_job", "lock_id", "job_id", "id"),
    _index("run_scheduled_at", "lock_id", "scheduled_at"),
    _index("run_unusual", "lock_id", "state", "scheduled_at", where=UNUSUAL),
    _index("run_kind", "lock_id", "kind", "scheduled_at", where=RARE),
    _index("run_job_unusual", "lock_id", "job_id", "state", "scheduled_at", where=UNUSUAL),
    _index("run_job_kind", "lock_id", "job_id", "kind", "scheduled_at", where=RARE),
    _index("run_kind_unusual", "lock_id", "kind", "state", "scheduled_at", where=f"{RARE} and {UNUSUAL}"),
    _index("run_job_kind_unusual", "lock_id", "job_id", "kind", "state", "scheduled_at", where=f"{RARE} and {UNUSUAL}"),
    _index("run_until", "lock_id", "until", where="until is not null"),
    sqlite_autoincrement=True,
)

run_attempt = Table(
    "run_attempt",
    _metadata,
    Column("id", Id, Identity(), primary_key=True),  # grows with every start of any job, and is never given again
    Column("run_id", Id, ForeignKey("run.id", ondelete="CASCADE", name="run_attempt_run_id_fkey"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("instance_id", Text, nullable=False),
    Column("claim_id", Text),
    Column("started_at", UtcMicroseconds, nullable=False),
    Column("finished_at", UtcMicroseconds),
    Column("state", Text, nullable=False),
    Column("error", Text),
    Column("exit_code", Integer),
    Column("result", Text),
    Column("peak_memory_bytes", BigInteger),  # of a process of its own
    _index("run_attempt_run", "run_id", "attempt", unique=True),  # I3: the second line of defence
    _index("run_attempt_running", "instance_id", where="state = 'running'"),
    _index("run_attempt_claim", "claim_id"),
    sqlite_autoincrement=True,
)

run_output = Table(
    "run_output",
    _metadata,
    Column(
        "attempt_id",
        Id,
        ForeignKey("run_attempt.id", ondelete="CASCADE", name="run_output_attempt_id_fkey"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("text", Text, nullable=False),
    Column("truncated", Boolean, nullable=False, server_default=text("false")),
)


def metadata(schema: str | None = None) -> MetaData:
    """Return the tables, or a copy of them that names `schema`."""
    if schema is None:
        return _metadata
    copy = MetaData()
    for table in _metadata.tables.values():
        table.to_metadata(copy, schema=schema, referred_schema_fn=lambda *_: schema)
    Sequence("leader_term_seq", schema=schema, metadata=copy)
    return copy
