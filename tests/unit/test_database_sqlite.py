"""SQLite files: where they may be, how they are opened, and how long a writer waits."""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from scheduler_service.database import Database, StoreRefused, StoreUnavailable
from scheduler_service.database import sqlite as driver
from scheduler_service.tables import database_time


def settings(database: Database) -> dict[str, object]:
    with database.connect() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return {name: connection.exec_driver_sql(f"pragma {name}").scalar() for name in names}


def test_a_file_is_opened_for_many_readers_and_a_writer_that_forgets_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db", statement_seconds=2.0)
    assert settings(database) == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 1800}
    database.dispose()


def test_a_relative_path_is_taken_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database("sqlite:///x.db")
    with database.connect():
        pass
    assert (tmp_path / "x.db").exists()
    database.dispose()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/missing/x.db")
    with pytest.raises(StoreRefused, match=r"the folder .*/missing of the database does not exist: create it"):
        settings(database)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="is a folder: name a file in it"):
        settings(Database(f"sqlite:///{tmp_path}"))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is not a database, though it is long enough to be mistaken for one" * 20)
    with pytest.raises(StoreRefused, match="file is not a database"):
        settings(Database(f"sqlite:///{tmp_path}/x.db"))


def test_an_old_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreRefused, match=r"is too old: scheduler_service needs 3\.35 or later"):
        settings(Database(f"sqlite:///{tmp_path}/x.db"))


def test_a_writer_waits_for_another_one_but_not_for_ever(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db", statement_seconds=0.2)
    with database.transaction() as connection:
        connection.exec_driver_sql("create table t (a int)")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked"), database.transaction():
            pass
        assert 0.1 < time.monotonic() - began < 5
        with pytest.raises(StoreUnavailable, match="locked"), database.transaction(seconds=0.01):
            pass
    # the shorter wait was for that one transaction
    assert settings(database)["busy_timeout"] == 180
    database.dispose()


def test_a_result_that_nobody_reads_holds_nothing_back(tmp_path: Path) -> None:
    """An open cursor keeps its snapshot, and a write after another one's would be refused."""
    one, two = (Database(f"sqlite:///{tmp_path}/x.db", attempt_seconds=0.2) for _ in range(2))
    first, second = one.own_connection(), two.own_connection()
    first.execute(text("create table t (a int)"))
    first.execute(text("insert into t values (1), (2), (3)"))
    unread = first.execute(text("select a from t"))
    assert second.execute(text("insert into t values (4) returning a")).scalar() == 4
    first.execute(text("insert into t values (5)"))
    assert unread.scalars().all() == [1, 2, 3]
    for own in (first, second):
        own.close()


def test_a_cursor_hands_out_its_rows_like_any_other(tmp_path: Path) -> None:
    connection = driver.connect((str(tmp_path / "x.db"),), {}, answer_seconds=1.0)
    cursor = connection.execute("select value from json_each('[1, 2, 3, 4, 5, 6]')")
    assert cursor.fetchone() == (1,)
    assert cursor.fetchmany(2) == [(2,), (3,)]
    assert next(iter(cursor)) == (4,)
    assert cursor.fetchall() == [(5,), (6,)]
    assert cursor.fetchone() is None
    connection.close()


def test_a_database_in_memory_is_for_simulations_alone() -> None:
    with pytest.raises(StoreRefused, match="one connection only"):
        Database("sqlite://")
    with pytest.raises(StoreRefused, match="its URL is sqlite://"):
        Database("sqlite:///scheduler.db", simulated_time=lambda: datetime(2026, 5, 5, tzinfo=UTC))


def test_in_a_simulation_it_is_the_moment_that_it_says_to_the_millisecond() -> None:
    now = datetime(1999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
    database = Database("sqlite://", simulated_time=lambda: now)
    for _ in range(3):
        now += timedelta(milliseconds=2_600_000_001)  # about a month
        with database.connect() as connection:
            assert connection.execute(select(database_time())).scalar_one() == now
    own = database.own_connection()
    assert own.execute(select(database_time())).scalar_one() == now
    database.dispose()


def test_own_and_pooled_connections_of_a_simulation_see_the_same_tables() -> None:
    database = Database("sqlite://", simulated_time=lambda: datetime(2026, 5, 5, tzinfo=UTC))
    database.own_connection().execute(text("create table one (id integer)"))
    with database.connect() as connection:
        assert connection.execute(text("select count(*) from one")).scalar_one() == 0
    database.dispose()
