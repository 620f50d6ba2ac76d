"""Answers are packed for who understands it, whole, and streams are not held up by it."""

from __future__ import annotations

import gzip
import http.client
from datetime import timedelta

import pytest

from scheduler_service.web.compression import LEAST_BYTES, accepts_gzip
from tests.story import Story
from tests.web.serving import LIMIT_SECONDS, Answer, Site

PATHS = ["/", "/metrics", "/static/page.css", "/static/page.js", "/api/v1/openapi.json", "/api/v1/jobs?limit=200"]


@pytest.fixture
def full_site(sqlite_story: Story, sqlite_site: Site) -> Site:
    for number in range(60):
        sqlite_story.job(f"job-{number:02}")
    return sqlite_site


def packed(site: Site, path: str, method: str = "GET", accepted: str = "br, gzip") -> Answer:
    return site.ask(method, path, headers={"Accept-Encoding": accepted})


@pytest.mark.parametrize("path", PATHS)
def test_a_long_text_is_packed_for_who_understands_it(full_site: Site, path: str) -> None:
    plain, small = full_site.get(path), packed(full_site, path)
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) == len(small.body) < len(plain.body) / 2
    whole = gzip.decompress(small.body)
    if path.startswith("/static/"):
        assert whole == plain.body
    # Ages and moments in the others differ from one answer to the next.
    assert (whole[:16], whole[-16:], whole.count(b"\n")) == (plain.body[:16], plain.body[-16:], plain.body.count(b"\n"))
    for answer in (plain, small):  # caches keep them apart
        assert "Accept-Encoding" in answer.headers["vary"]
        assert small.headers["content-type"] == plain.headers["content-type"]


def test_only_the_head_of_what_is_packed_is_answered_to_head(full_site: Site) -> None:
    head, get = packed(full_site, "/static/page.css", "HEAD"), packed(full_site, "/static/page.css")
    assert (head.status, head.body) == (200, b"")
    for name in ("content-encoding", "content-length", "content-type"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("path", ["/livez", "/nothing", "/favicon.ico"])
def test_what_is_short_is_left_as_it_is(sqlite_site: Site, path: str) -> None:
    answer = packed(sqlite_site, path)
    assert len(answer.body) < LEAST_BYTES
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    ("header", "accepted"),
    [("gzip", True), ("GZIP", True), ("deflate, gzip;q=1.0, *;q=0.5", True), ("*", True), ("gzip ; q=0.5", True),
     ("", False), ("identity", False), ("gzip;q=0", False), ("gzip;q=0.000, br", False), ("br", False),
     ("x-gzip-not", False), ("gzip;q=x", False), (", ,gzip,", True),
     ("*, gzip;q=0", False), ("gzip;q=0, *", False), ("*;q=0, gzip", True), ("*;q=0", False), ("br, *;q=0.1", True)],
)  # fmt: skip
def test_what_a_client_says_that_it_understands_is_taken_at_its_word(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


def test_a_stream_passes_unpacked_and_at_once(sqlite_story: Story, sqlite_site: Site) -> None:
    connection = http.client.HTTPConnection(sqlite_site.host, sqlite_site.port, timeout=LIMIT_SECONDS)
    try:
        connection.request("GET", "/events", headers={"Accept-Encoding": "gzip"})
        stream = connection.getresponse()
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in stream.headers
        assert stream.readline() == b"retry: 2000\n"
        events = iter(stream.readline, b"")
        assert next(line for line in events if line.startswith(b"event:")) == b"event: change\n"
        sqlite_story.lease(1, "somebody", timedelta(minutes=1))
        assert b"event: change\n" in events
    finally:
        connection.close()


def test_head_of_a_stream_is_answered_and_ends(sqlite_site: Site) -> None:
    head = b"HEAD /events HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = sqlite_site.raw(head + last)  # on one connection: the second is answered because the first has ended
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b"content-type: text/event-stream" in answer
    assert b"retry:" not in answer
