"""Making and migrating the tables, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import inspect, select, text

from scheduler_service import tables
from scheduler_service.database import Database, StoreRefused, StoreUnavailable
from scheduler_service.tables import scripts
from tests.first_revision import make_first_revision

UPGRADE = """
import os, sys
import alembic.command
from scheduler_service import tables
from scheduler_service.database import Database
gate, holding = os.pipe()
children = []
for _ in range(4):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(holding)
        os.read(gate, 1)  # returns when nobody holds it any more, to all of them at once
        print(*tables.upgrade(Database(sys.argv[1])), flush=True)
        sys.exit()
os.close(holding)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.dispose()


def set_revision(database: Database, revision: str) -> None:
    with database.connect() as connection:
        connection.execute(text(f"update {database.prefix}alembic_version set version_num = :it"), {"it": revision})


def test_the_revision_that_the_code_expects_is_the_newest_script() -> None:
    assert scripts.known_revisions()[0] == tables.HEAD


def test_an_empty_database_has_no_revision(empty: Database) -> None:
    assert tables.current_revision(empty) is None
    assert tables.check(empty) == ["there are no tables: run `scheduler-service db upgrade`"]


def test_upgrade_makes_exactly_the_tables_that_the_code_expects(empty: Database) -> None:
    assert tables.upgrade(empty) == (None, tables.HEAD)
    assert tables.current_revision(empty) == tables.HEAD
    assert tables.check(empty) == []
    schema = empty.schema_or_none
    with empty.connect() as connection:
        names = set(inspect(connection).get_table_names(schema=schema))
    assert names == {table.name for table in tables.metadata().sorted_tables} | {"alembic_version"}


def test_a_second_upgrade_does_nothing(empty: Database) -> None:
    tables.upgrade(empty)
    assert tables.upgrade(empty) == (tables.HEAD, tables.HEAD)
    tables.require_current(empty)


