"""Where commits wait for a synchronous standby, what it has not got is not taken for done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from scheduler_service import tables
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.model import Attempt, Run
from tests.contract.ledger_world import World
from tests.relay import Relay
from tests.servers import PostgresServer
from tests.standbys import StandbyServer, require_the_standby
from tests.waiting import wait_until


@dataclass
class Pair:
    """A ledger on a primary whose commits wait for a standby, and the line between the two."""

    world: World
    primary: PostgresServer
    line: Relay


@pytest.fixture
def pair(own_server: PostgresServer) -> Iterator[Pair]:
    database = Database(own_server.url, statement_seconds=1.0)
    tables.upgrade(database)
    with Relay(own_server.url) as line, StandbyServer(line.url):
        require_the_standby(own_server)
        yield Pair(World(database), own_server, line)
        line.heal()
        database.dispose()


def test_a_start_that_the_standby_has_not_got_is_not_begun_although_it_can_be_seen(pair: Pair) -> None:
    ledger = pair.world.ledger
    (waiting,) = pair.world.waiting_runs()
    pair.line.stall()
    with pytest.raises(StoreUnavailable):
        ledger.start(pair.world.lease, "claim", [(waiting, 1)], 1.0)
    with pair.primary.connect() as connection:
        # The session waits for the standby, committed.  Its end makes visible what it did.
        ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'"
        assert connection.execute(ended).fetchone() == (1,)
        seen = "select count(*) from scheduler.run_attempt where claim_id = 'claim' and state = 'running'"
        wait_until(lambda: connection.execute(seen).fetchone() == (1,))
    with pytest.raises(StoreUnavailable):
        ledger.claimed("claim", [waiting], 1.0)
    pair.line.heal()
    (attempt,) = _once_it_answers(pair, waiting)
    assert attempt.run_id == waiting.id


def _once_it_answers(pair: Pair, waiting: Run) -> list[Attempt]:
    answers: list[list[Attempt]] = []

    def answered() -> bool:
        with contextlib.suppress(StoreUnavailable):
            answers.append(pair.world.ledger.claimed("claim", [waiting], 1.0))
        return bool(answers)

    wait_until(answered)
    return answers[0]
