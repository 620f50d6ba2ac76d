"""What both databases promise alike."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import bindparam, exc, select, text

from scheduler_service import tables
from scheduler_service.database import Database, StoreConflict, StoreRefused, StoreUnavailable

MOMENT = datetime(2031, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)


def new_term(term: int) -> dict[str, object]:
    return {"lock_id": 1, "term": term, "leader_id": "me", "acquired_at": MOMENT}


def terms(database: Database) -> list[int]:
    with database.connect() as connection:
        return list(connection.execute(select(tables.leader_term.c.term).order_by("term")).scalars())


def test_each_statement_of_connect_commits_itself(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(tables.leader_term.insert(), new_term(1))
        assert terms(database) == [1]
        with pytest.raises(exc.IntegrityError):
            connection.execute(tables.leader_term.insert(), new_term(1))
        connection.execute(tables.leader_term.insert(), new_term(2))
    assert terms(database) == [1, 2]


def test_a_transaction_commits_at_its_end_and_not_before(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(tables.leader_term.insert(), new_term(1))
        assert terms(database) == []
    assert terms(database) == [1]


def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    def insert(second: Callable[[], int]) -> None:
        with database.transaction() as connection:
            connection.execute(tables.leader_term.insert(), new_term(1))
            connection.execute(tables.leader_term.insert(), new_term(second()))

    with pytest.raises(ZeroDivisionError):
        insert(lambda: 1 // 0)
    with pytest.raises(StoreConflict):
        insert(lambda: 1)
    assert terms(database) == []


def test_moments_come_back_as_they_were_sent(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(tables.leader_term.insert(), new_term(1))
        assert connection.execute(select(tables.leader_term.c.acquired_at)).scalar() == MOMENT
        query = text(f"select acquired_at from {database.prefix}leader_term where acquired_at = :at").bindparams(
            bindparam("at", MOMENT, tables.UtcMicroseconds())
        )
        assert connection.execute(query.columns(acquired_at=tables.UtcMicroseconds())).scalar() == MOMENT


def test_the_database_tells_its_time(database: Database) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)  # SQLite counts whole milliseconds
    with database.connect() as connection:
        told = connection.execute(select(tables.database_time())).scalar_one()
        as_text = text(f"select {tables.DATABASE_TIME[database.dialect]} as now")
        again = connection.execute(as_text.columns(now=tables.UtcMicroseconds())).scalar_one()
    assert before <= told <= again <= datetime.now(UTC)
    assert told.tzinfo is UTC


def test_a_driver_error_leaves_the_block_as_ours_with_the_drivers_as_its_cause(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(tables.leader_term.insert(), new_term(1))
    with pytest.raises(StoreConflict, match=r"(?i)unique") as raised, database.connect() as connection:
        connection.execute(tables.leader_term.insert(), new_term(1))
    assert type(raised.value.__cause__).__module__.split(".")[0] in ("psycopg", "sqlite3")
    with pytest.raises(StoreRefused, match="nowhere"), database.connect() as connection:
        connection.execute(text("select * from nowhere"))


def test_foreign_keys_hold(database: Database) -> None:
    row = {"run_id": 7, "attempt": 1, "term": 1, "instance_id": "i", "started_at": MOMENT, "state": "running"}
    with pytest.raises(StoreConflict), database.connect() as connection:
        connection.execute(tables.run_attempt.insert(), row)


def test_an_own_connection_commits_each_statement(database: Database) -> None:
    own = database.own_connection(name="elector")
    insert = tables.leader_term.insert().returning(tables.leader_term.c.term)
    result = own.execute(insert, new_term(1))
    assert terms(database) == [1]  # before a row is read
    assert result.scalar() == 1
    with pytest.raises(StoreConflict):
        own.execute(insert, new_term(1))
    assert not own.broken
    assert own.execute(insert, new_term(2)).scalar() == 2
    own.close()
    assert own.broken
    own.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        own.execute(insert, new_term(3))


def test_many_threads_share_few_connections(database: Database) -> None:
    def write(first: int) -> None:
        for term in range(first, first + 10):
            with database.transaction() as connection:
                connection.execute(tables.leader_term.insert(), new_term(term))

    threads = [threading.Thread(target=write, args=(10 * number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert terms(database) == list(range(120))


def test_a_pool_that_is_used_up_answers_in_time(store_url: str) -> None:
    database = Database(store_url, statement_seconds=0.3)
    lent = [database.connect() for _ in range(8)]
    for connection in lent:
        connection.__enter__()
    with pytest.raises(StoreUnavailable, match="no connection of the pool became free in time"), database.connect():
        pass
    for connection in lent:
        connection.__exit__(None, None, None)
    with database.connect() as connection:
        assert connection.execute(text("select 1")).scalar() == 1
    database.dispose()


def test_a_forked_child_shares_no_connection_with_its_parent(database: Database) -> None:
    own = database.own_connection()
    with database.connect() as connection:
        connection.execute(tables.leader_term.insert(), new_term(1))
    says, hears = os.pipe()[::-1]
    child = os.fork()
    if child == 0:
        # What the parent has is broken here; what the child opens is its own.
        answer = "unknown"
        try:
            with database.connect() as connection:
                connection.execute(tables.leader_term.insert(), new_term(2))
            answer = f"{own.broken} {terms(database)}"
        except BaseException as error:  # a child that goes on would run the rest of the tests
            answer = repr(error)
        finally:
            os.write(says, answer.encode())
            os._exit(0)
    os.close(says)
    with os.fdopen(hears) as pipe:
        assert pipe.read() == "True [1, 2]"
    os.waitpid(child, 0)
    assert own.execute(text("select 1")).scalar() == 1
    assert terms(database) == [1, 2]
    own.close()
