"""The server: where it listens, and what it bears from clients that are slow, large, odd or many."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from scheduler_service.events import Event, Events
from scheduler_service.web import PortUnavailableError, Server, connections, limits, server
from tests.story import Story
from tests.waiting import wait_until
from tests.web.serving import LIMIT_SECONDS, TOKEN, Site, received, serving

MakeServer = Callable[..., Server]


async def hello(scope: object, receive: object, send: Callable[..., object]) -> None:
    """The smallest application."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})  # type: ignore[misc]
    await send({"type": "http.response.body", "body": b"hello"})  # type: ignore[misc]


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    """Makes servers that end with the test."""
    servers = []

    def make(host: str = "127.0.0.1", port: int | None = 0) -> Server:
        one = Server(lambda: hello, host=host, port=port, events=Events(), close=lambda: None)
        servers.append(one)
        return one

    yield make
    for one in servers:
        one.stop(LIMIT_SECONDS)


def ask(url: str) -> bytes:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), timeout=LIMIT_SECONDS) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return received(connection)


# --- where it listens


def test_port_0_is_any_free_one(make_server: MakeServer) -> None:
    one, two = make_server(), make_server()
    one.start()
    two.start()
    assert one.url != two.url
    assert all(ask(url).endswith(b"hello") for url in (one.url, two.url))


def test_where_no_port_is_named_several_replicas_find_one_each(make_server: MakeServer) -> None:
    ports = [int(make_server(port=None).url.rpartition(":")[2]) for _ in range(3)]
    assert len(set(ports)) == 3
    assert all(server.USUAL_PORT <= port < server.USUAL_PORT + server.TRIED_PORTS for port in ports)


def test_a_port_in_use_is_said_with_what_to_do(make_server: MakeServer) -> None:
    port = int(make_server().url.rpartition(":")[2])
    with pytest.raises(
        PortUnavailableError, match=rf"port {port} on 127\.0\.0\.1 is in use: .* --port \(0 = any free\)"
    ):
        make_server(port=port)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", "no address of this machine"),
        ("no-such-host.invalid", "cannot listen on no-such-host.invalid"),
        ("a..b", "can be no host"),
        ("x" * 300, "can be no host"),
    ],
)
def test_a_host_that_is_not_here_is_said_in_a_line(make_server: MakeServer, host: str, words: str) -> None:
    with pytest.raises(PortUnavailableError, match=words) as caught:
        make_server(host)
    assert "\n" not in str(caught.value)


def test_it_listens_on_ipv6(make_server: MakeServer) -> None:
    one = make_server("::1")
    one.start()
    assert one.url.startswith("http://[::1]:")
    assert ask(one.url).endswith(b"hello")


def test_a_port_is_free_again_after_the_end_though_connections_were_open(make_server: MakeServer) -> None:
    one = make_server()
    one.start()
    ask(one.url)
    host, port = one.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as idle:
        one.stop(LIMIT_SECONDS)
        assert received(idle) == b""
        make_server(port=int(port))


def test_a_forked_child_does_not_keep_the_port(make_server: MakeServer) -> None:
    one = make_server()
    listening = f"socket:[{os.fstat(one._socket.fileno()).st_ino}]"
    reading, writing = os.pipe()
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(telling, b"forked")
        os.read(reading, 1)  # until the parent closes its end
        os._exit(0)
    try:
        os.close(reading)
        assert os.read(told, 6) == b"forked"
        held = {str(path.readlink()) for path in Path(f"/proc/{child}/fd").iterdir()}
        assert listening not in held
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        for end in (told, telling):
            os.close(end)


def test_an_application_that_cannot_be_made_is_told_and_ends_nothing_else() -> None:
    told: list[Event] = []
    events = Events()
    events.subscribe(told.append)

    def fail() -> object:
        raise RuntimeError("no template")

    one = Server(fail, host="127.0.0.1", port=0, events=events, close=lambda: None)
    one.start()
    wait_until(lambda: told)
    one.stop(LIMIT_SECONDS)
    assert [(event.name, event.fields) for event in told] == [("http_failed", {"error": "RuntimeError: no template"})]


# --- slow, many


