"""What making the tables meets on PostgreSQL alone."""

from __future__ import annotations

import threading

import psycopg
import pytest
from sqlalchemy import Connection, text

from scheduler_service import tables
from scheduler_service.database import Database, StoreRefused, StoreUnavailable
from scheduler_service.tables import scripts
from tests.first_revision import make_first_revision
from tests.waiting import wait_until

BLOCKED = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


@pytest.mark.parametrize("schema", ["scheduler", "public", "Jobs-of_Team7", "select"])
def test_the_tables_are_made_in_the_schema_that_is_named(postgres_url: str, schema: str) -> None:
    database = Database(postgres_url, schema=schema)
    tables.upgrade(database)
    assert tables.check(database) == []
    with database.connect() as connection:
        found = connection.execute(text("select schemaname from pg_tables where tablename = 'leader_lease'")).scalars()
        assert found.all() == [schema]
        assert connection.execute(tables.run.select()).all() == []
    database.dispose()


def test_two_services_live_in_two_schemas_of_one_database(postgres_url: str) -> None:
    one, two = Database(postgres_url, schema="one"), Database(postgres_url, schema="two")
    assert tables.upgrade(one) == tables.upgrade(two) == (None, tables.HEAD)
    assert tables.check(one) == tables.check(two) == []
    for database in (one, two):
        database.dispose()


def test_a_person_who_makes_the_tables_without_our_lock_is_waited_for(postgres_url: str) -> None:
    """`CREATE … IF NOT EXISTS` fails with UniqueViolation here: the names are taken by what we cannot see yet."""
    database = Database(postgres_url)
    answers: list[tuple[str | None, str]] = []
    upgrading = threading.Thread(target=lambda: answers.append(tables.upgrade(database)))
    with (
        psycopg.connect(postgres_url, autocommit=True) as person,
        psycopg.connect(postgres_url, autocommit=True) as observer,
    ):
        person.execute(tables.upgrade_sql("postgresql").replace("\ncommit;", "").encode())
        upgrading.start()
        wait_until(lambda: observer.execute(BLOCKED).fetchone() == (1,))
        person.execute("commit")
        upgrading.join(30)
    assert answers == [(tables.HEAD, tables.HEAD)]
    assert tables.check(database) == []
    database.dispose()


def test_a_person_who_gives_up_leaves_the_tables_to_us(postgres_url: str) -> None:
    database = Database(postgres_url)
    answers: list[tuple[str | None, str]] = []
    upgrading = threading.Thread(target=lambda: answers.append(tables.upgrade(database)))
    with psycopg.connect(postgres_url) as person:
        person.execute("create schema scheduler")
        upgrading.start()
        with psycopg.connect(postgres_url, autocommit=True) as observer:
            wait_until(lambda: observer.execute(BLOCKED).fetchone() == (1,))
        person.rollback()
        upgrading.join(30)
    assert answers == [(None, tables.HEAD)]
    database.dispose()


def test_a_reader_in_a_transaction_does_not_hold_the_upgrade_back(postgres_url: str) -> None:
    database = Database(postgres_url)
    with psycopg.connect(postgres_url) as reader:
        reader.execute("select * from pg_class, pg_namespace limit 1")
        assert tables.upgrade(database, wait_seconds=5) == (None, tables.HEAD)
    database.dispose()


