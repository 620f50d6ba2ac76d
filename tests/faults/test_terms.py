"""The evidence of terms can be false, and is found so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.evidence import Books, terms_given_twice
from tests.faults.fleet import Fleet


class Told:
    """An empty fleet whose log and ledger a test writes."""

    def __init__(self, folder: Path, url: str) -> None:
        self.fleet = Fleet(folder, url, {})
        self.books = Books(url)
        self._path = url.removeprefix("sqlite:///")

    def elected(self, leader: str, term: int) -> None:
        self.fleet.heard(None, {"event": "leader_elected", "instance": leader, "term": term})

    def noted(self, leader: str, term: int) -> None:
        self._write("insert into leader_term (lock_id, term, leader_id, acquired_at) values (1, ?, ?, 0)", term, leader)

    def started(self, leader: str, term: int) -> None:
        self._write(
            "insert into run_attempt (run_id, attempt, term, instance_id, started_at, state)"
            " select 1, 1 + count(*), ?, ?, 0, 'lost' from run_attempt",
            term,
            leader,
        )

    def problems(self) -> list[str]:
        return terms_given_twice(self.books, self.fleet)

    def _write(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(statement, values)


@pytest.fixture
def told(tmp_path: Path, migrated_sqlite_url: str) -> Told:
    told = Told(tmp_path, migrated_sqlite_url)
    for term, leader in ((1, "a"), (2, "b")):
        told.elected(leader, term)
        told.noted(leader, term)
        told.started(leader, term)
    return told


def test_terms_that_were_given_once_and_grew_are_well(told: Told) -> None:
    assert told.problems() == []


def test_a_term_that_another_says_it_won_is_found(told: Told) -> None:
    told.elected("c", 2)
    assert told.problems() == ["term 2 was given to ['b', 'c']"]


def test_a_term_that_another_started_a_run_in_is_found(told: Told) -> None:
    told.started("c", 2)
    assert told.problems() == ["term 2 was given to ['b', 'c']"]


def test_a_term_that_its_leader_won_twice_is_found(told: Told) -> None:
    told.elected("b", 2)
    assert told.problems() == ["b was elected 2 times in term 2"]


def test_a_start_of_a_term_that_was_over_is_found(told: Told) -> None:
    told.started("a", 1)
    assert told.problems() == ["an attempt of term 2 was followed by one of term 1"]
