"""`health`: as Docker asks it, and as a person does."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from scheduler_service.cli import probing
from tests.cli.conftest import Command
from tests.servers import free_port

ANSWERS = {
    "/livez": (200, {"alive": True, "instance_id": "web-1", "stuck": []}),
    "/readyz": (503, {"ready": False, "instance_id": "web-1", "reasons": ["the replica is draining"]}),
    "/leader": (200, {"leader": True, "instance_id": "web-1", "term": 7}),
}


class Handler(BaseHTTPRequestHandler):
    """Answers as a replica, or as something else."""

    answers: ClassVar[dict[str, tuple[int, Any]]] = ANSWERS

    def do_GET(self) -> None:
        status, document = self.answers.get(self.path, (404, "nothing"))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Stuck(Handler):
    answers: ClassVar = {"/livez": (503, {**ANSWERS["/livez"][1], "stuck": [{"thread": "elector", "seconds": 12.3}]})}


class Foreign(Handler):
    answers: ClassVar = {"/livez": (200, {"status": "fine"})}


@pytest.fixture
def listening() -> Iterator[Any]:
    """Starts servers that end with the test; returns their ports."""
    servers: list[HTTPServer] = []

    def start(handler: type[Handler] = Handler, port: int = 0) -> int:
        server = HTTPServer(("127.0.0.1", port), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(text: str) -> None:
    Path("config.yaml").write_text(f"version: 1\nhttp: {{{text}}}\njobs: {{a: {{command: 'true', every: 1h}}}}\n")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 0, "web-1: lives"),
        (["--live"], 0, "web-1: lives"),
        (["--ready"], 1, "web-1: is not ready: the replica is draining"),
        (["--leader"], 0, "web-1: leads in term 7"),
    ],
)
def test_yes_is_0_and_no_is_1_with_the_reason(
    command: Command, listening: Any, options: list[str], code: int, words: str
) -> None:
    answered = command("health", "--url", f"http://127.0.0.1:{listening()}", *options, exit_code=code)
    assert (answered.err if code else answered.out).strip() == words


def test_a_stuck_thread_is_named(command: Command, listening: Any) -> None:
    answered = command("health", "--port", listening(Stuck), exit_code=1)
    assert answered.err.strip() == "web-1: is stuck: elector took no step for 12.3s"


def test_the_answer_comes_as_json_too(command: Command, listening: Any) -> None:
    assert command("health", "--json", "--port", listening()).document == ANSWERS["/livez"][1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_the_configuration_says_where_to_ask(command: Command, listening: Any, host: str) -> None:
    config(f"host: {host}, port: {listening()}")
    assert command("health").out == "web-1: lives\n"


def test_where_no_port_is_named_the_first_replica_from_the_usual_one_on_is_asked(
    command: Command, listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = listening(Foreign)
    monkeypatch.setattr(probing, "USUAL_PORT", foreign)
    for port in range(foreign + 1, foreign + 100):
        with contextlib.suppress(OSError):  # somebody else's
            listening(Handler, port)
            break
    assert command("health").out == "web-1: lives\n"


def test_nobody_there_is_no(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "USUAL_PORT", free_port())
    monkeypatch.setattr(probing, "TRIED_PORTS", 1)
    answered = command("health", exit_code=1)
    assert "no replica answers at 127.0.0.1:" in answered.err


def test_one_that_listens_and_does_not_answer_is_no_and_the_search_ends(
    command: Command, listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "ANSWER_SECONDS", 0.2)
    with socket.socket() as frozen:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen(1)
        monkeypatch.setattr(probing, "USUAL_PORT", frozen.getsockname()[1])
        assert "no answer from" in command("health", exit_code=1).err


def test_a_configuration_that_cannot_be_read_makes_no_replica_ill(
    command: Command, listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("config.yaml").write_text("version: 1\njobs: {a: {tiemout: 3}\n")
    monkeypatch.setattr(probing, "USUAL_PORT", listening())
    assert command("health", "-c", "config.yaml").out == "web-1: lives\n"


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ("enabled: false", [], "http.enabled is false"),
        ("port: 0", [], "http.port is 0"),
        ("port: 1", ["--url", "https://x"], "must be like http://"),
        ("port: 1", ["--url", "http://x:y"], "is no URL"),
        ("port: 1", ["--url", "http://x", "--port", "3"], "name two places"),
    ],
)
def test_a_place_that_cannot_be_is_the_persons_mistake(
    command: Command, settings: str, options: list[str], words: str
) -> None:
    config(settings)
    assert words in command("health", *options, exit_code=2).err
