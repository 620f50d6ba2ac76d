"""What every lease store promises: on SQLite, on PostgreSQL, and in the memory of the simulation.

Leases expire here because the row is changed, never because time passes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest
from sqlalchemy import delete, select, update

from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.leases import LeaseStore, open_store
from scheduler_service.tables import database_time, leader_lease, leader_term
from tests.simulation.memory_store import MemoryElection, MemoryLeaseStore

LEASE = 10.0
ME, OTHER = "me-aaaaaa", "other-bbbbbb"


class Election(Protocol):
    """The row behind the stores, for tests to look at and to change."""

    def store(self) -> LeaseStore: ...
    def put_expiry(self, seconds: float) -> None:
        """Let the lease expire in so many seconds, or so many ago."""

    def put_beginning(self, seconds: float) -> None:
        """Let the term have begun so many seconds from now, as if the clock had been set back since."""

    def ask_to_resign(self, term: int) -> None: ...
    def delete_row(self) -> None: ...
    def row(self) -> tuple[int, str] | None: ...
    def ended(self) -> dict[int, str | None]:
        """Each term, and why it ended."""


class SqlElection:
    def __init__(self, database: Database, lock_id: int = 7) -> None:
        self.database = database
        self.lock_id = lock_id
        self.mine = leader_lease.c.id == lock_id
        self.stores: list[LeaseStore] = []

    def store(self) -> LeaseStore:
        store = open_store(self.database, lock_id=self.lock_id, lease_seconds=LEASE, attempt_seconds=2.0, guarded=False)
        self.stores.append(store)
        return store

    def execute(self, statement: Any) -> Any:
        with self.database.connect() as connection:
            result = connection.execute(statement)
            return result.all() if result.returns_rows else None

    def change(self, **values: Any) -> None:
        self.execute(update(leader_lease).where(self.mine).values(**values))

    def now(self) -> datetime:
        now: datetime = self.execute(select(database_time()))[0][0]
        return now

    def put_expiry(self, seconds: float) -> None:
        expires_at = self.now() + timedelta(seconds=seconds)
        self.change(expires_at=expires_at, created_at=expires_at - timedelta(seconds=LEASE))

    def put_beginning(self, seconds: float) -> None:
        created_at = self.now() + timedelta(seconds=seconds)
        self.change(created_at=created_at, expires_at=created_at + timedelta(seconds=LEASE), lease_seconds=1e6)

    def ask_to_resign(self, term: int) -> None:
        self.change(resign_term=term)

    def delete_row(self) -> None:
        self.execute(delete(leader_lease).where(self.mine))

    def row(self) -> tuple[int, str] | None:
        rows = self.execute(select(leader_lease.c.term, leader_lease.c.leader_id).where(self.mine))
        return tuple(rows[0]) if rows else None

    def ended(self) -> dict[int, str | None]:
        wanted = select(leader_term.c.term, leader_term.c.end_reason).where(leader_term.c.lock_id == self.lock_id)
        return {row.term: row.end_reason for row in self.execute(wanted.order_by("term"))}


class InMemory:
    def __init__(self) -> None:
        self.time = 1000.0
        self.election = MemoryElection(lambda: self.time, LEASE)

    def store(self) -> LeaseStore:
        return MemoryLeaseStore(self.election)

    def put_expiry(self, seconds: float) -> None:
        assert self.election.row is not None
        self.election.row.expires_at = self.time + seconds

    def put_beginning(self, seconds: float) -> None:
        assert self.election.row is not None
        self.election.row.created_at = self.time + seconds
        self.election.row.expires_at = self.time + seconds + LEASE
        self.election.row.lease_seconds = 1e6

    def ask_to_resign(self, term: int) -> None:
        assert self.election.row is not None
        self.election.row.resign_term = term

    def delete_row(self) -> None:
        self.election.row = None

    def row(self) -> tuple[int, str] | None:
        row = self.election.row
        return (row.term, row.leader_id) if row is not None else None

    def ended(self) -> dict[int, str | None]:
        return {term.term: term.ended for term in self.election.terms}


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def election(request: pytest.FixtureRequest) -> Iterator[Election]:
    if request.param == "memory":
        yield InMemory()
        return
    name = "migrated_sqlite_url" if request.param == "sqlite" else "migrated_postgres_url"
    database = Database(request.getfixturevalue(name))
    election = SqlElection(database)
    yield election
    for store in election.stores:
        store.close()
    database.dispose()


@pytest.fixture
def store(election: Election) -> LeaseStore:
    return election.store()


@pytest.fixture
def another(election: Election) -> LeaseStore:
    return election.store()


def acquire(store: LeaseStore, leader_id: str = ME) -> int:
    acquired = store.acquire(leader_id)
    assert acquired is not None
    return acquired.term


# Observe


def test_nobody_leads_at_first(store: LeaseStore) -> None:
    assert store.observe() is None


def test_who_leads_is_observed_with_what_remains_of_the_lease(store: LeaseStore, another: LeaseStore) -> None:
    acquired = store.acquire(ME)
    assert acquired is not None
    seen = another.observe()
    assert seen is not None
    assert (seen.leader_id, seen.term, seen.armed) == (ME, acquired.term, False)
    assert 0 < seen.remaining_seconds <= LEASE
    assert seen.database_time >= acquired.database_time >= acquired.acquired_at
    assert seen.database_time.tzinfo is UTC


def test_an_expired_lease_has_nothing_left(election: Election, store: LeaseStore) -> None:
    acquire(store)
    election.put_expiry(-3.0)
    seen = store.observe()
    assert seen is not None
    assert seen.remaining_seconds <= 0


# Acquire


def test_the_free_lease_is_acquired(election: Election, store: LeaseStore) -> None:
    assert acquire(store) == 1
    assert election.row() == (1, ME)
    assert election.ended() == {1: None}


def test_a_standing_lease_is_not_acquired_by_another(
    election: Election, store: LeaseStore, another: LeaseStore
) -> None:
    acquire(store)
    assert another.acquire(OTHER) is None
    assert election.row() == (1, ME)
    assert election.ended() == {1: None}


def test_an_expired_lease_is_acquired_in_a_later_term(
    election: Election, store: LeaseStore, another: LeaseStore
) -> None:
    acquire(store)
    election.put_expiry(-0.001)
    later = acquire(another, OTHER)
    assert later > 1
    assert election.row() == (later, OTHER)
    assert election.ended() == {1: "expired", later: None}


def test_our_own_lease_is_acquired_again_in_a_later_term(election: Election, store: LeaseStore) -> None:
    acquire(store)  # and the reply was lost
    later = acquire(store)
    assert later > 1
    assert election.ended() == {1: "replaced_by_itself", later: None}


def test_a_lease_that_ends_further_away_than_a_lease_lasts_has_expired(
    election: Election, store: LeaseStore, another: LeaseStore
) -> None:
    acquire(store)
    election.put_expiry(3600.0)  # the clock was set back by an hour
    seen = another.observe()
    assert seen is not None
    assert seen.remaining_seconds <= 0
    assert acquire(another, OTHER) > 1


def test_many_that_acquire_at_once_win_one_term(election: Election) -> None:
    stores = [election.store() for _ in range(6)]
    for store in stores:
        store.observe()
    terms: list[int] = []
    begin = threading.Barrier(len(stores))

    def stand(store: LeaseStore, name: str) -> None:
        begin.wait(10)
        acquired = store.acquire(name)
        if acquired is not None:
            terms.append(acquired.term)

    threads = [threading.Thread(target=stand, args=(store, f"r{n}")) for n, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(terms) == 1
    row = election.row()
    assert row is not None
    assert row[0] == terms[0]


# I2: terms only grow, and none is given twice


def test_terms_grow_across_release_expiry_cleanup_and_deletion(
    election: Election, store: LeaseStore, another: LeaseStore
) -> None:
    terms = [acquire(store)]
    store.release(terms[-1], ME, "released")
    terms.append(acquire(another, OTHER))
    election.put_expiry(-1.0)
    terms.append(acquire(store))
    election.put_expiry(-60.0)
    assert another.cleanup() == 1
    terms.append(acquire(another, OTHER))
    election.delete_row()
    terms.append(acquire(store))
    terms.append(acquire(store))
    assert terms == sorted(set(terms))
    reasons = ["released", "expired", "expired", "row_deleted", "replaced_by_itself", None]
    assert election.ended() == dict(zip(terms, reasons, strict=True))


# Renew


def test_a_renewal_puts_the_expiry_off(election: Election, store: LeaseStore) -> None:
    term = acquire(store)
    election.put_expiry(0.5)
    renewal = store.renew(term, ME)
    assert renewal is not None
    assert (renewal.armed, renewal.resign_requested) == (False, False)
    seen = store.observe()
    assert seen is not None
    assert seen.remaining_seconds > 5
    assert seen.term == term


def test_a_lapsed_term_is_never_revived(election: Election, store: LeaseStore) -> None:
    term = acquire(store)
    election.put_expiry(-0.001)
    assert store.renew(term, ME) is None
    seen = store.observe()
    assert seen is not None
    assert seen.remaining_seconds <= 0


@pytest.mark.parametrize("verb", ["renew", "release"])
def test_a_token_is_term_and_leader(election: Election, store: LeaseStore, verb: str) -> None:
    term = acquire(store)
    for wrong_term, wrong_leader in [(term, OTHER), (term + 1, ME), (term - 1, ME)]:
        if verb == "renew":
            assert store.renew(wrong_term, wrong_leader) is None
        else:
            assert store.release(wrong_term, wrong_leader, "released") is False
    assert election.row() == (term, ME)


def test_a_former_term_is_not_renewed(election: Election, store: LeaseStore, another: LeaseStore) -> None:
    term = acquire(store)
    election.put_expiry(-1.0)
    acquire(another, OTHER)
    assert store.renew(term, ME) is None


def test_a_clock_set_back_does_not_break_a_renewal(election: Election, store: LeaseStore) -> None:
    term = acquire(store)
    election.put_beginning(3600.0)
    assert store.renew(term, ME) is not None
    seen = store.observe()
    assert seen is not None
    assert seen.remaining_seconds <= LEASE


def test_a_request_to_resign_is_told_to_the_term_that_it_names(
    election: Election, store: LeaseStore, another: LeaseStore
) -> None:
    term = acquire(store)
    election.ask_to_resign(term)
    renewal = store.renew(term, ME)
    assert renewal is not None
    assert renewal.resign_requested
    election.put_expiry(-1.0)
    later = acquire(another, OTHER)
    renewal = another.renew(later, OTHER)
    assert renewal is not None
    assert not renewal.resign_requested


# Release


def test_a_released_lease_is_free(election: Election, store: LeaseStore, another: LeaseStore) -> None:
    term = acquire(store)
    assert store.release(term, ME, "resigned") is True
    assert election.row() is None
    assert election.ended() == {term: "resigned"}
    assert another.observe() is None
    assert acquire(another, OTHER) > term


def test_a_lease_is_released_once(store: LeaseStore) -> None:
    term = acquire(store)
    assert store.release(term, ME, "released") is True
    assert store.release(term, ME, "released") is False


def test_an_expired_lease_can_be_released_by_its_owner(election: Election, store: LeaseStore) -> None:
    term = acquire(store)
    election.put_expiry(-1.0)
    assert store.release(term, ME, "released") is True


# Cleanup


def test_cleanup_removes_what_expired_a_while_ago(election: Election, store: LeaseStore) -> None:
    assert store.cleanup() == 0
    term = acquire(store)
    assert store.cleanup() == 0
    election.put_expiry(-4.0)
    assert store.cleanup() == 0
    election.put_expiry(-5.5)
    assert store.cleanup() == 1
    assert election.row() is None
    assert election.ended() == {term: "expired"}


# Sessions


def test_a_closed_store_opens_a_fresh_session(store: LeaseStore) -> None:
    term = acquire(store)
    store.close()
    store.close()
    assert store.renew(term, ME) is not None


def test_elections_with_other_lock_ids_know_nothing_of_each_other(database: Database) -> None:
    here, there = SqlElection(database, 1), SqlElection(database, 2)
    one, two = here.store(), there.store()
    acquire(one)
    acquire(two, OTHER)
    assert here.row() == (1, ME)
    there.put_expiry(-60.0)
    assert one.cleanup() == 0
    assert two.cleanup() == 1
    assert here.row() == (1, ME)
    one.close()
    two.close()


def test_a_database_that_is_not_there_is_unavailable(tmp_path: Any) -> None:
    for url in (f"sqlite:///{tmp_path}/no/such/folder/x.db", "postgresql://nobody@127.0.0.1:9/none"):
        store = SqlElection(Database(url)).store()
        with pytest.raises(StoreUnavailable):
            store.observe()
        assert store.fileno() is None
        store.close()