def test_a_client_that_sends_its_request_byte_by_byte_is_cut_off(
    sqlite_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    for begin in (
        b"",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n",
        b"POST /api/v1/resign HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ):
        with sqlite_site.connect() as connection:
            connection.sendall(begin)
            connection.settimeout(0.05)
            deadline = time.monotonic() + LIMIT_SECONDS
            while time.monotonic() < deadline:
                try:
                    connection.sendall(b"x" if begin else b"")
                    if connection.recv(65536) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            else:
                raise AssertionError(f"still open after {begin!r}")


def test_a_body_that_never_ends_does_not_keep_a_connection_after_the_answer(
    sqlite_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    with sqlite_site.connect() as connection:
        connection.sendall(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert b"405" in received(connection)


def test_a_client_that_does_not_take_its_answer_is_cut_off(
    sqlite_story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.5)
    run = sqlite_story.run(sqlite_story.now, "succeeded")
    sqlite_story.output(sqlite_story.attempt(run, sqlite_story.now, "succeeded"), "x" * 20_000_000)
    with serving(tmp_path, sqlite_story.url) as site, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(LIMIT_SECONDS)
        connection.connect((site.host, site.port))
        connection.sendall(f"GET /api/v1/runs/{run} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(1)
        assert _served(site.port)
        wait_until(lambda: not _served(site.port), LIMIT_SECONDS)
        assert len(received(connection)) < 20_000_000


def _served(port: int) -> list[object]:
    """The server's ends of connections in this process."""
    ends = psutil.Process().net_connections("tcp")
    return [end for end in ends if end.laddr.port == port and end.status == psutil.CONN_ESTABLISHED]


def test_many_idle_connections_keep_nobody_out(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    idle = [sqlite_site.connect() for _ in range(60)]
    try:
        assert sqlite_site.get("/livez").status == 200
        assert sqlite_site.get("/api/v1/status").status == 200
        assert received(idle[0]) == b""  # the one that waited longest made room
    finally:
        for connection in idle:
            connection.close()


def test_probes_are_answered_when_too_much_is_asked_at_once(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_REQUESTS", 0)
    answer = sqlite_site.get("/api/v1/status")
    assert (answer.status, answer.kind, answer.headers["retry-after"]) == (503, "busy", "1")
    assert sqlite_site.get("/livez").status == 200


def test_requests_that_follow_each_other_at_once_are_all_answered(sqlite_site: Site) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert sqlite_site.raw(request * 5 + last).count(b"HTTP/1.1 200 OK") == 6


# --- large


@pytest.mark.parametrize("path", ["/api/v1/resign", "/livez", "/nothing"])
def test_a_body_that_is_too_large_is_refused(sqlite_site: Site, path: str) -> None:
    answer = sqlite_site.ask("POST", path, b"x" * (limits.MOST_BYTES + 1), token=TOKEN)
    assert (answer.status, answer.document["status"]) == (413, 413)


def test_a_body_that_does_not_say_how_large_it_is_is_counted(sqlite_site: Site) -> None:
    head = f"POST /api/v1/resign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with sqlite_site.connect() as connection:
        connection.sendall(head.encode())
        piece = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        for _ in range(limits.MOST_BYTES // 0x1000 + 2):
            connection.sendall(piece)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("rest", [b"x" * 100_000, b"x" * 272 * 1024 + b"\r\n\r\n"], ids=["without an end", "whole"])
def test_a_head_that_is_too_large_is_refused(sqlite_site: Site, rest: bytes) -> None:
    answer = sqlite_site.raw(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + rest)
    assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""  # reset while the rest was on its way


# --- odd


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/v1", "/api/v1/", "/api/v1/jobs/", "/api/v1//jobs", "/api/v1/../v1/status",
     "//livez", "/api/v1/jobs/..%2f..%2fetc%2fpasswd", "/api/v1/jobs/%2e%2e", "/static/../app.py",
     "/static/%2e%2e/app.py",
     "/livez/", "/LIVEZ", "/livez%00", "/livez%0d%0aX:1", "/%ff%fe", "/api/v1/runs/1;a=b", "/docs", "/redoc",
     "/openapi.json", "*"],
)  # fmt: skip
def test_paths_that_lead_nowhere_are_problems(sqlite_site: Site, path: str) -> None:
    answer = sqlite_site.get(path)
    assert answer.status in {404, 422}, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.document["status"] == answer.status
    assert "location" not in answer.headers


HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}  # as browsers send it


@pytest.mark.parametrize("path", ["/nothing", "/jobs/a/b", "/livez%00", "//livez", "/docs"])
def test_a_path_that_leads_nowhere_is_a_page_for_a_browser(sqlite_site: Site, path: str) -> None:
    answer = sqlite_site.ask("GET", path, headers=HTML)
    assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert b"Nothing here" in answer.body


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/nothing"), ("GET", "/api/v1/jobs/"), ("POST", "/nothing")])
def test_nothing_of_the_api_is_a_page_for_a_browser(sqlite_site: Site, method: str, path: str) -> None:
    answer = sqlite_site.ask(method, path, headers=HTML)
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/jobs", "/#jobs"),
        ("/runs", "/#jobs"),
        ("/jobs/report/", "/jobs/report"),
        ("/leadership/?before=3", "/leadership?before=3"),
        ("//evil.example/", "/evil.example"),
        ("/%2fevil.example//", "/evil.example"),
        ("/%5cevil.example/", "/%5Cevil.example"),
        ("/%09/evil.example/%0d%0aX:1/?%0d%0a", "/%09/evil.example/%0D%0AX%3A1?%0d%0a"),
        ("/..%2f", "/.."),
        ("//", "/"),
    ],
)
def test_a_browser_is_led_to_the_page_that_is_meant_and_to_nobody_else(
    sqlite_site: Site, path: str, target: str
) -> None:
    answer = sqlite_site.ask("GET", path, headers=HTML)
    assert (answer.status // 100, answer.headers["location"]) == (3, target)


def test_head_answers_as_get_without_the_body(sqlite_site: Site) -> None:
    for path in ("/livez", "/api/v1/status"):
        head, get = sqlite_site.ask("HEAD", path), sqlite_site.ask("GET", path)
        assert (head.status, head.body) == (get.status, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "TRACE", "NONSENSE"])
def test_other_methods_are_refused_with_those_that_there_are(sqlite_site: Site, method: str) -> None:
    for path, allowed in (("/livez", "GET"), ("/api/v1/resign", "POST")):
        answer = sqlite_site.ask(method, path, token=TOKEN)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)
        assert answer.document["status"] == 405


@pytest.mark.parametrize("path", ["/livez", "/", "/sign-in", "/api/v1/status", "/nothing", "/api/v1/runs?limit=x"])
def test_every_answer_keeps_browsers_strict(sqlite_site: Site, path: str) -> None:
    answer = sqlite_site.ask("GET", path, headers={"Origin": "https://elsewhere.example"})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "data:" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "server" not in answer.headers


def test_what_is_no_http_is_refused(sqlite_site: Site) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n"):
        assert sqlite_site.raw(nonsense).startswith(b"HTTP/1.1 400 ")
        assert sqlite_site.get("/livez").status == 200
