"""Roles with few rights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.servers import SharedServer


@pytest.fixture
def make_role(postgres_server: SharedServer, postgres_url: str) -> Iterator[Callable[[str], str]]:
    """Make a role that may log in and nothing else; returns the test database's URL as that role."""
    made: list[sql.Identifier] = []

    def make(name: str) -> str:
        role = sql.Identifier(name)
        made.append(role)
        with postgres_server.connect() as connection:
            connection.execute(sql.SQL("drop role if exists {}").format(role))
            connection.execute(sql.SQL("create role {} login password 'few rights'").format(role))
        return make_url(postgres_url).set(username=name, password="few rights").render_as_string(hide_password=False)

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for role in made:
            connection.execute(sql.SQL("drop owned by {}").format(role))
            connection.execute(sql.SQL("drop role {}").format(role))


@pytest.fixture
def stranger(make_role: Callable[[str], str]) -> str:
    """The URL of the test database, as a role without any right."""
    return make_role("scheduler_test_stranger")