def test_a_current_schema_is_recognised_without_importing_alembic(store_url: str) -> None:
    program = (
        "import sys\n"
        "from scheduler_service import tables\n"
        "from scheduler_service.database import Database\n"
        "database = Database(sys.argv[1])\n"
        "tables.upgrade(database); tables.require_current(database)\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, store_url], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_four_processes_that_start_on_an_empty_database_at_once_all_succeed(empty: Database, empty_url: str) -> None:
    command = [sys.executable, "-c", UPGRADE, empty_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == 4
    assert set(answers) <= {f"None {tables.HEAD}", f"{tables.HEAD} {tables.HEAD}"}
    assert answers.count(f"None {tables.HEAD}") == 1
    assert tables.check(empty) == []


def test_a_run_in_flight_keeps_its_slot_through_an_upgrade(empty: Database) -> None:
    make_first_revision(empty)
    prefix, now = empty.prefix, tables.DATABASE_TIME[empty.dialect]
    with empty.connect() as connection:
        for exclusive in ("true", "false"):
            connection.exec_driver_sql(
                f"insert into {prefix}run (lock_id, job_id, scheduled_at, due_at, kind, state, exclusive, slot_held,"
                f" decided_at) values (1, 'j', {now}, {now}, 'manual', 'running', {exclusive}, true, {now})"
            )
    assert tables.upgrade(empty) == ("0001", tables.HEAD)
    assert tables.check(empty) == []
    with empty.connect() as connection:
        assert connection.execute(select(tables.run.c.slot).order_by(tables.run.c.id)).scalars().all() == [0, None]


def test_a_schema_of_a_later_version_is_refused_with_what_to_do(database: Database) -> None:
    set_revision(database, "9999")
    for refuse in (tables.upgrade, tables.require_current):
        with pytest.raises(
            StoreRefused, match=r"is at revision 9999, which scheduler_service .* a later version made it"
        ):
            refuse(database)
    assert tables.check(database) == [f"revision: 9999, expected {tables.HEAD}"]


def test_a_database_without_tables_is_refused_where_none_may_be_made(empty: Database) -> None:
    with pytest.raises(StoreRefused, match="has none of our tables: run `scheduler-service db upgrade`"):
        tables.require_current(empty)


def test_tables_of_somebody_else_are_left_alone(empty: Database) -> None:
    with empty.transaction() as connection:
        if empty.dialect == "postgresql":
            connection.exec_driver_sql("create schema scheduler")
        connection.exec_driver_sql(f"create table {empty.prefix}run (mine int)")
    with pytest.raises(StoreRefused, match="are in the way"):
        tables.upgrade(empty)
    with empty.connect() as connection:
        assert connection.exec_driver_sql(f"select mine from {empty.prefix}run").all() == []
    assert tables.current_revision(empty) is None


def test_upgrade_waits_for_a_session_that_holds_a_transaction_open(empty: Database, empty_url: str) -> None:
    """A replica in the middle of its own upgrade: the lock is held, and nothing of it can be seen yet."""
    first, second = Database(empty_url), Database(empty_url)
    answers: list[tuple[str | None, str]] = []
    waiting = threading.Thread(target=lambda: answers.append(tables.upgrade(second)))
    with first.transaction() as connection:
        if first.dialect == "postgresql":
            tables.revisions._take_lock(first, connection)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        if first.dialect == "postgresql":
            tables.revisions._make_schema(first, connection)
        scripts.run(connection, first.schema_or_none)
    waiting.join(30)
    assert answers == [(tables.HEAD, tables.HEAD)]
    for database in (first, second):
        database.dispose()


def test_upgrade_does_not_wait_for_ever(empty: Database, empty_url: str) -> None:
    other = Database(empty_url)
    with other.transaction() as connection:
        if other.dialect == "postgresql":
            tables.revisions._take_lock(other, connection)
        with pytest.raises(StoreUnavailable, match=r"has been changing|is locked") as refusal:
            tables.upgrade(empty, wait_seconds=1.0)
    assert not isinstance(refusal.value, StoreRefused)
    assert tables.upgrade(empty) == (None, tables.HEAD)
    other.dispose()


def test_an_upgrade_that_fails_half_way_leaves_nothing(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scripts.run

    def fail(*arguments: object) -> None:
        run(*arguments)
        raise RuntimeError("power cut")

    monkeypatch.setattr(scripts, "run", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        tables.upgrade(empty)
    assert tables.current_revision(empty) is None
    monkeypatch.undo()
    assert tables.upgrade(empty) == (None, tables.HEAD)


def test_check_names_what_differs(database: Database) -> None:
    with database.connect() as connection:
        for statement in (
            "drop table {}run_output",
            "drop index {}run_open",
            "drop index {}run_slot",
            "create index {}run_slot on {}run (lock_id)",
            "alter table {}run_attempt drop column result",
            "alter table {}run_attempt add column ours int not null default 0",
            "alter table {}replica add column theirs text",
        ):
            where = statement
            if "create index {}" in where and database.dialect == "postgresql":
                where = where.replace("{}", "", 1)  # an index lives where its table does
            connection.exec_driver_sql(where.replace("{}", database.prefix))
    assert sorted(tables.check(database)) == [
        "run: the index run_open is missing",
        "run: the index run_slot is (lock_id), expected unique (lock_id, job_id) where …",
        "run_attempt.result: the column is missing",
        "run_output: the table is missing",
    ]


def test_the_sql_for_a_person_makes_the_same_tables(empty: Database, empty_url: str) -> None:
    script = tables.upgrade_sql(empty.dialect)
    if empty.dialect == "sqlite":
        import sqlite3

        with empty.connect():  # makes the file
            pass
        connection = sqlite3.connect(empty_url.removeprefix("sqlite:///"))
        connection.executescript(script)
        connection.close()
    else:
        import psycopg

        with psycopg.connect(empty_url, autocommit=True) as session:
            session.execute(script.encode())
    assert tables.check(empty) == []
    assert tables.upgrade(empty) == (tables.HEAD, tables.HEAD)


def test_ids_of_attempts_are_never_given_again(database: Database) -> None:
    prefix = database.prefix
    now = tables.DATABASE_TIME[database.dialect]
    new_run = (
        f"insert into {prefix}run (lock_id, job_id, scheduled_at, due_at, kind, state, decided_at)"
        f" values (1, 'j', {now}, {now}, 'manual', 'waiting', {now}) returning id"
    )
    new_attempt = (
        f"insert into {prefix}run_attempt (run_id, attempt, term, instance_id, started_at, state)"
        f" values (:run, 1, 1, 'i', {now}, 'running') returning id"
    )
    with database.connect() as connection:
        ids = []
        for _ in range(3):
            run_id = connection.execute(text(new_run)).scalar_one()
            ids.append(connection.execute(text(new_attempt), {"run": run_id}).scalar_one())
            connection.execute(text(f"delete from {prefix}run where id = :run"), {"run": run_id})
        assert ids == [1, 2, 3]
        assert connection.execute(text(f"select count(*) from {prefix}run_attempt")).scalar() == 0
