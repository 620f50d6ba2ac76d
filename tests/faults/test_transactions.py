"""Effects in the service's own database happen exactly once, though leaders are killed in the middle of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.evidence import Books
from tests.faults.fleet import Fleet
from tests.servers import PostgresServer

POLICIES = {"run": "payments:pay", "every": "200ms", "overlap": "queue", "on_crash": "rerun", "catch_up": "all"}
JOBS = {
    "thread": POLICIES,
    "process": {**POLICIES, "isolation": "process"},
    "again": {**POLICIES, "retry": {"attempts": 5, "delay": "50ms"}},
}


@pytest.fixture
def fleet(tmp_path: Path, own_server: PostgresServer) -> Iterator[Fleet]:
    """Three replicas whose jobs write rows."""
    books = Books(own_server.url)
    books.execute("create table public.payment (run_id bigint, attempt int, pid int)")
    with Fleet(tmp_path, own_server.url, JOBS) as fleet:
        fleet.start(3)
        yield fleet


def test_each_run_that_succeeded_left_one_row_and_no_other_run_left_any(
    fleet: Fleet, own_server: PostgresServer
) -> None:
    books = Books(own_server.url)

    def paid() -> int:
        return int(books.rows("select count(*) from public.payment")[0][0])

    def wait_for_more(count: int) -> None:
        wanted = paid() + count
        fleet.wait_until(lambda: paid() >= wanted)

    for _ in range(3):
        leader = fleet.leader()
        term = fleet.term(leader)
        wait_for_more(5)
        leader.kill()
        fleet.next_leader(term)
        fleet.start()
    wait_for_more(20)
    succeeded_jobs = "select count(distinct job_id) from {p}run where state = 'succeeded'"
    fleet.wait_until(lambda: books.rows(succeeded_jobs)[0][0] == len(JOBS))
    living = {replica.instance for replica in fleet.replicas if replica.alive}
    fleet.wait_until(lambda: books.open_holders() <= living)
    fleet.drain()
    succeeded = [row[0] for row in books.rows("select id from {p}run where state = 'succeeded' order by id")]
    rows = [row[0] for row in books.rows("select run_id from public.payment order by run_id")]
    assert rows == succeeded
    again = books.rows("select count(*) from {p}run where attempt > 1")[0][0]
    print(f"{len(rows)} rows, {again} runs that were started again")
