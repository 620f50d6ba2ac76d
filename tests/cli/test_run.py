"""`run`: replicas as processes, as a person starts and stops them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler_service import tables
from scheduler_service.clock import BootClock
from scheduler_service.config import load
from scheduler_service.database import StoreUnavailable
from scheduler_service.events import Event, Events
from scheduler_service.service import Service, assemble
from tests import forked
from tests.cli.conftest import PROCESS_SECONDS, Command, process_environment
from tests.waiting import wait_until

CONFIG = """\
version: 1
election:
  lease_duration: 2s
  renewal_interval: 300ms
  jitter_range: 100ms
  attempt_timeout: 500ms
  safety_margin: 200ms
jobs:
  note:
    command: echo "$SCHEDULER_SCHEDULED_AT" >> ticks.txt
    every: 1s
"""


class Replica:
    """A process that runs, and its log."""

    def __init__(self, folder: Path, name: str) -> None:
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as stream:
            self.process = forked.start(("run",), folder, process_environment(), stderr=stream.fileno())

    @property
    def log(self) -> str:
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [line for line in self._log.read_text().split("\n")[:-1] if name in line]
        return [line for line in map(json.loads, lines) if line["event"] == name]

    def wait_for(self, name: str) -> dict[str, Any]:
        wait_until(lambda: self.events(name) or self.process.poll() is not None, PROCESS_SECONDS)
        assert self.events(name), self.log
        return self.events(name)[0]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PROCESS_SECONDS)


class Hastened(BootClock):
    """A clock that a test puts forward."""

    ahead_seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_seconds


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Replica]]:
    """Starts a replica in the test's folder; none outlives the test."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    replicas: list[Replica] = []

    def one() -> Replica:
        replicas.append(Replica(tmp_path, f"replica-{len(replicas)}"))
        return replicas[-1]

    yield one
    for replica in replicas:
        with contextlib.suppress(ProcessLookupError):
            os.kill(replica.process.pid, signal.SIGKILL)
        replica.process.wait(PROCESS_SECONDS)


def test_two_replicas_in_one_folder_share_the_work_and_hand_it_over(
    start: Callable[[], Replica], process: Command, tmp_path: Path
) -> None:
    first = start()
    elected = first.wait_for("leader_elected")
    second = start()

    observed = second.wait_for("leader_observed")
    assert (observed["leader"], observed["term"]) == (elected["instance"], elected["term"])
    first.wait_for("run_finished")
    wait_until(lambda: len(process("status", "--json", folder=tmp_path).document["replicas"]) == 2)
    status = process("status", "--json", folder=tmp_path).document
    assert status["leader"]["instance_id"] == elected["instance"]
    assert {replica["role"] for replica in status["replicas"]} == {"leader", "standby"}

    assert first.end(signal.SIGTERM) == 0
    assert second.wait_for("leader_elected")["term"] > elected["term"]
    second.wait_for("run_finished")
    assert second.end(signal.SIGINT) == 0

    stopped = process("status", folder=tmp_path, exit_code=1)
    assert "leader    none; " in stopped.out
    runs = process("runs", "note", "--state", "succeeded", "--limit", 1000, "--json", folder=tmp_path).document
    ticks = (tmp_path / "ticks.txt").read_text().split()
    assert sorted(run["scheduled_at"] for run in runs) == sorted(ticks)
    assert {run["instance_id"] for run in runs} == {elected["instance"], observed["instance"]}
    answer = process("why", "note", ticks[0], "--json", folder=tmp_path).document
    assert (answer["decision"], answer["decided_by"]) == ("succeeded", elected["instance"])


def test_no_tick_is_looked_for_among_many_jobs_before_a_term_can_begin(
    tmp_path: Path, start: Callable[[], Replica]
) -> None:
    path = tmp_path / "config.yaml"
    many = "".join(f"  job-{number}: {{command: 'true', every: 1d}}\n" for number in range(100))
    path.write_text(path.read_text() + many)

    started = start().wait_for("service_started")

    assert started["jobs"] == 101
    assert "next_job" not in started


def test_the_first_lines_say_what_was_started(start: Callable[[], Replica]) -> None:
    started = start().wait_for("service_started")

    assert started["database"].startswith("sqlite:///")
    assert started["jobs"] == 1
    assert started["next_job"] == "note"


CHANGES = """\
import os
os.environ["WORD"] = "of a module"
os.umask(os.umask(0) ^ 0o010)
os.chdir("/")
def main(): pass
"""


def test_what_a_module_changes_as_it_is_loaded_is_nothing_to_commands(
    start: Callable[[], Replica], tmp_path: Path
) -> None:
    jobs = "  changes: {run: 'changes:main', manual: true}\n  look: {command: 'echo $WORD; umask; pwd', every: 1s}\n"
    (tmp_path / "config.yaml").write_text(f"{CONFIG}{jobs}")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "changes.py").write_text(CHANGES)
    umask = subprocess.run("umask", shell=True, capture_output=True, text=True, check=True).stdout.strip()

    replica = start()
    wait_until(lambda: len([line for line in replica.events("run_output") if line["job"] == "look"]) >= 3)

    lines = [line["line"] for line in replica.events("run_output") if line["job"] == "look"]
    assert lines[:3] == ["", umask, str(tmp_path)]


def test_an_outage_at_the_start_is_told_each_minute_and_its_end_too(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.service.CONNECT_RETRY_SECONDS", 0.01)
    (tmp_path / "config.yaml").write_text(
        f"version: 1\ndatabase: {{url: '{sqlite_url}', startup_timeout: 1d}}\njobs: {{}}\n"
    )
    told: list[tuple[str, int | None]] = []
    events, clock = Events(), Hastened()
    upgrade = tables.upgrade

    def note(event: Event) -> None:
        if event.fields.get("part") == "start":
            told.append((event.name, event.fields.get("count")))
        if event.name == "service_started":
            os.kill(os.getpid(), signal.SIGTERM)

    def away_for_two_minutes(*arguments: Any, **options: Any) -> Any:
        if clock.ahead_seconds < 120:
            clock.ahead_seconds += 30
            raise StoreUnavailable("it is away")
        return upgrade(*arguments, **options)

    events.subscribe(note)
    monkeypatch.setattr(tables, "upgrade", away_for_two_minutes)
    config = load(tmp_path / "config.yaml")
    assert Service(config, assemble(config, events, clock=clock)).run() == 0
    assert told == [("store_unavailable", None), ("store_unavailable", 3), ("store_recovered", None)]


def test_a_start_waits_for_the_migration_of_another_no_longer_than_for_the_database(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(
        f"version: 1\ndatabase: {{url: '{sqlite_url}', startup_timeout: 5s}}\njobs: {{}}\n"
    )
    waits: list[float] = []
    clock = Hastened()

    def wait(*arguments: Any, wait_seconds: float = 30.0) -> Any:
        waits.append(wait_seconds)
        clock.ahead_seconds += 60
        raise StoreUnavailable("another session is at it")

    monkeypatch.setattr(tables, "upgrade", wait)
    config = load(tmp_path / "config.yaml")
    with pytest.raises(StoreUnavailable, match="another session is at it"):
        Service(config, assemble(config, Events(), clock=clock)).run()
    (seconds,) = waits
    assert 0 < seconds <= 5
