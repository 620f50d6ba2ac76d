"""Every kind of job, ending in every way there is, as the ledger tells it; and what is left of them."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from scheduler_service.database import Database
from scheduler_service.ledger.requests import Requests, Triggered
from tests import forked
from tests.faults.evidence import Books
from tests.faults.fleet import LIMIT_SECONDS, Fleet
from tests.servers import PostgresServer

TIMEOUT_SECONDS = 0.5
LIMITED = {"timeout": "500ms", "kill_after": "300ms"}
BY = "tests"


def jobs(marker: str, gate: Path) -> dict[str, dict[str, Any]]:
    def function(name: str, *, isolation: str = "thread", **settings: Any) -> dict[str, Any]:
        kwargs = {"marker": marker, **settings.pop("kwargs", {})}
        return {"run": f"kinds:{name}", "kwargs": kwargs, "isolation": isolation, "manual": True, **settings}

    def command(script: str, **settings: Any) -> dict[str, Any]:
        return {"command": f"echo hello; sleep 600 & : {marker}; {script}", "manual": True, **settings}

    opened = {"kwargs": {"gate": str(gate)}}
    return {
        "thread-returns": function("returns"),
        "thread-raises": function("raises"),
        "thread-times-out": function("times_out", **LIMITED),
        "thread-ignores": function("ignores", **LIMITED, **opened),
        "thread-exits": function("exits"),
        "coroutine-returns": function("returns_later"),
        "coroutine-raises": function("raises_later"),
        "coroutine-times-out": function("times_out_later", **LIMITED),
        "coroutine-ignores": function("ignores_later", **LIMITED, **opened),
        "process-returns": function("returns", isolation="process"),
        "process-raises": function("raises", isolation="process"),
        "process-times-out": function("times_out", isolation="process", **LIMITED),
        "process-ignores": function("ignores_signals", isolation="process", **LIMITED),
        "process-dies": function("dies", isolation="process"),
        "process-exits": function("exits", isolation="process"),
        "command-returns": command("exit 0"),
        "command-raises": command("exit 3"),
        "command-times-out": command("sleep 600", **LIMITED),
        "command-ignores": command("trap '' TERM; while :; do sleep 0.05; done", **LIMITED),
        "command-dies": command("kill -9 $$$$"),  # two dollars are one
        "in-a-thread": {"run": "kinds:nothing", "manual": True, "overlap": "allow"},
        "in-a-process": {"run": "kinds:nothing", "manual": True, "isolation": "process", "overlap": "allow"},
        "in-a-command": {"command": ["true"], "manual": True, "overlap": "allow"},
    }


# State, exit code, and what its error says.
ENDS: Mapping[str, tuple[str, int | None, str | None]] = {
    "thread-returns": ("succeeded", None, None),
    "thread-raises": ("failed", None, "ValueError: no way"),
    "thread-times-out": ("timed_out", None, "timed out after 0.5s"),
    "thread-ignores": ("timed_out", None, "it has not returned"),
    "thread-exits": ("failed", 3, "exit code 3"),
    "coroutine-returns": ("succeeded", None, None),
    "coroutine-raises": ("failed", None, "ValueError: no way"),
    "coroutine-times-out": ("timed_out", None, "timed out after 0.5s"),
    "coroutine-ignores": ("timed_out", None, "it has not returned"),
    "process-returns": ("succeeded", None, None),
    "process-raises": ("failed", None, "ValueError: no way"),
    "process-times-out": ("timed_out", None, "timed out after 0.5s"),
    "process-ignores": ("timed_out", 137, "ignored SIGTERM"),
    "process-dies": ("failed", 137, "SIGKILL"),
    "process-exits": ("failed", 3, "exit code 3"),
    "command-returns": ("succeeded", 0, None),
    "command-raises": ("failed", 3, "exit code 3"),
    "command-times-out": ("timed_out", 143, "timed out after 0.5s"),
    "command-ignores": ("timed_out", 137, "ignored SIGTERM"),
    "command-dies": ("failed", 137, "SIGKILL"),
}


class Story:
    """One replica whose jobs are triggered one by one."""

    def __init__(self, folder: Path, url: str) -> None:
        self.marker = f"marker-{uuid.uuid4().hex}"
        self.gate = folder / "gate"
        self.books = Books(url)
        self.url = url
        self.fleet = Fleet(folder, url, jobs(self.marker, self.gate), history={"keep_runs": 1_000_000})
        self.database = Database(url)
        self.requests = Requests(self.database, 1)

    def trigger(self, job: str) -> int:
        asked = self.requests.trigger(job, by=BY)
        assert isinstance(asked, Triggered), asked
        return asked.run_id

    def wait_for_all(self) -> None:
        self.fleet.wait_until(
            lambda: not self.books.rows("select 1 from {p}run where state in ('waiting', 'running') limit 1"),
            limit_seconds=300,
        )

    def wait_for_slots(self) -> None:
        self.fleet.wait_until(lambda: not self.books.rows("select 1 from {p}run where slot_held limit 1"))

    def document(self, run_id: int) -> Any:
        words = ("runs", "show", str(run_id), "--json", "--database", self.url)
        shown = forked.run(words, self.fleet.folder, os.environ, LIMIT_SECONDS)
        assert shown.returncode == 0, shown.stderr
        return json.loads(shown.stdout)

    def left_behind(self) -> list[str]:
        """Return the command lines of processes that carry the marker, but for the replica's own configuration."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if self.marker in line:
                found.append(line)
        return found


