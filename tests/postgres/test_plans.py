"""However runs are filtered, no answer walks through a history, not even one that finds nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from scheduler_service import tables
from scheduler_service.database import Database
from scheduler_service.ledger import open_ledger
from scheduler_service.ledger.history import Chosen, History
from scheduler_service.model import Kind, Lease, State
from scheduler_service.tables import job_state

LOCK_ID = 7
LIMIT = 20
# Twice 20,000 rows, of two jobs: `steady` was started by its schedule and went well each time; `troubled` was
# triggered, and is all that others never are.
SEED = """
insert into {p}run (lock_id, job_id, scheduled_at, until, due_at, kind, state, decided_at)
  select 7, 'steady', at, null::timestamptz, at, 'scheduled', 'succeeded', at from (
    select now() - n * interval '2 seconds' as at from generate_series(1, 20000) n) ticks
  union all
  select 7, 'troubled', at, case when n % 2 = 0 then at + interval '500 milliseconds' end, at,
      case when n % 2 = 0 then 'range' else 'manual' end,
      case when n % 2 = 0 then 'skipped' when n % 4 = 1 then 'failed' else 'succeeded' end, at
    from (select n, now() - n * interval '2 seconds' as at from generate_series(1, 20000) n) ticks
"""
FILTERS = list(
    itertools.product(
        (None, "steady", "troubled", "nobody"),
        (None, State.FAILED, State.LOST, State.SKIPPED, State.WAITING, State.RUNNING),
        (None, Kind.MANUAL, Kind.RANGE, Kind.CATCH_UP),
        (None, timedelta(hours=3)),
    )
)


@pytest.fixture
def history(migrated_postgres_url: str) -> Iterator[History]:
    database = Database(migrated_postgres_url)
    with database.connect() as connection:
        connection.execute(text(SEED.format(p=database.prefix)))
        connection.execute(text(f"vacuum analyze {database.prefix}run"))
    yield History(database, LOCK_ID)
    database.dispose()


@contextmanager
def asked_of(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements that are asked."""
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        asked.append((statement, parameters))

    with database.connect():
        (engine,) = database._engines.values()
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


