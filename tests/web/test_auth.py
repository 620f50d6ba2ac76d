"""Who may read and who may write: every path, every method, every way to send a token but the right one."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from scheduler_service.tables import job_state, leader_lease, run
from scheduler_service.web.limits import PROBES
from tests.story import Story
from tests.web.serving import TOKEN, Answer, Site, serving

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "post")
READ_TOKEN = "a-token-that-may-read"


def everything(story: Story) -> list[Any]:
    """All that a request could change."""
    with story.database.connect() as connection:
        return [connection.execute(select(table)).all() for table in (run, job_state, leader_lease)]


def paths(site: Site, token: str | None = None) -> list[str]:
    """All paths of the API, for a job and a run that are there."""
    described = site.get("/api/v1/openapi.json", token=token).document["paths"]
    found = [path.replace("{job}", "report").replace("{run}", "1") for path in described]
    assert len(found) >= 15
    return found


@pytest.fixture
def filled(sqlite_story: Story) -> Story:
    sqlite_story.job()
    sqlite_story.run(sqlite_story.now, "waiting")
    sqlite_story.term(4, "first", sqlite_story.ago(hours=1))
    return sqlite_story


def ways(token: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Ways to send a token that are not the right one: what follows the path, and headers."""
    basic = base64.b64encode(f"x:{token}".encode()).decode()
    yield "", {}
    yield f"?token={token}&access_token={token}", {}
    yield "", {"Cookie": f"token={token}; Authorization=Bearer {token}"}
    yield "", {"X-Api-Key": token, "X-Authorization": f"Bearer {token}"}
    wrong = [f"{token}x", token[:-1], token.upper(), "", "null", "*", f"{token} {token}", "\xe9", f'"{token}"']
    for given in (f"Basic {basic}", token, f"Bearer{token}", f"Token {token}", *(f"Bearer {one}" for one in wrong)):
        yield "", {"Authorization": given}


def test_there_is_no_way_to_write_without_the_token(filled: Story, tmp_path: Path) -> None:
    with serving(tmp_path, filled.url) as site:
        before = everything(filled)
        for path, method in itertools.product(paths(site), METHODS):
            answer = site.ask(method, path)
            assert answer.status in {200, 401, 404, 405, 422, 503}, (method, path, answer)
            if method not in {"GET", "HEAD"}:
                assert answer.status in {401, 405}, (method, path, answer)
        for path in (path for path in paths(site) if path.endswith(("trigger", "pause", "resume", "cancel", "resign"))):
            for query, headers in ways(TOKEN):
                answer = site.ask("POST", path + query, headers=headers)
                assert (answer.status, answer.kind) == (401, "token-needed"), (path, query, headers, answer)
                assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert everything(filled) == before


def test_a_token_that_is_sent_twice_is_no_token(filled: Story, tmp_path: Path) -> None:
    with serving(tmp_path, filled.url) as site:
        lines = f"Authorization: Bearer guess\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
        answer = site.raw(f"POST /api/v1/resign HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_token_of_any_signs_can_be_sent_as_it_is_written(filled: Story, tmp_path: Path) -> None:
    token = "".join(map(chr, range(ord("!"), ord("~") + 1)))  # all that a configuration may have in one
    with serving(tmp_path, filled.url, token=token) as site:
        assert site.post("/api/v1/jobs/report/trigger", token=token).status == 201
        assert site.post("/api/v1/jobs/report/trigger", token=token[:-1] + "?").status == 401


def test_writing_is_off_without_a_token_in_the_configuration(filled: Story, tmp_path: Path) -> None:
    with serving(tmp_path, filled.url, token=None) as site:
        before = everything(filled)
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
            answer = site.ask("POST", "/api/v1/jobs/report/trigger", headers=headers)
            assert (answer.status, answer.kind) == (403, "writing-off")
            assert "http.token" in answer.document["detail"]
        assert everything(filled) == before
        assert site.get("/api/v1/status").status == 200


def test_reading_needs_its_token_if_there_is_one_and_probes_never_do(filled: Story, tmp_path: Path) -> None:
    with serving(tmp_path, filled.url, read_token=READ_TOKEN) as site:
        for path in paths(site, READ_TOKEN):
            if path in PROBES:
                assert site.get(path).status in {200, 503}
                continue
            for query, headers in ways(READ_TOKEN):
                for method in ("GET", "HEAD"):
                    answer = site.ask(method, path + query, headers=headers)
                    assert answer.status in {401, 405}, (method, path, query, headers, answer)
        for token in (READ_TOKEN, TOKEN):  # who may write may read
            assert site.get("/api/v1/status", token=token).status == 200
        assert site.get("/api/v1/openapi.json").status == 401


def test_the_token_for_reading_does_not_write(filled: Story, tmp_path: Path) -> None:
    with serving(tmp_path, filled.url, read_token=READ_TOKEN) as site:
        answer = site.post("/api/v1/jobs/report/trigger", token=READ_TOKEN)
        assert (answer.status, answer.kind) == (403, "read-only-token")
        assert site.post("/api/v1/jobs/report/trigger", token=TOKEN).status == 201


def test_who_may_not_write_learns_nothing_of_what_is_there(filled: Story, tmp_path: Path) -> None:
    with serving(tmp_path, filled.url) as site:
        for path, body in (
            ("/api/v1/jobs/report/trigger", None),
            ("/api/v1/jobs/nobody/trigger", None),
            ("/api/v1/jobs/report/trigger", b"{"),
            ("/api/v1/jobs/report/trigger", {"wrong": 1}),
            ("/api/v1/runs/x/cancel", None),
        ):
            assert site.post(path, body, token="guess").status == 401


def test_no_token_is_told_to_the_log_or_shown(filled: Story, tmp_path: Path) -> None:
    with serving(tmp_path, filled.url, read_token=READ_TOKEN) as site:
        answers: list[Answer] = [
            site.ask("POST", f"/api/v1/resign?token={TOKEN}", {"by": TOKEN}, token="secret-guess"),
            site.ask("GET", f"/nothing?token={TOKEN}", token=READ_TOKEN),
            site.ask("GET", f"/api/v1/runs?state={TOKEN}", token=READ_TOKEN),
            site.ask("POST", "/api/v1/resign", {TOKEN: 1}, token=TOKEN),
        ]
        told = f"{site.told} {site.view!r}"
    for secret in (TOKEN, READ_TOKEN, "secret-guess"):
        assert secret not in told
        assert not any(secret.encode() in answer.body for answer in answers[:3])
