"""The tables, and the migrations that make them.

Tables carry no schema: connections of `Database` put it in (`metadata(schema)` gives a copy that has it).

    upgrade          make or migrate the tables, once, whoever of several replicas comes first
    require_current  refuse to start on tables of another version
    check            compare what is there with what is expected
    upgrade_sql      the same as text, for a person who runs it
"""

from scheduler_service.tables.columns import (
    DATABASE_TIME,
    UtcMicroseconds,
    database_time,
    from_microseconds,
    to_microseconds,
)
from scheduler_service.tables.compare import check
from scheduler_service.tables.definitions import (
    job_state,
    leader_lease,
    leader_term,
    leader_term_seq,
    metadata,
    replica,
    run,
    run_attempt,
    run_output,
)
from scheduler_service.tables.revisions import HEAD, current_revision, grants_sql, require_current, upgrade, upgrade_sql

__all__ = [
    "DATABASE_TIME",
    "HEAD",
    "UtcMicroseconds",
    "check",
    "current_revision",
    "database_time",
    "from_microseconds",
    "grants_sql",
    "job_state",
    "leader_lease",
    "leader_term",
    "leader_term_seq",
    "metadata",
    "replica",
    "require_current",
    "run",
    "run_attempt",
    "run_output",
    "to_microseconds",
    "upgrade",
    "upgrade_sql",
]