def walked(node: Mapping[str, Any]) -> int:
    """Return how many rows were looked at below a node of a plan."""
    own = 0
    if node["Node Type"] in {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"}:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        own = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return int(own) + sum(walked(below) for below in node.get("Plans", ()))


def _indexes(node: Mapping[str, Any]) -> list[str]:
    own = [str(node.get("Index Name", node["Node Type"]))] if "Scan" in node["Node Type"] else []
    return own + [name for below in node.get("Plans", ()) for name in _indexes(below)]


def explained(database: Database, asked: list[tuple[str, Any]]) -> Mapping[str, Any]:
    """Return the plan of the last statement that was asked, as it was executed."""
    statement, parameters = asked[-1]
    with database.connect() as connection:
        (plan,) = connection.exec_driver_sql(f"explain (analyze, format json) {statement}", parameters).scalar_one()
    found: Mapping[str, Any] = plan["Plan"]
    return found


def test_a_new_leader_looks_at_each_job_of_a_new_table_a_few_times(migrated_postgres_url: str) -> None:
    database, count = Database(migrated_postgres_url), 1000
    with database.connect() as connection:  # without statistics: nothing has looked at the tables yet
        for statement in (
            "alter table {p}job_state set (autovacuum_enabled = off)",
            "alter table {p}run set (autovacuum_enabled = off)",
            f"""insert into {{p}}job_state
                  (lock_id, job_id, schedule, timezone, enabled, accountable_from, settled_until, present_at)
                select {LOCK_ID}, 'job-' || n, 'every 1m', 'UTC', true, now(), now(), now()
                  from generate_series(1, {count}) n""",
            f"""insert into {{p}}run (lock_id, job_id, scheduled_at, due_at, kind, state, decided_at)
                select {LOCK_ID}, 'job-' || n, now(), now(), 'scheduled', 'waiting', now()
                  from generate_series(1, {count}) n""",
        ):
            connection.execute(text(statement.format(p=database.prefix)))
    ledger = open_ledger(database, LOCK_ID)
    with asked_of(database) as asked:
        states, survey = ledger.recall(count)
    assert len(states) == len(survey.open_runs) == count
    plan = explained(database, asked)
    assert walked(plan) < 10 * count, _indexes(plan)
    database.dispose()


def test_every_filter_of_runs_looks_at_few_rows(history: History) -> None:
    database, now = history._database, history.now()
    long_walks = {}
    for job_id, state, kind, ago in FILTERS:
        chosen = Chosen(
            job_id=job_id,
            state=state,
            kinds=None if kind is None else (kind,),
            since=None if ago is None else now - ago,
        )
        with asked_of(database) as asked:
            history.run_page(chosen, limit=LIMIT)
        plan = explained(database, asked)
        if (count := walked(plan)) > 10 * LIMIT:
            long_walks[job_id, state, kind, ago] = count, _indexes(plan)
    assert long_walks == {}


def test_pruning_looks_at_few_rows_beside_those_that_are_kept(history: History) -> None:
    database, now, kept = history._database, history.now(), 1000
    jobs = ["steady", "troubled", *(f"quiet-{number:04}" for number in range(100))]
    with database.connect() as connection:
        rows = [
            {"lock_id": LOCK_ID, "job_id": job_id, "schedule": "every 2s", "timezone": "UTC", "enabled": True,
             "accountable_from": now, "settled_until": now, "present_at": now}
            for job_id in jobs
        ]  # fmt: skip
        connection.execute(insert(job_state), rows)
        connection.execute(text(f"vacuum analyze {database.prefix}job_state"))
    ledger, lease = open_ledger(database, LOCK_ID), leading(database, now)
    with asked_of(database) as asked:
        answer = ledger.prune(lease, jobs[:25], timedelta(days=365), kept, 500)
    assert answer is not None
    assert (answer.count, sorted(answer.busy)) == (100, ["steady", "troubled"])
    (chosen,) = (part for part in explained(database, asked)["Plans"] if part.get("Subplan Name") == "CTE old")
    assert walked(chosen) < len(jobs) + 2 * (kept + 1 + 50) + LIMIT, _indexes(chosen)


def leading(database: Database, now: datetime) -> Lease:
    with database.connect() as connection:
        connection.execute(
            text(
                f"""insert into {database.prefix}leader_lease
                      (id, leader_id, term, created_at, expires_at, lease_seconds)
                    values (:lock_id, 'me', 1, now(), now() + interval '1 hour', 3600)"""
            ),
            {"lock_id": LOCK_ID},
        )
    return Lease(LOCK_ID, "me", 1, now, float("inf"))


@pytest.mark.parametrize(
    ("chosen", "index"),
    [
        (Chosen(job_id="steady", state=State.FAILED), "run_job_unusual (lock_id=? AND job_id=? AND state=?)"),
        (Chosen(state=State.LOST), "run_unusual (lock_id=? AND state=?)"),
        (Chosen(job_id="steady", kinds=(Kind.MANUAL,)), "run_job_kind (lock_id=? AND job_id=? AND kind=?)"),
        (Chosen(state=State.LOST, kinds=(Kind.MANUAL,)), "run_kind_unusual (lock_id=? AND kind=? AND state=?)"),
    ],
)
def test_rare_runs_have_their_index_on_sqlite_too(migrated_sqlite_url: str, chosen: Chosen, index: str) -> None:
    database = Database(migrated_sqlite_url)
    tables.require_current(database)
    history = History(database, LOCK_ID)
    with asked_of(database) as asked:
        history.run_page(chosen, limit=LIMIT)
        if chosen.kinds is None:  # as the command asks
            history.runs(job_id=chosen.job_id, state=chosen.state, limit=LIMIT)
    for statement, parameters in asked:
        with database.connect() as connection:
            plan = connection.exec_driver_sql(f"explain query plan {statement}", parameters).all()
        assert any(f"INDEX {index}" in step.detail for step in plan), plan
    database.dispose()