@pytest.fixture
def story(tmp_path: Path, own_server: PostgresServer) -> Iterator[Story]:
    """One replica at work."""
    story = Story(tmp_path, own_server.url)
    with story.fleet:
        story.fleet.start()
        story.fleet.wait_until(lambda: story.books.rows("select 1 from {p}job_state limit 1"))
        yield story
    story.database.dispose()


def test_the_ledger_tells_how_each_kind_of_job_ended(story: Story) -> None:
    runs = {job: story.trigger(job) for job in ENDS}
    story.wait_for_all()
    assert len(story.books.rows("select 1 from {p}run where slot_held")) == 2, "two threads go on"
    story.gate.touch()
    story.wait_for_slots()
    told: dict[str, tuple[str, int | None, str | None]] = {}
    for job, run_id in runs.items():
        document = story.document(run_id)
        state, _, error = ENDS[job]
        told[job] = (document["state"], document["exit_code"], error)
        assert error is None or error in document["error"], (job, document["error"])
        assert (error is None) == (document["error"] is None), (job, document["error"])
        assert document["output"].startswith("hello\n"), (job, document["output"])
        assert document["requested_by"] == BY
        (attempt,) = document["attempts"]
        assert attempt["state"] == state
        least = TIMEOUT_SECONDS if state == "timed_out" else 0.0
        assert document["duration_seconds"] >= least, job
        # It cannot have taken longer than from its start until we looked.
        lasted = story.books.now() - story.books.moment(
            story.books.rows(f"select started_at from {{p}}run_attempt where run_id = {run_id}")[0][0]
        )
        assert timedelta(seconds=document["duration_seconds"]) <= lasted, job
        if job in ("thread-returns", "coroutine-returns", "process-returns"):
            assert attempt["result"] == "42"
        if job.startswith("process"):
            assert attempt["peak_memory_bytes"] > 1_000_000
    assert told == ENDS
    assert story.left_behind() == []


@pytest.mark.long
def test_a_thousand_runs_of_each_kind_leave_no_slot_thread_descriptor_or_process(story: Story) -> None:
    replica = story.fleet.replicas[0]
    kinds = ("in-a-thread", "in-a-process", "in-a-command")

    def resources() -> dict[str, int]:
        return {name: len(list(Path(f"/proc/{replica.pid}/{name}").iterdir())) for name in ("fd", "task")}

    def run_each(count: int) -> None:
        for _ in range(count):
            for kind in kinds:
                story.trigger(kind)
        story.wait_for_all()
        story.wait_for_slots()

    run_each(50)
    before = resources()
    run_each(1000)
    after = resources()
    states = dict(story.books.rows("select state, count(*) from {p}run group by state"))
    assert states == {"succeeded": 3 * 1050}
    print(before, after)
    assert after["fd"] <= before["fd"] + 5
    assert after["task"] <= before["task"] + 5
    story.fleet.drain()
    assert story.fleet.strange_deaths() == []
    assert story.left_behind() == []