@pytest.mark.parametrize("table", ["leader_lease", "run", "run_attempt"])
def test_an_upgrade_that_waits_for_a_table_does_not_keep_the_leader_from_renewing(
    postgres_url: str, table: str
) -> None:
    """A backup or a person in a transaction holds the table; what queues behind our wait is the whole election."""
    database = Database(postgres_url)
    make_first_revision(database)
    answers: list[tuple[str | None, str]] = []
    upgrading = threading.Thread(target=lambda: answers.append(tables.upgrade(database)))
    with (
        psycopg.connect(postgres_url) as person,
        psycopg.connect(postgres_url, autocommit=True) as observer,
        psycopg.connect(postgres_url, autocommit=True) as leader,
    ):
        person.execute(f"select * from scheduler.{table}")
        upgrading.start()
        leader.execute("set statement_timeout = '2s'")  # an attempt of the election
        for _ in range(3):
            wait_until(lambda: observer.execute(BLOCKED).fetchone() == (1,))
            leader.execute("update scheduler.leader_lease set lease_seconds = 10")
        person.commit()
        upgrading.join(30)
    assert answers == [("0001", tables.HEAD)]
    database.dispose()


def test_an_upgrade_gives_up_on_a_table_that_stays_locked(postgres_url: str) -> None:
    database = Database(postgres_url)
    make_first_revision(database)
    with psycopg.connect(postgres_url) as person:
        person.execute("select * from scheduler.run")
        with pytest.raises(StoreUnavailable, match="have held tables of"):
            tables.upgrade(database, wait_seconds=1.5)
    assert tables.upgrade(database) == ("0001", tables.HEAD)
    database.dispose()


def test_a_wait_that_is_short_cuts_no_change_short(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(postgres_url)
    limits: list[str] = []
    run = scripts.run

    def look(connection: Connection, schema: str | None) -> None:
        limits.extend(connection.exec_driver_sql("show statement_timeout").scalars())
        run(connection, schema)

    monkeypatch.setattr(scripts, "run", look)
    assert tables.upgrade(database, wait_seconds=1.0) == (None, tables.HEAD)
    assert limits == ["27s"]
    database.dispose()


def test_a_role_that_may_make_no_schema_is_told_who_can(postgres_url: str, stranger: str) -> None:
    database = Database(stranger)
    with pytest.raises(StoreRefused, match=r'schema "scheduler" cannot be made .*permission denied.*db sql'):
        tables.upgrade(database)
    database.dispose()


def test_a_role_that_may_not_look_into_the_schema_is_told_so(postgres_url: str, stranger: str) -> None:
    owner, database = Database(postgres_url), Database(stranger)
    tables.upgrade(owner)
    with pytest.raises(StoreRefused, match="permission denied for schema scheduler"):
        tables.require_current(database)
    for one in (owner, database):
        one.dispose()


@pytest.mark.parametrize(
    "replacement",
    [
        "",
        "create index leader_lease_id_term on scheduler.leader_lease (id, term)",
        "create unique index leader_lease_id_term on scheduler.leader_lease (id, term) where term > 0",
        "create unique index leader_lease_id_term on scheduler.leader_lease (id, (term + 0))",
        "alter table scheduler.leader_lease add constraint leader_lease_id_term unique (id, term) deferrable",
    ],
)
def test_check_sees_that_the_fence_has_lost_its_index(migrated_postgres_url: str, replacement: str) -> None:
    database = Database(migrated_postgres_url)
    with database.connect() as connection:
        connection.exec_driver_sql("drop index scheduler.leader_lease_id_term")
        if replacement:
            connection.exec_driver_sql(replacement)
    assert any("a leader that was replaced could still write" in line for line in tables.check(database))
    database.dispose()


def test_the_lease_is_stored_as_the_election_needs_it(migrated_postgres_url: str) -> None:
    with psycopg.connect(migrated_postgres_url) as connection:
        assert connection.execute(
            "select reloptions from pg_class where oid = 'scheduler.leader_lease'::regclass"
        ).fetchone() == (["fillfactor=50"],)
        method = (
            "select amname from pg_class c join pg_am a on a.oid = c.relam where c.relname = 'leader_lease_expires_at'"
        )
        assert connection.execute(method).fetchone() == ("brin",)
        # A foreign key to the lease would lock its row with every check.
        keys = "select count(*) from pg_constraint where confrelid = 'scheduler.leader_lease'::regclass"
        assert connection.execute(keys).fetchone() == (0,)
