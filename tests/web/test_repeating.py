"""Who asks what was asked a moment ago gets the same bytes, and nobody gets what is not his."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from scheduler_service.events import Events
from scheduler_service.web import Server, connections, repeating
from scheduler_service.web.repeating import Repeats, repeat_while
from tests.story import Story
from tests.waiting import wait_until
from tests.web.serving import LIMIT_SECONDS, Site, received, serving

ASK = b"GET /counted HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /counted HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MOST_ASKED = 100  # until one is repeated


class Counting:
    """An application that counts how often it is asked, and what its answers are good for."""

    def __init__(self) -> None:
        self.count = 0
        self.generation = 0
        self.text = "answer"
        self.app = FastAPI()

        @self.app.api_route("/counted", methods=["GET", "HEAD", "POST"])
        async def counted(request: Request) -> Response:
            self.count += 1
            generation = self.generation
            repeat_while(request, lambda: self.generation == generation)
            return Response(f"{self.text} {self.count}", media_type="text/plain")

        @self.app.get("/plain")
        async def plain() -> Response:
            self.count += 1
            return Response(f"{self.text} {self.count}")


class Client:
    """One connection, whose answers are read one by one."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.connection = socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS)
        self._came = b""

    def ask(self, *pieces: bytes) -> bytes:
        """Send a request in these pieces, each on its way before the next; return the body of the answer."""
        for piece in pieces:
            self.connection.sendall(piece)
        return self.answer()

    def answer(self) -> bytes:
        """Return the body of the next answer."""
        while b"\r\n\r\n" not in self._came:
            self._came += self._more()
        head, _, self._came = self._came.partition(b"\r\n\r\n")
        (length,) = (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(self._came) < length:
            self._came += self._more()
        body, self._came = self._came[:length], self._came[length:]
        return body

    def _more(self) -> bytes:
        more = self.connection.recv(65536)
        assert more, "closed"
        return more


@contextlib.contextmanager
def asked_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Note of each request whether its answer was known."""
    found: list[bool] = []
    find = Repeats.find

    def noted(self: Repeats, request: bytes) -> Any:
        answer = find(self, request)
        found.append(answer is not None)
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Repeats, "find", noted)
        yield found


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def connect(counting: Counting) -> Iterator[Callable[[], Client]]:
    """Opens connections to a server of `counting`, which ends with the test."""
    clients: list[Client] = []
    server = Server(lambda: counting.app, host="127.0.0.1", port=0, events=Events(), close=lambda: None)
    server.start()

    def made() -> Client:
        clients.append(Client(server.url))
        return clients[-1]

    yield made
    for client in clients:
        client.connection.close()
    server.stop(LIMIT_SECONDS)


Connect = Callable[[], Client]


def test_an_equal_request_gets_the_same_bytes_on_any_connection(connect: Connect, counting: Counting) -> None:
    one, other = connect(), connect()
    answers = [client.ask(ASK) for client in (one, one, other, one)]
    assert answers == [b"answer 1"] * 4
    assert counting.count == 1


def test_a_repeated_answer_is_whole_with_its_head(connect: Connect) -> None:
    client = connect()
    answers = []
    for _ in range(2):
        client.connection.sendall(ASK)
        head = b""
        while not head.endswith(b"answer 1"):
            head += client.connection.recv(65536)
        answers.append(head)
    assert answers[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncontent-length: 8\r\n" in answers[0].lower()
    assert answers[0] == answers[1]


def test_what_is_good_no_more_is_made_anew(connect: Connect, counting: Counting) -> None:
    client = connect()
    assert [client.ask(ASK), client.ask(ASK)] == [b"answer 1", b"answer 1"]
    counting.generation += 1
    assert [client.ask(ASK), client.ask(ASK)] == [b"answer 2", b"answer 2"]


@pytest.mark.parametrize(
    "other",
    [b"GET /counted? HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /counted HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\n\r\n",
     b"GET /counted HTTP/1.1\r\nhost: x\r\n\r\n", b"POST /counted HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na",
     b"GET /counted HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n"],
)  # fmt: skip
def test_a_request_that_differs_in_anything_is_answered_for_itself(connect: Connect, other: bytes) -> None:
    client = connect()
    assert [client.ask(ASK), client.ask(other), client.ask(ASK), client.ask(other)] == [
        b"answer 1", b"answer 2", b"answer 1", b"answer 2",
    ]  # fmt: skip


def test_what_no_route_allows_is_not_repeated(connect: Connect) -> None:
    client = connect()
    plain = ASK.replace(b"/counted", b"/plain")
    assert [client.ask(plain), client.ask(plain)] == [b"answer 1", b"answer 2"]


def test_an_answer_that_ends_its_connection_is_not_given_to_others(connect: Connect, counting: Counting) -> None:
    for count in (1, 2):
        client = connect()
        assert client.ask(LAST) == f"answer {count}".encode()
        assert received(client.connection) == b""
    http_1_0 = ASK.replace(b"1.1", b"1.0")
    for count in (3, 4):
        client = connect()
        assert client.ask(http_1_0) == f"answer {count}".encode()
        assert received(client.connection) == b""


def test_a_request_in_pieces_is_answered_as_ever(connect: Connect, counting: Counting) -> None:
    client = connect()
    client.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert client.ask(ASK) == b"answer 1"
    for cut in range(1, len(ASK)):
        # Both may arrive together after all, and then are the request that is known.
        assert client.ask(ASK[:cut], ASK[cut:]) in {b"answer 1", f"answer {counting.count}".encode()}
    assert client.ask(ASK) == b"answer 1"


def test_requests_that_follow_each_other_at_once_each_get_their_own(connect: Connect, counting: Counting) -> None:
    client, other = connect(), ASK.replace(b"/counted", b"/plain")
    client.connection.sendall(ASK + other + ASK)
    assert [client.answer() for _ in range(3)] == [b"answer 1", b"answer 2", b"answer 3"]
    client.connection.sendall(ASK + other + ASK)
    assert [client.answer() for _ in range(3)] == [b"answer 4", b"answer 5", b"answer 6"]
    assert client.ask(ASK) == b"answer 7"  # none of them came alone


def test_a_body_that_is_the_known_request_is_a_body(connect: Connect) -> None:
    client, plain = connect(), ASK.replace(b"/counted", b"/plain")
    assert client.ask(ASK) == b"answer 1"
    head = f"POST /counted HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ASK)}\r\n\r\n".encode()
    assert client.ask(head) == b"answer 2"  # which waits for no body
    assert client.ask(ASK, plain) == b"answer 3"


def test_head_is_answered_without_a_body_again_and_again(connect: Connect, counting: Counting) -> None:
    client = connect()
    head, plain = ASK.replace(b"GET", b"HEAD"), ASK.replace(b"/counted", b"/plain")
    for _ in range(2):
        client.connection.sendall(head + plain[:5])  # what follows shows where the answer ended
        came = b""
        while not came.endswith(b"\r\n\r\n"):
            came += client.connection.recv(65536)
        assert b"content-length: 8" in came.lower()
        client.ask(plain[5:])


def test_a_connection_that_gets_repeated_answers_is_not_taken_for_a_slow_one(
    connect: Connect, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    first = connect()
    assert first.ask(ASK) == b"answer 1"
    fresh, silent = connect(), connect()
    assert fresh.ask(ASK) == b"answer 1"  # its first request is one that is known
    assert received(silent.connection) == b""  # which was opened later: whoever is too slow is cut off by now
    assert [fresh.ask(ASK), first.ask(ASK), counting.count] == [b"answer 1", b"answer 1", 1]


def test_who_takes_no_answers_does_not_make_the_server_hold_more_and_more(
    connect: Connect, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 1.0)
    counting.text = "x" * 900_000
    client = connect()
    client.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.ask(ASK)
    with asked_again(monkeypatch) as found, contextlib.suppress(OSError):
        while True:  # until it is cut off
            client.connection.sendall(ASK)
            time.sleep(0.002)  # so that most of them arrive alone
    assert 1 <= found.count(True) < 20, "as many as the system has room for"


# --- what is known


def test_of_too_many_answers_the_oldest_is_forgotten() -> None:
    repeats = Repeats()
    for number in range(repeating.MOST_ANSWERS + 1):
        repeats.keep(b"%d" % number, b"answer", lambda: True)
    assert repeats.find(b"0") is None
    assert all(repeats.find(b"%d" % number) for number in range(1, repeating.MOST_ANSWERS + 1))


def test_what_is_too_long_is_not_kept() -> None:
    repeats = Repeats()
    repeats.keep(b"x" * (repeating.LONGEST_REQUEST + 1), b"answer", lambda: True)
    repeats.keep(b"x", b"answer" * repeating.LONGEST_ANSWER, lambda: True)
    assert repeats.find(b"x" * (repeating.LONGEST_REQUEST + 1)) is None
    assert repeats.find(b"x") is None


# --- in the service


def keep_alive(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


@pytest.mark.parametrize("path", ["/metrics", "/", "/?q=r", "/jobs/report", "/leadership"])
def test_pages_and_metrics_are_repeated_for_a_moment_and_then_made_anew(
    sqlite_story: Story, sqlite_site: Site, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_story.job()
    client = Client(sqlite_site.url)
    with asked_again(monkeypatch) as found:
        former = client.ask(keep_alive(path))
        while not found[-1]:  # a page that took its time, as the first one does, is old when it is there
            former, last = client.ask(keep_alive(path)), former
            assert not found[-1] or former == last
            assert len(found) < MOST_ASKED, "none was repeated"
        wait_until(lambda: client.ask(keep_alive(path)) != former, LIMIT_SECONDS)
    client.connection.close()
    assert found[0] is False
    assert found[-1] is False, "what differs was made anew"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/leader", "/api/v1/status", "/nothing", "/sign-in"])
def test_nothing_else_is(sqlite_site: Site, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(sqlite_site.url)
    with asked_again(monkeypatch) as found:
        for _ in range(3):
            client.ask(keep_alive(path))
    client.connection.close()
    assert found == [False] * 3


@pytest.mark.parametrize("path", ["/metrics", "/"])
def test_what_a_reader_got_is_not_given_to_who_may_not_read(sqlite_story: Story, tmp_path: Path, path: str) -> None:
    with serving(tmp_path, sqlite_story.url, read_token="a-token-that-may-read") as site:
        client = Client(site.url)
        right = keep_alive(path, "Authorization: Bearer a-token-that-may-read")
        former, read = b"", client.ask(right)
        for _ in range(MOST_ASKED):  # a page that took its time, as the first one does, is old when it is there
            former, read = read, client.ask(right)
            if read == former:
                break
        assert read == former, "none was repeated"
        for wrong in ((), ("Authorization: Bearer a-token-that-may-reaD",), ("Cookie: scheduler_service_reader=1.x",)):
            assert client.ask(keep_alive(path, *wrong)) != read
            assert site.ask("GET", path).status == 401
        client.connection.close()
