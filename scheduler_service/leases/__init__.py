"""The lease row of one election: who leads, in which term, until when.

    observe    read who leads; an idle standby's whole routine
    acquire    become the leader of a new term, where the row allows it
    renew      stay the leader of a term that is still ours
    release    end our term at once, so that another may lead
    cleanup    remove a row that expired and that nobody replaced

`request_resignation` is for those who take no part: it asks the leader to release.

The database compares all times with its own clock.  Each verb is one statement that commits itself (one
short transaction on SQLite), so a client that freezes does not hold the election up.  The token of a term
is (term, leader_id), everywhere.  Terms only grow and none is ever given twice (I2).
"""

from __future__ import annotations

from scheduler_service.database import Database
from scheduler_service.leases.postgresql import PostgresLeaseStore, election_key
from scheduler_service.leases.resigning import Resignation, request_resignation
from scheduler_service.leases.sqlite import SqliteLeaseStore
from scheduler_service.leases.store import CLEANUP_SECONDS, Acquired, LeaseStore, Observation, Renewal

__all__ = [
    "CLEANUP_SECONDS",
    "Acquired",
    "LeaseStore",
    "Observation",
    "PostgresLeaseStore",
    "Renewal",
    "Resignation",
    "SqliteLeaseStore",
    "election_key",
    "open_store",
    "request_resignation",
]


def open_store(
    database: Database, *, lock_id: int, lease_seconds: float, attempt_seconds: float, guarded: bool
) -> LeaseStore:
    """Return the store of election `lock_id`; nothing is connected yet.

    A lease lasts `lease_seconds`; an answer may take `attempt_seconds`.  `guarded`: let others notice the
    end of our session, where the database can tell them (PostgreSQL, without a pooler).
    """
    if database.dialect == "postgresql":
        return PostgresLeaseStore(database, lock_id, lease_seconds, attempt_seconds, guarded=guarded)
    return SqliteLeaseStore(database, lock_id, lease_seconds, attempt_seconds)
