"""How much replicas ask of the database while nothing is due, from the server's own log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.faults.asking import SIGN_OF_LIFE, TALKING, listen
from tests.servers import PostgresServer

LEADER_A_SECOND, STANDBY_A_SECOND = 2.0, 1.0
ROUNDS = 3  # election, signs of life, and the leader's poll or the standby's guard


@pytest.fixture
def talking_server() -> Iterator[PostgresServer]:
    """A server that logs every statement."""
    with PostgresServer(TALKING) as server:
        yield server


def test_an_idle_standby_asks_once_a_second_and_an_idle_leader_twice(
    tmp_path: Path, talking_server: PostgresServer
) -> None:
    _measure(tmp_path, talking_server, {"jitter_range": "0s"}, seconds=12)


@pytest.mark.long
def test_with_the_default_settings_as_well_for_over_a_minute(tmp_path: Path, talking_server: PostgresServer) -> None:
    _measure(tmp_path, talking_server, {}, seconds=75)


def _measure(folder: Path, server: PostgresServer, election: Mapping[str, str], seconds: float) -> None:
    asked = listen(folder, server, election, seconds)
    print(asked.table())
    # However short the window, each of the rounds that go on in a replica may fall into it once more than its share.
    assert 0 < asked.leader.total() <= LEADER_A_SECOND * seconds + ROUNDS
    assert 0 < asked.standby.total() <= STANDBY_A_SECOND * seconds + ROUNDS
    writing = asked.written_by_standby
    assert writing
    assert all(SIGN_OF_LIFE in one and "update scheduler" not in one for one in writing), writing
