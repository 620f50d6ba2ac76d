"""A job's own rows and its run's success: together, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, column, insert, table, text, update
from sqlalchemy.exc import IntegrityError

from scheduler_service.database import Database, StoreRefused, StoreUnavailable
from scheduler_service.ledger import Finished, transactions
from scheduler_service.ledger.transactions import RunOverError, job_transaction
from scheduler_service.model import Attempt, State
from scheduler_service.tables import run, run_attempt
from tests.contract.ledger_world import ME, World, outcome

own = table("own", column("name"))


@pytest.fixture
def world(migrated_postgres_url: str) -> Iterator[World]:
    database = Database(migrated_postgres_url)
    world = World(database)
    world.execute(text("create table public.own (name text unique)"))
    yield world
    database.dispose()


def names(world: World) -> list[str]:
    return [row.name for row in world.execute(text("select name from public.own order by name"))]


def states(world: World, attempt: Attempt) -> tuple[str, str]:
    return world.row(run_attempt, id=attempt.id).state, world.row(run, id=attempt.run_id).state


def transaction(world: World, attempt: Attempt) -> AbstractContextManager[Connection]:
    return job_transaction(world.database, attempt.id, attempt.job_id, attempt.scheduled_at)


def test_the_jobs_rows_and_its_success_are_committed_together(world: World) -> None:
    attempt = world.started()
    with transaction(world, attempt) as connection:
        connection.execute(text("insert into own values ('a')"))
        connection.execute(insert(own).values(name="b"))
        assert names(world) == []
        assert states(world, attempt) == ("running", "running")
    assert names(world) == ["a", "b"]
    assert states(world, attempt) == ("succeeded", "succeeded")


def test_the_slot_is_held_until_the_function_has_returned(world: World) -> None:
    attempt = world.started()
    with transaction(world, attempt):
        pass
    assert world.row(run, id=attempt.run_id).slot_held
    world.ledger.finish([Finished(attempt, outcome(State.FAILED, error="after the block", output="words"))])
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("succeeded", False)


def test_what_the_job_raises_comes_out_as_it_is_and_nothing_is_kept(world: World) -> None:
    attempt = world.started()
    problem = ValueError("no")

    def spoiled() -> None:
        with transaction(world, attempt) as connection:
            connection.execute(insert(own).values(name="a"))
            raise problem

    with pytest.raises(ValueError, match=r"^no$") as caught:
        spoiled()
    assert caught.value is problem
    assert names(world) == []
    assert states(world, attempt) == ("running", "running")


def test_an_error_of_the_database_comes_out_as_sqlalchemys_and_nothing_is_kept(world: World) -> None:
    attempt = world.started()

    def twice() -> None:
        with transaction(world, attempt) as connection:
            connection.execute(insert(own).values(name="a"))
            connection.execute(insert(own).values(name="a"))

    with pytest.raises(IntegrityError):
        twice()
    assert names(world) == []
    assert states(world, attempt) == ("running", "running")


def test_a_savepoint_lets_a_job_go_on_after_an_error(world: World) -> None:
    attempt = world.started()
    with transaction(world, attempt) as connection:
        connection.execute(insert(own).values(name="a"))
        with pytest.raises(IntegrityError), connection.begin_nested():
            connection.execute(insert(own).values(name="a"))
        connection.execute(insert(own).values(name="b"))
    assert names(world) == ["a", "b"]
    assert states(world, attempt) == ("succeeded", "succeeded")


@pytest.mark.parametrize("over", ["lost", "cancelled", "timed out"])
def test_nothing_is_kept_of_a_run_that_is_over(world: World, over: str) -> None:
    attempt = world.started()

    def end() -> None:
        if over == "lost":
            world.ledger.mark_lost(world.lease, ME, None, {"a": 5})
        elif over == "cancelled":
            world.execute(update(run).values(cancel_requested_at=world.now()))
        else:
            world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, returned=False))])

    def late() -> None:
        with transaction(world, attempt) as connection:
            connection.execute(insert(own).values(name="a"))
            end()

    with pytest.raises(RunOverError):
        late()
    assert names(world) == []
    assert states(world, attempt)[0] == {"lost": "lost", "cancelled": "running", "timed out": "timed_out"}[over]


def test_a_newer_attempt_is_not_touched_by_the_transaction_of_an_older_one(world: World) -> None:
    attempt = world.started()
    world.ledger.mark_lost(world.lease, ME, None, {"a": 5})
    newer = world.ledger.start(world.lease, "newer", [(one, 1) for one in world.ledger.poll(1).runs], 0.0)
    assert newer is not None
    with pytest.raises(RunOverError), transaction(world, attempt) as connection:
        connection.execute(insert(own).values(name="a"))
    assert names(world) == []
    assert states(world, newer[0]) == ("running", "running")


def test_of_a_loss_and_a_commit_at_once_one_wins_and_the_other_gives_way(world: World) -> None:
    # The closing statement is parked before its commit; the loss waits for it and finds nothing to lose.
    attempt = world.started()
    lost: list[object] = []
    with world.database.transaction() as parked:
        statement = transactions._CLOSE.replace("{p}", world.database.prefix)
        tick = {"attempt_id": attempt.id, "job_id": attempt.job_id, "scheduled_at": attempt.scheduled_at}
        assert parked.execute(text(statement), tick).fetchall()
        loser = threading.Thread(
            target=lambda: lost.append(world.ledger.mark_lost(world.lease, ME, None, {"a": 5})), daemon=True
        )
        loser.start()
        while not world.execute(text("select 1 from pg_stat_activity where wait_event_type = 'Lock'")):
            assert loser.is_alive()
    loser.join()
    assert lost == [[]]
    assert states(world, attempt) == ("succeeded", "succeeded")


def test_a_job_that_ends_the_transaction_itself_is_told(world: World) -> None:
    attempt = world.started()

    def hasty() -> None:
        with transaction(world, attempt) as connection:
            connection.execute(insert(own).values(name="a"))
            connection.exec_driver_sql("commit")

    with pytest.raises(RuntimeError, match="leave the end"):
        hasty()
    assert states(world, attempt) == ("running", "running")


def test_a_job_that_goes_silent_in_the_block_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "IDLE_SECONDS", 0.05)
    attempt = world.started()
    session: list[int] = []

    def silent() -> None:
        with transaction(world, attempt) as connection:
            session.append(connection.exec_driver_sql("select pg_backend_pid()").scalar_one())
            connection.execute(insert(own).values(name="a"))
            while world.execute(text(f"select 1 from pg_stat_activity where pid = {session[0]}")):
                pass

    with pytest.raises(StoreUnavailable):
        silent()
    assert names(world) == []
    assert states(world, attempt) == ("running", "running")


def test_the_jobs_silence_holds_nobody_up(world: World) -> None:
    attempt = world.started()
    with transaction(world, attempt) as connection:
        connection.execute(insert(own).values(name="a"))
        world.lease = world.elect("other-2", 2)
        assert world.ledger.adopt(world.lease, []) is not None
        waiting = world.execute(text("select 1 from pg_stat_activity where wait_event_type = 'Lock'"))
        assert waiting == []
    assert states(world, attempt) == ("succeeded", "succeeded")


def test_sqlite_refuses_and_says_why(migrated_sqlite_url: str) -> None:
    database = Database(migrated_sqlite_url)
    with pytest.raises(StoreRefused, match="PostgreSQL only"), job_transaction(database, 1, "a", datetime.now(UTC)):
        pass
    database.dispose()


def test_a_forgotten_run_does_not_end_another_that_was_given_its_number(world: World) -> None:
    attempt = world.started()
    forgotten = replace(attempt, scheduled_at=attempt.scheduled_at - timedelta(minutes=1))
    with pytest.raises(RunOverError), transaction(world, forgotten) as connection:
        connection.execute(insert(own).values(name="a"))
    assert names(world) == []
    assert states(world, attempt) == ("running", "running")
