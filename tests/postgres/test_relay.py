"""The relay does to a line what its words say: a fault that does not happen would prove nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.relay import Relay
from tests.waiting import wait_until

INSERT = "insert into told values (1)"
LIMIT_SECONDS = 30.0


class Line:
    """A relay, a session by way of it, and one that looks directly."""

    def __init__(self, relay: Relay, url: str) -> None:
        self.relay = relay
        self.session = psycopg.connect(relay.url, autocommit=True)
        self._direct = psycopg.connect(url, autocommit=True)
        self._direct.execute("create table told (number int)")
        self.problem: Exception | None = None

    def count(self) -> int:
        (count,) = self._direct.execute("select count(*) from told").fetchone() or (0,)
        return int(count)

    def insert(self) -> threading.Thread:
        """Send a statement from a thread that ends when it is answered, and keeps what went wrong."""

        def send() -> None:
            try:
                self.session.execute(INSERT)
            except psycopg.Error as error:
                self.problem = error

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self.session.close()
        self._direct.close()


@pytest.fixture
def line(postgres_url: str) -> Iterator[Line]:
    with Relay(postgres_url) as relay:
        line = Line(relay, postgres_url)
        yield line
        relay.heal()
        line.close()


def test_a_request_that_is_kept_back_is_executed_when_the_line_has_healed(line: Line) -> None:
    line.relay.requests.stall()
    sending = line.insert()
    sending.join(0.2)
    assert (line.count(), sending.is_alive()) == (0, True)
    line.relay.heal()
    sending.join(LIMIT_SECONDS)
    assert (line.count(), line.problem) == (1, None)


def test_a_reply_that_is_kept_back_is_of_a_statement_that_was_executed(line: Line) -> None:
    line.relay.replies.stall()
    sending = line.insert()
    wait_until(lambda: line.count() == 1)
    assert sending.is_alive()
    line.relay.heal()
    sending.join(LIMIT_SECONDS)
    assert (sending.is_alive(), line.problem) == (False, None)


def test_a_reply_that_is_dropped_is_of_a_statement_that_is_committed(line: Line) -> None:
    line.relay.drop_replies(1)
    line.insert().join(LIMIT_SECONDS)
    line.relay.await_drops(LIMIT_SECONDS)
    assert line.count() == 1
    assert isinstance(line.problem, psycopg.OperationalError)


@pytest.mark.parametrize(("end", "told"), [(Relay.cut, b""), (Relay.reset, ConnectionResetError)], ids=["FIN", "RST"])
def test_the_end_of_a_connection_is_told_as_it_should_be(line: Line, end: Callable[[Relay], None], told: Any) -> None:
    with socket.socket(fileno=os.dup(line.session.fileno())) as ours:
        ours.setblocking(True)
        end(line.relay)
        assert _received(ours) == told


def test_what_is_slow_takes_its_time_both_ways(line: Line) -> None:
    line.relay.delay(0.1)
    began = time.monotonic()
    line.session.execute("select 1")
    assert time.monotonic() - began >= 0.2


def _received(ours: socket.socket) -> bytes | type[Exception]:
    try:
        return ours.recv(1)
    except OSError as error:
        return type(error)
