"""The least rights that a replica needs: it can run everything, and it cannot alter the schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import BigInteger, Boolean, Double, Integer, Table, insert, select, text

from scheduler_service import tables
from scheduler_service.database import Database, StoreRefused, StoreUnavailable
from scheduler_service.elector import Elector

ROLE = "scheduler_test_runtime"


@pytest.fixture
def runtime(postgres_url: str, make_role: Callable[[str], str]) -> Iterator[Database]:
    """The database as the owner has made it, seen by the runtime role."""
    url = make_role(ROLE)
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(tables.upgrade_sql("postgresql", role=ROLE).encode())
    database = Database(url)
    yield database
    database.dispose()


def some_row(table: Table) -> dict[str, object]:
    def value(column_type: object) -> object:
        if isinstance(column_type, tables.UtcMicroseconds):
            return datetime(2030, 1, 1, tzinfo=UTC)
        if isinstance(column_type, Boolean):
            return True
        return 1 if isinstance(column_type, BigInteger | Integer | Double) else "x"

    row = {
        column.name: value(column.type)
        for column in table.columns
        if not column.nullable and column.server_default is None and column.identity is None
    }
    return row | ({"expires_at": datetime(2031, 1, 1, tzinfo=UTC)} if table.name == "leader_lease" else {})


def test_the_runtime_role_reads_and_writes_every_table(runtime: Database) -> None:
    with runtime.connect() as connection:
        for table in tables.metadata().sorted_tables:
            connection.execute(insert(table), some_row(table))
        for table in tables.metadata().sorted_tables:
            column = list(table.columns)[-1]
            connection.execute(table.update().values({column: column}))
            assert len(connection.execute(select(table).with_for_update(key_share=True)).all()) == 1
        for table in reversed(tables.metadata().sorted_tables):
            assert connection.execute(table.delete()).rowcount == 1


def test_the_runtime_role_takes_terms_locks_and_tells_others(runtime: Database) -> None:
    own = runtime.own_connection()
    assert own.execute(text("select nextval('scheduler.leader_term_seq')")).scalar() == 1
    assert own.execute(text("select pg_try_advisory_lock(1, 2)")).scalar() is True
    assert own.execute(text("select pg_try_advisory_xact_lock_shared(1, 2)")).scalar() is True
    own.execute(text("select pg_advisory_unlock_all()"))
    own.execute(text("listen scheduler_1"))
    own.execute(text("select pg_notify('scheduler_1', 'released')"))
    assert own.notifications() == ("released",)
    assert own.execute(text("select pg_postmaster_start_time() <= clock_timestamp()")).scalar() is True
    own.close()


def test_the_runtime_role_can_start_the_service_and_check_the_schema(runtime: Database) -> None:
    tables.require_current(runtime)
    assert tables.upgrade(runtime) == (tables.HEAD, tables.HEAD)  # create_tables: true is no obstacle
    assert tables.check(runtime) == []


@pytest.mark.parametrize(
    "statement",
    [
        "drop table scheduler.run",
        "alter table scheduler.run add column x int",
        "create table scheduler.mine (a int)",
        "create index mine on scheduler.run (state)",
        "drop index scheduler.leader_lease_id_term",
        "truncate scheduler.leader_term",
        "alter sequence scheduler.leader_term_seq restart",
        "select setval('scheduler.leader_term_seq', 1)",
        "update scheduler.alembic_version set version_num = '9999'",
        "drop schema scheduler cascade",
        "create schema another",
        "create trigger mine before insert on scheduler.run execute function suppress_redundant_updates_trigger()",
    ],
)
def test_the_runtime_role_cannot_alter_the_schema(runtime: Database, statement: str) -> None:
    with pytest.raises(StoreRefused, match=r"permission denied|must be owner"), runtime.connect() as connection:
        connection.execute(text(statement))


def test_each_right_is_needed(runtime: Database, postgres_url: str) -> None:
    """A grant that nothing misses would be one too many."""
    takes = {
        "usage on schema scheduler": select(tables.run),
        "select on scheduler.run": select(tables.run),
        "insert on scheduler.replica": insert(tables.replica).values(some_row(tables.replica)),
        "update on scheduler.leader_lease": select(tables.leader_lease).with_for_update(key_share=True),
        "delete on scheduler.leader_lease": tables.leader_lease.delete(),
        "usage on sequence scheduler.leader_term_seq": text("select nextval('scheduler.leader_term_seq')"),
        "select on scheduler.alembic_version": text("select * from scheduler.alembic_version"),
    }
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        for right, statement in takes.items():
            with runtime.connect() as connection:
                connection.execute(statement)
            owner.execute(f"revoke {right} from {ROLE}".encode())
            with pytest.raises(StoreRefused, match="permission denied"), runtime.connect() as connection:
                connection.execute(statement)
            owner.execute(f"grant {right} to {ROLE}".encode())


def test_an_elector_that_was_given_a_url_leads_with_these_rights(
    postgres_url: str, make_role: Callable[[str], str]
) -> None:
    url = make_role(ROLE)
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(tables.upgrade_sql("postgresql", role=ROLE).encode())
    with Elector(url) as elector:
        assert elector.wait_elected(20) is not None, elector.problem


def test_a_wrong_revision_is_not_migrated_by_a_role_that_may_not(runtime: Database, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("delete from scheduler.alembic_version")
    with pytest.raises(StoreRefused) as refusal:
        tables.upgrade(runtime)
    assert isinstance(refusal.value, StoreUnavailable)
    assert "have its owner run `scheduler-service db upgrade`" in str(refusal.value)
