"""The log of a real replica: each line that a run writes names the run, and none of them a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fleet import Fleet

TOKEN, READ_TOKEN = 'w"\\' + "w" * 30, "r" * 32
MODULE = f"""
import logging, os, subprocess, sys, threading, warnings

def writes():
    print("said by print")
    print("said to stderr", file=sys.stderr)
    logging.getLogger("mine").warning("said by logging")
    warnings.warn(f"said by warnings, which repeat no text: {{os.urandom(8).hex()}}")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("mine").exception("said with a traceback")

async def coroutine():
    writes()

def leaks():
    token = {TOKEN!r}
    print("printed", token)
    logging.getLogger("mine").error("logged %s", {READ_TOKEN!r})
    url = "https://anna:s3cret-1@host/x"
    raise OSError(f"cannot reach {{url}}, sent Authorization: Bearer {{token}} to /x?token=s3cret-2")
"""
SAID = {"said by print", "said to stderr", "said by logging", "said by warnings", "said with a traceback"}


@pytest.fixture
def fleet(tmp_path: Path, sqlite_url: str) -> Iterator[Fleet]:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/writing.py").write_text(MODULE)
    once = {"every": "1s"}
    jobs: dict[str, Any] = {
        "thread": {"run": "writing:writes", **once},
        "limited": {"run": "writing:writes", "timeout": "30s", **once},
        "coroutine": {"run": "writing:coroutine", **once},
        "process": {"run": "writing:writes", "isolation": "process", **once},
        "command": {"command": "echo said by print; echo said to stderr >&2", **once},
        "leaks": {"run": "writing:leaks", **once},
        "leaking_process": {"run": "writing:leaks", "isolation": "process", **once},
    }
    http = {"port": 0, "token": TOKEN, "read_token": READ_TOKEN}
    service = {"jobs_folder": str(tmp_path / "jobs")}
    with Fleet(tmp_path, sqlite_url, jobs, http=http, service=service) as made:
        yield made


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("thread", SAID),
        ("limited", SAID),
        ("coroutine", SAID),
        ("process", SAID),
        ("command", {"said by print", "said to stderr"}),
    ],
)
def test_each_line_that_a_run_writes_names_the_run(fleet: Fleet, job: str, said: set[str]) -> None:
    (replica,) = fleet.start()
    ended = fleet.wait_for("run_finished", replica, job=job, state="succeeded")
    run = {name: ended[name] for name in ("instance", "term", "job", "scheduled_at", "run")}

    def lines() -> list[Any]:
        told = [entry for name in ("run_output", "log_record") for _, entry in fleet.said(name)]
        return [entry for entry in told if entry.get("run") == run["run"]]

    def text(entry: Any) -> str:
        return str(entry.get("line") or entry.get("message"))

    fleet.wait_until(lambda: all(any(word in text(entry) for entry in lines()) for word in said))
    for entry in lines():
        assert run.items() <= entry.items(), entry
    for event in ("run_started", "run_finished"):
        assert run.items() <= fleet.wait_for(event, replica, run=run["run"]).items()
    everything = [entry for name in ("run_output", "log_record") for _, entry in fleet.said(name)]
    assert not [entry for entry in everything if any(w in text(entry) for w in SAID) and "run" not in entry]


@pytest.mark.parametrize("job", ["leaks", "leaking_process"])
def test_no_secret_gets_into_the_log_whoever_writes_it(fleet: Fleet, job: str) -> None:
    (replica,) = fleet.start()
    failed = fleet.wait_for("run_failed", replica, job=job)
    assert (
        "OSError: cannot reach https://anna:***@host/x, sent Authorization: Bearer *** to /x?token=***"
        in failed["error"]
    )
    fleet.wait_until(lambda: [1 for _, entry in fleet.said("run_output") if "printed ***" in entry["line"]])
    log = (fleet.folder / "replica-1.log").read_text()
    for secret in (TOKEN, json.dumps(TOKEN)[1:-1], READ_TOKEN, "s3cret-1", "s3cret-2"):
        assert secret not in log


@pytest.mark.parametrize(("level", "told"), [("debug", True), ("info", False)])
def test_the_level_decides_what_is_told(tmp_path: Path, sqlite_url: str, level: str, told: bool) -> None:
    jobs = {"tick": {"command": "true", "every": "1s"}}
    with Fleet(tmp_path, sqlite_url, jobs, logging={"format": "json", "level": level}) as fleet:
        (replica,) = fleet.start()
        fleet.wait_for("run_finished", replica, job="tick")
        fleet.drain()
        fleet.wait_for("service_stopped", replica)
        assert bool([*fleet.said("tick_chosen")]) == told


@pytest.mark.parametrize(("form", "json_lines"), [("text", False), ("json", True), ("auto", True)])
def test_the_format_decides_how_it_is_told(tmp_path: Path, sqlite_url: str, form: str, json_lines: bool) -> None:
    jobs = {"tick": {"command": "true", "every": "1h"}}
    with Fleet(tmp_path, sqlite_url, jobs, logging={"format": form}) as fleet:
        replica_text = fleet.folder / "replica-1.log"
        if json_lines:
            fleet.start()
        else:
            fleet.launch()
            fleet.wait_until(lambda: replica_text.exists() and " leader_elected " in replica_text.read_text())
        fleet.drain()
        lines = replica_text.read_text().splitlines()
        assert all(line.startswith("{") == json_lines for line in lines)
