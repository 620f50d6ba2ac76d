"""Requests that meet another statement on the same row: whoever commits second sees what the first one did.

The first statement is held before its commit, so that the second certainly waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import select

from scheduler_service.database import Database
from scheduler_service.ledger.requests import CancelledRun, Paused, Requests, StopRequested, Triggered
from scheduler_service.model import Overlap
from scheduler_service.tables import job_state, run
from tests.contract.ledger_world import LOCK, ME, World, specs
from tests.waiting import wait_until

START = """
with started as (update scheduler.run set state = 'running', reason = null, attempt = 1, slot_held = true returning id)
insert into scheduler.run_attempt (run_id, attempt, term, instance_id, state, started_at)
select id, 1, 1, 'me-1', 'running', clock_timestamp() from started"""
RETRY = "update scheduler.run set state = 'waiting', reason = 'retry', slot_held = false"
CANCEL = "update scheduler.run set state = 'cancelled', reason = null, cancel_requested_at = clock_timestamp()"
SETTLE = "update scheduler.job_state set settled_until = clock_timestamp()"


class Race(World):
    """A ledger, people who ask, and a transaction that is held open before them."""

    def __init__(self, database: Database, url: str) -> None:
        super().__init__(database)
        self.requests = Requests(database, LOCK)
        self.first = psycopg.connect(url)
        self.onlooker = psycopg.connect(url, autocommit=True)
        self.threads = ThreadPoolExecutor(1)

    def behind(self, statement: str, ask: Callable[[], Any]) -> Future[Any]:
        """Execute `statement` without a commit, and let `ask` wait for it."""
        self.first.execute(statement)
        asked = self.threads.submit(ask)
        waiting = "select count(*) from pg_stat_activity where %s = any (pg_blocking_pids(pid))"
        pid = self.first.info.backend_pid
        wait_until(lambda: self.onlooker.execute(waiting, (pid,)).fetchone() == (1,))
        return asked

    def close(self) -> None:
        self.first.close()
        self.onlooker.close()
        self.threads.shutdown()


@pytest.fixture
def race(migrated_postgres_url: str) -> Iterator[Race]:
    database = Database(migrated_postgres_url, statement_seconds=60.0)
    race = Race(database, migrated_postgres_url)
    yield race
    race.close()
    database.dispose()


def test_a_cancel_behind_a_start_asks_the_run_to_stop(race: Race) -> None:
    (waiting,) = race.waiting_runs("a")
    asked = race.behind(START, lambda: race.requests.cancel(waiting.id, by="ann"))
    race.first.commit()
    answer = asked.result(60)
    assert isinstance(answer, StopRequested)
    assert race.row(run, id=waiting.id).state == "running"


def test_a_cancel_behind_a_start_that_comes_to_nothing_cancels_at_once(race: Race) -> None:
    (waiting,) = race.waiting_runs("a")
    asked = race.behind(START, lambda: race.requests.cancel(waiting.id, by="ann"))
    race.first.rollback()
    assert isinstance(asked.result(60), CancelledRun)


def test_a_cancel_behind_a_retry_keeps_the_run_from_starting_again(race: Race) -> None:
    attempt = race.started()
    asked = race.behind(RETRY, lambda: race.requests.cancel(attempt.run_id, by="ann"))
    race.first.commit()
    assert isinstance(asked.result(60), CancelledRun)


def test_a_start_behind_a_cancel_starts_nothing(race: Race) -> None:
    (waiting,) = race.waiting_runs("a")
    asked = race.behind(CANCEL, lambda: race.ledger.start(race.lease, "claim", [(waiting, 1)], 0.0))
    race.first.commit()
    assert asked.result(60) == []


def test_a_start_behind_another_starts_nothing(race: Race) -> None:
    (waiting,) = race.waiting_runs("a", overlap=Overlap.ALLOW)
    asked = race.behind(START, lambda: race.ledger.start(race.lease, "claim", [(waiting, None)], 0.0))
    race.first.commit()
    assert asked.result(60) == []


@pytest.mark.parametrize(
    "going_on",
    [
        f"""insert into scheduler.job_state (lock_id, job_id, schedule, timezone, enabled, accountable_from,
                                           settled_until, present_at)
           values ({LOCK}, 'new', 'manual', 'UTC', true, now(), now(), now())""",
        "update scheduler.job_state set enabled = false, settled_until = now() where job_id = 'a'",
        "update scheduler.job_state set enabled = true, settled_until = now() where job_id = 'off'",
    ],
    ids=["an adoption", "a settlement that disables", "a settlement that enables"],
)
def test_an_adoption_behind_a_statement_whose_answer_was_lost_notes_every_job(race: Race, going_on: str) -> None:
    race.adopt("a", "b")
    race.adopt("off", enabled=False)
    adopted = race.behind(going_on, lambda: race.ledger.adopt(race.lease, specs("a", "b", "off", "new")))
    race.first.commit()
    assert adopted.result(60) is not None
    assert len({row.present_at for row in race.execute(select(job_state.c.present_at))}) == 1


def test_a_pause_behind_a_settlement_begins_after_what_is_settled(race: Race) -> None:
    race.adopt("a")
    asked = race.behind(SETTLE, lambda: race.requests.pause("a", by="ann"))
    race.first.execute(SETTLE)  # later than the pause was asked for
    race.first.commit()
    answer = asked.result(60)
    assert isinstance(answer, Paused)
    assert answer.at > race.row(job_state, job_id="a").settled_until


@pytest.mark.parametrize("committed", [True, False])
def test_a_key_behind_its_own_first_use_is_the_same_run_if_there_is_one(race: Race, committed: bool) -> None:
    race.adopt("a")
    statement = f"""
      insert into scheduler.run (lock_id, job_id, scheduled_at, due_at, kind, state, decided_at, request_key)
      values ({LOCK}, 'a', now(), now(), 'manual', 'waiting', now(), 'k')"""
    asked = race.behind(statement, lambda: race.requests.trigger("a", by="ann", key="k"))
    (race.first.commit if committed else race.first.rollback)()
    answer = asked.result(60)
    assert isinstance(answer, Triggered)
    assert answer.new is not committed


@pytest.mark.parametrize("end", ["lost", "signed out"])
def test_a_loss_behind_a_cancel_does_not_run_the_run_again(race: Race, end: str) -> None:
    attempt = race.started()
    asked = "update scheduler.run set cancel_requested_at = clock_timestamp(), cancel_requested_by = 'ann'"
    again = {"a": 3}
    closes: dict[str, Callable[[], Any]] = {
        "lost": lambda: race.ledger.mark_lost(race.lease, ME, None, again),
        "signed out": lambda: race.ledger.sign_out(ME, again),
    }
    closed = race.behind(asked, closes[end])
    race.first.commit()
    closed.result(60)
    # Waiting, it would never be started nor end: the job would have an open run for ever.
    assert race.row(run, id=attempt.run_id).state == "lost"


def test_a_run_that_is_tried_again_after_all_is_not_pruned(race: Race) -> None:
    attempt = race.started()
    race.ledger.mark_lost(race.lease, ME, None, {})
    pruned = race.behind(RETRY, lambda: race.ledger.prune(race.lease, ["a"], timedelta(0), 0, 100))
    race.first.commit()
    assert pruned.result(60).count == 0
    assert race.row(run, id=attempt.run_id).state == "waiting"
