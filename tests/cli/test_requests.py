"""`trigger`, `pause`, `resume`, `cancel` and `resign`, asked of replicas from a folder that has nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests import forked
from tests.cli.conftest import PROCESS_SECONDS, Answered, Command, process_environment
from tests.cli.test_run import Replica
from tests.servers import PostgresServer
from tests.waiting import wait_until

CONFIG = """\
version: 1
database: {{url: "{url}"}}
election: {{lease_duration: 2s, renewal_interval: 300ms, jitter_range: 100ms, attempt_timeout: 500ms, safety_margin: 200ms}}
jobs:
  greet: {{run: "greet:main", manual: true, kwargs: {{whom: you}}}}
  salute: {{run: "greet:main", manual: true, args: [you]}}
  fail: {{command: "echo before; exit 3", manual: true}}
  patient: {{command: "echo begun; until [ -e go ]; do sleep 0.05; done", manual: true}}
  off: {{command: "true", every: 1s, enabled: false}}
  often: {{command: "true", every: 200ms}}
"""  # noqa: E501
GREET = """\
def main(whom: str) -> str:
    print(f"hello {whom}")
    return whom.upper()
"""


class Asking:
    """A command that goes on, and what it tells meanwhile on stderr."""

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        told, stderr = os.pipe()
        self._told = os.fdopen(told)
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self.process = forked.start(words, folder, process_environment(), stdout=self._out.fileno(), stderr=stderr)
        os.close(stderr)

    def read_until(self, beginning: str) -> list[str]:
        """Read what is told up to the line that begins so."""
        told = [self._told.readline()]
        while not told[-1].startswith(beginning):
            assert told[-1], told
            told.append(self._told.readline())
        return told

    def answered(self) -> Answered:
        """Return what it said once it has ended, but for what was read."""
        err = self._told.read()
        code = self.process.wait(PROCESS_SECONDS)
        self._out.seek(0)
        return Answered(code, self._out.read(), err)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PROCESS_SECONDS)
        self._told.close()
        self._out.close()


class Service:
    """Replicas in one folder, and a person in another who knows only the database."""

    def __init__(self, folder: Path, url: str, command: Command, process: Command) -> None:
        self._folder = folder / "service"
        (self._folder / "jobs").mkdir(parents=True)
        (self._folder / "jobs" / "greet.py").write_text(GREET)
        (self._folder / "config.yaml").write_text(CONFIG.format(url=url))
        self.empty = folder / "empty"
        self.empty.mkdir()
        self._place = ("--database", url)
        self.on_sqlite = url.startswith("sqlite")
        self._command = command
        self._process = process
        self.replicas: list[Replica] = []

    def start(self) -> Replica:
        """Start a replica; the first is waited for until it has taken up the jobs."""
        self.replicas.append(Replica(self._folder, f"replica-{len(self.replicas)}"))
        self.replicas[-1].wait_for("leader_observed" if len(self.replicas) > 1 else "jobs_adopted")
        return self.replicas[-1]

    def ask(self, *words: object, exit_code: int | None = 0) -> Answered:
        return self._command(*words, *self._place, exit_code=exit_code)

    def ask_from_elsewhere(self, *words: object) -> Answered:
        """Ask as a process of its own, in a folder that has nothing."""
        return self._process(*words, *self._place, folder=self.empty)

    def asking(self, *words: str) -> Asking:
        """Begin to ask; the answer is to be read."""
        return Asking((*words, *self._place), self.empty)

    def run(self, run_id: int) -> dict[str, Any]:
        document: dict[str, Any] = self.ask("runs", "show", run_id, "--json").document
        return document

    def reasons(self, job: str) -> set[str]:
        """Why ticks of a job were skipped."""
        return {run["reason"] for run in self.ask("runs", job, "--state", "skipped", "--json").document}

    def state(self, run_id: int) -> str:
        return str(self.run(run_id)["state"])

    def let_go(self) -> None:
        """Let the patient job end."""
        (self._folder / "go").touch()


@pytest.fixture
def service(tmp_path: Path, store_url: str, command: Command, process: Command) -> Iterator[Service]:
    """The service of this test, on SQLite and on PostgreSQL; none of its replicas outlives it."""
    yield from until_the_end(Service(tmp_path, store_url, command, process))


@pytest.fixture
def hurt(tmp_path: Path, own_server: PostgresServer, command: Command, process: Command) -> Iterator[Service]:
    """A service on a server that the test may hurt."""
    yield from until_the_end(Service(tmp_path, own_server.url, command, process))


def until_the_end(service: Service) -> Iterator[Service]:
    yield service
    for replica in service.replicas:
        with contextlib.suppress(ProcessLookupError):
            os.kill(replica.process.pid, signal.SIGKILL)
        replica.process.wait(PROCESS_SECONDS)


def test_trigger_waits_for_the_run_and_hands_its_output_on(service: Service) -> None:
    leader = service.start()

    answered = service.ask_from_elsewhere("trigger", "greet", "--wait")

    assert answered.out == "hello you\n"
    instance = leader.events("leader_elected")[0]["instance"]
    assert any(line.startswith(f"started on {instance} at ") for line in answered.lines), answered.lines
    assert " of greet succeeded after " in answered.lines[-1]
    assert list(service.empty.iterdir()) == []


def test_trigger_gives_scripts_one_document(service: Service) -> None:
    service.start()

    document = service.ask("trigger", "greet", "--wait", "--by", "ci", "--key", "build-7", "--json").document

    assert (document["kind"], document["state"], document["new"]) == ("manual", "succeeded", True)
    assert (document["requested_by"], document["request_key"]) == ("ci", "build-7")
    assert (document["output"], document["attempts"][0]["result"]) == ("hello you\n", "'YOU'")
    again = service.ask("trigger", "greet", "--key", "build-7", "--json")
    assert (again.document["id"], again.document["new"]) == (document["id"], False)
    assert "the key 'build-7' was used before" in again.err


def test_a_triggered_run_gets_its_arguments(service: Service) -> None:
    service.start()

    assert service.ask("trigger", "greet", "--wait", "--arg", "whom=Ann").out == "hello Ann\n"
    assert service.ask("trigger", "salute", "--wait", "--args", '["Bob"]').out == "hello Bob\n"


def test_a_run_that_fails_makes_the_exit_code_one_and_says_why(service: Service) -> None:
    service.start()

    answered = service.ask("trigger", "fail", "--wait", exit_code=1)

    assert answered.out == "before\n"
    assert " of fail failed after " in answered.lines[-1]
    assert "exit code 3" in answered.err


def test_a_disabled_job_can_be_triggered(service: Service) -> None:
    service.start()

    assert service.ask("trigger", "off", "--wait", "--json").document["state"] == "succeeded"


def test_whoever_stops_waiting_leaves_the_run_going(service: Service) -> None:
    service.start()
    with service.asking("trigger", "patient", "--wait") as waiting:
        told = waiting.read_until("started on ")
        waiting.process.send_signal(signal.SIGINT)
        answered = waiting.answered()
    assert answered.code == 130
    assert " goes on: `scheduler-service runs show " in answered.err
    assert "Traceback" not in answered.err
    run_id = int(told[0].split()[1])
    assert service.state(run_id) == "running"
    service.let_go()
    wait_until(lambda: service.state(run_id) == "succeeded", PROCESS_SECONDS)


def test_whoever_waits_outlasts_a_restart_of_the_database(hurt: Service, own_server: PostgresServer) -> None:
    hurt.start()
    with hurt.asking("trigger", "patient", "--wait", "--json") as waiting:
        waiting.read_until("started on ")
        own_server.stop("immediate")
        waiting.read_until("the database does not answer (")
        hurt.let_go()
        own_server.start()
        answered = waiting.answered()
    assert answered.code == 0, answered.err
    assert answered.document["state"] == "succeeded"


def test_a_paused_job_starts_nothing_until_it_is_resumed(service: Service) -> None:
    service.start()
    until = "2999-01-01T00:00:00Z"

    answered = service.ask("pause", "often", "--by", "ann", "--reason", "stocktaking", "--until", until, "--json")

    paused = answered.document["paused"]
    assert (paused["until"], paused["by"], paused["reason"]) == (until, "ann", "stocktaking")
    jobs = {job["job"]: job for job in service.ask("status", "--json").document["jobs"]}
    assert (jobs["often"]["paused"], jobs["greet"]["paused"]) == (paused, None)
    asked = service.ask("trigger", "often", "--json")
    assert "often is paused: the run starts when the job is resumed" in asked.err
    wait_until(lambda: "paused" in service.reasons("often"), PROCESS_SECONDS)
    assert service.state(asked.document["id"]) == "waiting"

    assert service.ask("resume", "often").out.startswith("often is resumed; it was paused from ")

    wait_until(lambda: service.state(asked.document["id"]) == "succeeded", PROCESS_SECONDS)
    answered = service.ask("resume", "often")
    assert (answered.out, answered.err) == ("", "often is not paused\n")


def test_a_waiting_run_is_cancelled_at_once(service: Service) -> None:
    service.start()
    service.ask("pause", "greet")
    run_id = service.ask("trigger", "greet", "--json").document["id"]

    answered = service.ask("cancel", run_id, "--by", "ann")

    assert answered.out == f"run {run_id} of greet is cancelled: it had not begun\n"
    document = service.run(run_id)
    assert (document["state"], document["cancel_requested_by"]) == ("cancelled", "ann")
    assert service.ask("cancel", run_id).err == f"run {run_id} of greet has ended before: cancelled\n"


def test_a_run_that_goes_on_is_stopped_and_whoever_waits_for_it_is_told_who_asked(service: Service) -> None:
    service.start()
    with service.asking("trigger", "patient", "--wait", "--json") as waiting:
        run_id = int(waiting.read_until("run ")[0].split()[1])
        waiting.read_until("started on ")

        cancelled = service.ask("cancel", run_id, "--by", "ann")

        answered = waiting.answered()
    assert cancelled.out.startswith(f"run {run_id} of patient is asked to stop, since ")
    assert answered.code == 1
    document = answered.document
    assert (document["state"], document["cancel_requested_by"], document["attempt"]) == ("cancelled", "ann", 1)
    assert answered.err.splitlines()[-1].endswith(", asked for by ann")


def test_the_leader_hands_over_when_it_is_asked_to(service: Service) -> None:
    first = service.start()
    observed = service.start().wait_for("leader_observed")

    document = service.ask("resign", "--by", "ann", "--json").document

    former = first.events("leader_elected")[0]
    assert document["asked"] == {"instance_id": former["instance"], "term": former["term"]}
    if not service.on_sqlite:  # where nobody is woken, whoever looks first leads next
        assert document["leader"]["instance_id"] == observed["instance"]
    assert document["leader"]["term"] > former["term"]
    assert first.wait_for("resign_requested")["by"] == "ann"
    assert first.process.poll() is None


def test_a_lone_leader_that_is_asked_to_resign_leads_again(service: Service) -> None:
    service.start()

    answered = service.ask("resign")

    assert answered.out.endswith(": no other replica took over\n")


def test_many_who_trigger_with_one_key_at_once_get_one_run(service: Service) -> None:
    service.start()
    with contextlib.ExitStack() as asked:
        words = ("trigger", "greet", "--wait", "--key", "once", "--json")
        asking = [asked.enter_context(service.asking(*words)) for _ in range(4)]
        answers = [one.answered() for one in asking]
    assert [answered.code for answered in answers] == [0] * 4
    assert len({answered.document["id"] for answered in answers}) == 1
    assert len(service.ask("runs", "greet", "--json").document) == 1
