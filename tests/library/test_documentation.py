"""Every example of docs/library.md runs as it stands, and prints what the page says."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from scheduler_service import Elector
from scheduler_service.elector import Timing
from tests.electors import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)
SUFFIX = re.compile(r"-[0-9a-f]{6}\b")  # of an instance id


def examples() -> dict[str, tuple[str, str | None]]:
    """Return each program of the page, and what stands below it as its output, by the line where it begins."""
    page = PAGE.read_text()
    found = list(BLOCK.finditer(page))
    outputs = [after[2] if after[1] == "text" else None for after in found[1:]]
    return {
        f"line {page.count(chr(10), 0, block.start()) + 1}": (block[2], output)
        for block, output in zip(found, [*outputs, None], strict=True)
        if block[1] == "python"
    }


EXAMPLES = examples()
PROGRAMS = {line: (program, output) for line, (program, output) in EXAMPLES.items() if output is not None}
ANY_DATABASE = {line: program for line, program in PROGRAMS.items() if "psycopg" not in program[0]}
# Each is run on PostgreSQL as it is; that it need not be is shown by one of them to begin with.
ON_SQLITE = [
    pytest.param(*program, id=line, marks=[pytest.mark.long] if number else [])
    for number, (line, program) in enumerate(ANY_DATABASE.items())
]
(APPLICATION,) = (program for program, output in EXAMPLES.values() if output is None)


@pytest.mark.parametrize(("program", "output"), PROGRAMS.values(), ids=PROGRAMS)
def test_an_example_prints_what_the_page_says_and_nothing_else(program: str, output: str, postgres_url: str) -> None:
    _prints(program, output, postgres_url)


@pytest.mark.parametrize(("program", "output"), ON_SQLITE)
def test_an_example_that_knows_no_driver_runs_on_sqlite_too(program: str, output: str, sqlite_url: str) -> None:
    _prints(program, output, sqlite_url)


def test_the_first_example_says_why_it_does_not_lead(tmp_path: Path) -> None:
    program = next(iter(PROGRAMS.values()))[0].replace("timeout_seconds=30", "timeout_seconds=5")
    url = f"sqlite:///{tmp_path}/none/election.db"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120,
        env={**os.environ, "DATABASE_URL": url},
    )  # fmt: skip
    assert done.stdout.startswith("not leading: ")
    assert "none" in done.stdout


def test_what_only_the_database_can_say_is_found_in_problem(postgres_url: str, tmp_path: Path) -> None:
    for url in (f"{postgres_url}x", f"sqlite:///{tmp_path}/none/election.db"):
        with Elector(url) as elector:
            wait_until(lambda elector=elector: elector.problem is not None, what="the database's answer")
            assert "not exist" in str(elector.problem) or "none" in str(elector.problem)


def _prints(program: str, output: str, url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "DATABASE_URL": url},
    )
    assert done.stderr == ""
    assert SUFFIX.sub("-7f3a21", done.stdout) == output


class Worker:
    """The application of the page in a server of its own, as one worker process would have it."""

    def __init__(self, folder: Path, url: str) -> None:
        (folder / "application.py").write_text(APPLICATION)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        number = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "application:app", "--fd", str(number), "--log-level", "warning"],
            cwd=folder,
            env={**os.environ, "DATABASE_URL": url},
            pass_fds=[number],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the document that it answers with."""
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, method=method), timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def leading(self) -> bool:
        """Whether it says so."""
        return bool(self.ask("GET", "/leader")[1]["leading"])

    def stop(self) -> str:
        """End it as an operator does, and return what it printed."""
        self._process.terminate()
        output, _ = self._process.communicate(timeout=60)
        self._listener.close()
        return output


def test_the_application_works_on_the_leader_alone_and_moves(store_url: str, tmp_path: Path) -> None:
    first = Worker(tmp_path, store_url)
    standby: Worker | None = None
    try:
        wait_until(first.leading, what="a leader")
        standby = Worker(tmp_path, store_url)
        status, made = first.ask("POST", "/reports")
        assert status == 200
        wait_until(lambda: first.ask("GET", "/leader")[1]["refreshed"] > 0, what="the leader's task")
        leader = first.ask("GET", "/leader")[1]["instance"]
        wait_until(lambda: standby.ask("POST", "/reports")[1].get("leader") == leader, what="the standby's knowing")
        status, refused = standby.ask("POST", "/reports")
        assert status == 503
        assert f"{leader} does, in term {made['term']}" in refused["detail"]
        assert standby.ask("GET", "/leader")[1]["refreshed"] == 0
        assert first.stop() == ""
        wait_until(standby.leading, what="the standby as leader")
        assert standby.ask("POST", "/reports")[1]["term"] > made["term"]
        wait_until(lambda: standby.ask("GET", "/leader")[1]["refreshed"] > 0, what="the next leader's task")
    finally:
        first.stop()
        assert standby is None or standby.stop() == ""


def test_the_page_names_the_defaults_and_the_terms_of_the_code() -> None:
    page = PAGE.read_text()
    timing = Timing()
    assert f"`lease_duration` | {timing.lease_seconds:g} s |" in page
    assert f"| {timing.renewal_seconds:g} s, {timing.jitter_seconds:g} s |" in page
    assert f"`attempt_timeout` | {timing.attempt_seconds:g} s |" in page
    assert f"`safety_margin` | {timing.margin_seconds:g} s |" in page
