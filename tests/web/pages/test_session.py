"""Cookies for reading, by the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from fastapi import Request, Response
from freezegun import freeze_time

from scheduler_service.web.session import HOLDS_SECONDS, Session

NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)


def request(**headers: str) -> Request:
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "scheme": "http", "server": ("host", 80), "path": "/", "headers": named})


def test_a_cookie_is_over_when_it_says() -> None:
    tokens: Any = SimpleNamespace(token="one-that-may-write", read_token="one-that-may-read")
    session = Session(tokens)
    answer = Response()
    with freeze_time(NOON):
        session.open(request(), answer)
    returning = request(cookie=answer.headers["set-cookie"].partition(";")[0])
    with freeze_time(NOON + timedelta(seconds=HOLDS_SECONDS - 1)):
        assert session.admits(returning)
    with freeze_time(NOON + timedelta(seconds=HOLDS_SECONDS)):
        assert not session.admits(returning)
