"""Terms only grow (I2), whatever a person does to the numbers from which they come."""

from __future__ import annotations

import psycopg
import pytest

from scheduler_service.database import Database
from scheduler_service.leases import open_store

EXPIRE = """
update scheduler.leader_lease
   set created_at = created_at - interval '1 hour', expires_at = clock_timestamp() - interval '1 second'"""


@pytest.mark.parametrize(
    "loss",
    ["delete from scheduler.leader_lease", f"delete from scheduler.leader_term; {EXPIRE}"],
    ids=["deleted", "pruned"],
)
def test_a_sequence_that_fell_behind_brings_no_term_back(migrated_postgres_url: str, loss: str) -> None:
    """A dump that was restored without its sequence, and the lease's row or the history of terms is gone besides."""
    store = open_store(
        Database(migrated_postgres_url), lock_id=1, lease_seconds=30.0, attempt_seconds=10.0, guarded=False
    )
    terms = []
    with psycopg.connect(migrated_postgres_url, autocommit=True) as director:
        for _ in range(5):
            acquired = store.acquire("leader-aaaaaa")
            assert acquired is not None
            terms.append(acquired.term)
        director.execute("select setval('scheduler.leader_term_seq', 1, false)")
        director.execute(loss)
        acquired = store.acquire("successor-bbbbbb")
        assert acquired is not None
        terms.append(acquired.term)
    store.close()
    assert terms == sorted(set(terms))
