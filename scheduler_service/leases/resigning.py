"""Ask whoever leads to hand over, from any machine.

The request stands in the lease's row beside the term that it means, so it cannot reach a later one.  The
leader finds it when it renews; on PostgreSQL it is woken to do so at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

from scheduler_service.database import Database
from scheduler_service.leases.postgresql import election_channel
from scheduler_service.tables import DATABASE_TIME

# Who asked first is kept.
_ASK = """
update {prefix}leader_lease
   set resign_by = case when resign_term = term then resign_by else :by end, resign_term = term
 where id = :id and expires_at > {now}
returning id, term, leader_id"""

_ASK_AND_WAKE = """
with asked as ({ask})
select id, term, leader_id, pg_notify(:channel, id || ' ' || term) from asked"""


@dataclass(frozen=True, slots=True)
class Resignation:
    """Who was asked to hand over which term."""

    leader_id: str
    term: int


def request_resignation(database: Database, lock_id: int, by: str) -> Resignation | None:
    """Ask the leader of `lock_id` to resign, in the name of `by`; None if nobody leads.

    Raises StoreUnavailable.  Asking twice is asking once.
    """
    statement = _ASK.format(prefix=database.prefix, now=DATABASE_TIME[database.dialect])
    parameters: dict[str, object] = {"id": lock_id, "by": by}
    if database.dialect == "postgresql":
        statement = _ASK_AND_WAKE.format(ask=statement)
        parameters["channel"] = election_channel(database.schema, lock_id)
    with database.connect() as connection:
        row = connection.execute(text(statement), parameters).first()
    return None if row is None else Resignation(row.leader_id, row.term)
