"""Lists become arrays of the server as they are, whatever stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, text

from scheduler_service.database import Database
from scheduler_service.ledger.arrays import Array

ELEMENTS = {
    "text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    "timestamptz": st.datetimes(timezones=st.just(UTC)),
    "boolean": st.booleans(),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "double precision": st.floats(allow_nan=False),
}
FROM_THE_WIRE = ["NULL", "null", "", "{}", "a,b", 'say "no"', "\\", '\\"', "{1,2}", " space ", "\n", "ünïcode", None]


@pytest.fixture
def server(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.dispose()


def told_back(server: Database, element: str, values: Sequence[Any]) -> list[Any]:
    statement = text("select :values").bindparams(bindparam("values", type_=Array(element)))
    with server.connect() as connection:
        return list(connection.execute(statement, {"values": values}).scalar_one())


@pytest.mark.parametrize("element", ELEMENTS)
def test_what_is_sent_is_what_arrives(server: Database, element: str) -> None:
    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.none() | ELEMENTS[element]))
    def check(values: list[Any]) -> None:
        assert told_back(server, element, values) == values

    check()


def test_words_and_signs_that_mean_something_in_an_array_arrive_as_they_are(server: Database) -> None:
    assert told_back(server, "text", FROM_THE_WIRE) == FROM_THE_WIRE


def test_a_moment_arrives_to_the_microsecond(server: Database) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 1, UTC)
    assert told_back(server, "timestamptz", [moment, None]) == [moment, None]
