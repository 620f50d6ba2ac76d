"""How much replicas ask of the database while nothing is due, from the server's own log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults.evidence import Books
from tests.faults.fleet import LIMIT_SECONDS, Fleet
from tests.servers import PostgresServer

LEADER_A_SECOND, STANDBY_A_SECOND = 2.0, 1.0
ROUNDS = 3  # election, signs of life, and the leader's poll or the standby's guard
SIGN_OF_LIFE = "insert into scheduler.replica"
IDLE_JOBS = {f"job-{number}": {"run": "tally:nothing", "cron": "@yearly"} for number in range(20)}
_LINE = re.compile(r"^\S+ \S+ UTC \[\d+\] (?P<who>\S*): LOG:  (?:statement|execute [^:]+): (?P<statement>.*)$")


@pytest.fixture
def talking_server() -> Iterator[PostgresServer]:
    """A server that logs every statement."""
    with PostgresServer({"log_statement": "all"}) as server:
        yield server


def test_an_idle_standby_asks_once_a_second_and_an_idle_leader_twice(
    tmp_path: Path, talking_server: PostgresServer
) -> None:
    _measure(tmp_path, talking_server, {"jitter_range": "0s"}, seconds=12)


@pytest.mark.long
def test_with_the_default_settings_as_well_for_over_a_minute(tmp_path: Path, talking_server: PostgresServer) -> None:
    _measure(tmp_path, talking_server, {}, seconds=75)


def _measure(folder: Path, server: PostgresServer, election: Mapping[str, str], seconds: float) -> None:
    books = Books(server.url)
    with Fleet(folder, f"{server.url}?application_name=${{REPLICA}}", IDLE_JOBS, election=election) as fleet:
        (leader,) = fleet.start()
        (standby,) = fleet.start()
        fleet.wait_until(lambda: books.settled_until() is not None)
        # Both have done what is done once: each has signed in twice.
        seen = "select count(*) from {p}replica where seen_at > started_at"
        fleet.wait_until(lambda: books.rows(seen)[0][0] == 2)
        position = len(server.log)
        until = books.now() + timedelta(seconds=seconds)
        fleet.wait_until(lambda: books.now() >= until, poll_seconds=0.5, limit_seconds=seconds + LIMIT_SECONDS)
        said = list(_statements(server.log[position:]))
        fleet.drain()
        assert not fleet.strange_deaths()

    of_leader, of_standby = (
        Counter(statement for who, statement in said if who == f"replica-{one.number}") for one in (leader, standby)
    )
    print(f"\nin {seconds:g} s" + _table("leader", of_leader, seconds) + _table("standby", of_standby, seconds))
    # However short the window, each of the rounds that go on in a replica may fall into it once more than its share.
    assert 0 < of_leader.total() <= LEADER_A_SECOND * seconds + ROUNDS
    assert 0 < of_standby.total() <= STANDBY_A_SECOND * seconds + ROUNDS
    writing = [one for one in of_standby if re.search(r"\b(insert|update|delete|merge|nextval|for \w+ share)\b", one)]
    assert writing
    assert all(SIGN_OF_LIFE in one and "update scheduler" not in one for one in writing), writing


def _statements(log: str) -> Iterator[tuple[str, str]]:
    """Return who sent which statement, in one line and small letters."""
    who, parts = "", []
    for line in [*log.splitlines(), "end"]:
        if line.startswith("\t") and parts:
            parts.append(line)
            continue
        if parts:
            yield who, " ".join(" ".join(parts).replace('"', "").split()).lower()
            parts = []
        if found := _LINE.match(line):
            who, parts = found["who"], [found["statement"]]


def _table(role: str, counts: Counter[str], seconds: float) -> str:
    lines = [f"\n  {role}: {counts.total()} statements, {counts.total() / seconds:.2f} a second"]
    lines += [f"    {count:4} {statement[:110]}" for statement, count in counts.most_common()]
    return "\n".join(lines)
