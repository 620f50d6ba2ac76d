"""Edits under a replica that runs: what it takes, what it refuses, and what goes on meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import PROCESS_SECONDS, Command
from tests.cli.test_run import Replica
from tests.relay import Relay
from tests.waiting import wait_until

HEAD = """\
version: 1
service: {{shutdown_grace: 60s}}
database: {{url: "{url}"}}
election: {{lease_duration: 2s, renewal_interval: 300ms, jitter_range: 100ms, attempt_timeout: 500ms, safety_margin: 200ms}}
jobs:
"""  # noqa: E501
OLD = "  old: {command: echo old >> old.txt, every: 200ms}\n"
NEW = "  new: {command: echo new >> new.txt, every: 200ms}\n"


class Place:
    """A folder with a configuration, and replicas that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = "sqlite:///scheduler.db"
        self.replicas: list[Replica] = []

    def write(self, *jobs: str) -> None:
        """Write the configuration in place."""
        (self.folder / "config.yaml").write_text(HEAD.format(url=self.url) + "".join(jobs))

    def start(self) -> Replica:
        self.replicas.append(Replica(self.folder, f"replica-{len(self.replicas)}"))
        return self.replicas[-1]

    def lines(self, name: str) -> int:
        path = self.folder / name
        return path.read_text().count("\n") if path.exists() else 0

    def goes_on(self, name: str) -> None:
        """Wait until the job that writes this file has run twice more: once may have been under way."""
        before = self.lines(name)
        wait_until(lambda: self.lines(name) >= before + 2, PROCESS_SECONDS)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The test's folder; no replica outlives it."""
    place = Place(tmp_path)
    yield place
    for replica in place.replicas:
        with contextlib.suppress(ProcessLookupError):
            os.kill(replica.process.pid, signal.SIGKILL)
        replica.process.wait(PROCESS_SECONDS)


def wait_for(replica: Replica, name: str, count: int = 1) -> dict[str, Any]:
    """Return the line that tells an event for the `count`th time."""
    wait_until(lambda: len(replica.events(name)) >= count or replica.process.poll() is not None, PROCESS_SECONDS)
    assert len(replica.events(name)) >= count, replica.log
    return replica.events(name)[count - 1]


def test_an_edit_is_taken_by_itself(place: Place, process: Command) -> None:
    place.write(OLD)
    replica = place.start()
    place.goes_on("old.txt")

    place.write(NEW)
    reloaded = wait_for(replica, "config_reloaded")
    assert (reloaded["added"], reloaded["removed"]) == ("new", "old")
    place.goes_on("new.txt")
    runs = process("runs", "old", "--limit", 1000, "--json", folder=place.folder).document
    place.goes_on("new.txt")
    later = process("runs", "old", "--limit", 1000, "--json", folder=place.folder).document
    assert [run["id"] for run in later] == [run["id"] for run in runs], "a removed job has no ticks"
    status = process("status", "--json", folder=place.folder).document
    assert status["replicas"][0]["config_hash"] == reloaded["hash"]


def test_a_wrong_edit_is_refused_and_the_jobs_go_on(place: Place) -> None:
    place.write(OLD)
    replica = place.start()
    place.goes_on("old.txt")

    place.write(OLD, "  new: {command: echo, every: soon}\n")
    rejected = wait_for(replica, "config_rejected")
    assert rejected["level"] == "error"
    assert "jobs.new.every: 'soon' is not a duration" in rejected["error"]
    place.goes_on("old.txt")

    place.write(OLD, NEW)
    wait_for(replica, "config_reloaded")
    place.goes_on("new.txt")
    assert len(replica.events("config_rejected")) == 1


def test_the_signal_reloads_at_once_and_says_when_nothing_changed(place: Place) -> None:
    place.write(OLD)
    replica = place.start()
    replica.wait_for("leader_elected")
    replica.process.send_signal(signal.SIGHUP)
    wait_for(replica, "config_unchanged")
    place.write(OLD, NEW)
    replica.process.send_signal(signal.SIGHUP)
    assert wait_for(replica, "config_reloaded")["added"] == "new"


def test_a_signal_before_the_service_has_begun_does_no_harm(place: Place) -> None:
    place.write(OLD, "  slow: {run: 'slow:main', manual: true}\n")
    (place.folder / "jobs").mkdir()
    (place.folder / "jobs" / "slow.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('loading').touch()\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "def main(): ...\n"
    )
    replica = place.start()
    wait_until((place.folder / "loading").exists, PROCESS_SECONDS)
    replica.process.send_signal(signal.SIGHUP)
    (place.folder / "go").touch()
    replica.wait_for("leader_elected")


def test_a_storm_of_signals_does_no_harm_not_even_while_it_drains(place: Place) -> None:
    place.write("  patient: {command: 'touch begun; until [ -e go ]; do sleep 0.05; done', every: 100ms}\n")
    replica = place.start()
    wait_until((place.folder / "begun").exists, PROCESS_SECONDS)
    for _ in range(100):
        replica.process.send_signal(signal.SIGHUP)
    wait_for(replica, "config_unchanged")
    replica.process.send_signal(signal.SIGTERM)
    replica.wait_for("service_draining")
    place.write(OLD)
    for _ in range(300):
        replica.process.send_signal(signal.SIGHUP)
        time.sleep(0.001)  # each is to meet it somewhere else
    (place.folder / "go").touch()
    assert replica.process.wait(PROCESS_SECONDS) == 0
    assert not replica.events("config_reloaded")


def test_a_running_job_is_not_disturbed_and_its_next_run_has_the_new_arguments(place: Place, process: Command) -> None:
    job = "  job: {{command: 'echo {0} >> out.txt; until [ -e go ]; do sleep 0.05; done; echo {0} >> out.txt', every: 100ms}}\n"  # noqa: E501
    place.write(job.format("first"))
    replica = place.start()
    wait_until(lambda: place.lines("out.txt") == 1, PROCESS_SECONDS)
    place.write(job.format("second"))
    assert wait_for(replica, "config_reloaded")["changed"] == "job"
    (place.folder / "go").touch()
    wait_until(lambda: place.lines("out.txt") >= 4, PROCESS_SECONDS)
    assert (place.folder / "out.txt").read_text().split()[:4] == ["first", "first", "second", "second"]


def test_a_run_of_a_removed_job_may_finish_and_is_ended_by_the_drain(place: Place, process: Command) -> None:
    place.write(
        "  job: {command: 'touch begun; until [ -e go ]; do sleep 0.05; done', every: 100ms, kill_after: 100ms}\n"
    )
    replica = place.start()
    wait_until((place.folder / "begun").exists, PROCESS_SECONDS)
    place.write(OLD)
    wait_for(replica, "config_reloaded")
    place.goes_on("old.txt")
    replica.process.send_signal(signal.SIGTERM)
    replica.wait_for("service_draining")
    assert replica.end(signal.SIGTERM) == 1  # a second signal: its run is cut off, in the way that its job said
    assert not replica.events("thread_crashed")
    runs = process("runs", "job", "--limit", 1000, "--json", folder=place.folder).document
    assert {run["state"] for run in runs if run["attempt"]} <= {"cancelled", "lost"}


def test_another_schedule_holds_from_the_edit_on(place: Place, process: Command) -> None:
    place.write(OLD)
    replica = place.start()
    place.goes_on("old.txt")
    place.write(OLD.replace("200ms", "1h"))
    wait_for(replica, "config_reloaded")

    def state() -> tuple[int, str]:
        status = process("status", "--json", folder=place.folder).document
        return place.lines("old.txt"), status["jobs"][0]["schedule"]

    wait_until(lambda: "1h" in state()[1] or "3600" in state()[1], PROCESS_SECONDS)
    place.write(OLD)
    wait_for(replica, "config_reloaded", 2)
    place.goes_on("old.txt")


def test_a_new_function_runs(place: Place) -> None:
    place.write(OLD)
    replica = place.start()
    replica.wait_for("leader_elected")
    (place.folder / "jobs").mkdir()
    (place.folder / "jobs" / "fresh.py").write_text("def main(): open('fresh.txt', 'a').write('fresh\\n')\n")
    place.write(OLD, "  fresh: {run: 'fresh:main', every: 200ms}\n")
    wait_for(replica, "config_reloaded")
    place.goes_on("fresh.txt")

    (place.folder / "jobs" / "fresh.py").write_text("def main(): open('other.txt', 'a').write('other\\n')\n")
    changed = wait_for(replica, "module_changed")
    assert (changed["module"], changed["jobs"]) == ("jobs.fresh", "fresh")
    place.goes_on("fresh.txt")
    assert not (place.folder / "other.txt").exists()


def test_a_module_that_takes_long_to_load_holds_up_nothing(place: Place) -> None:
    (place.folder / "jobs").mkdir()
    (place.folder / "jobs" / "quick.py").write_text("def main(): open('quick.txt', 'a').write('quick\\n')\n")
    quick = "  quick: {run: 'quick:main', every: 200ms}\n"
    place.write(quick)
    replica = place.start()
    place.goes_on("quick.txt")
    (place.folder / "jobs" / "slow.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('loading').touch()\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "def main(): ...\n"
    )
    place.write(quick, "  slow: {run: 'slow:main', manual: true}\n")
    wait_until((place.folder / "loading").exists, PROCESS_SECONDS)
    place.goes_on("quick.txt")
    assert not replica.events("leadership_suspect")
    assert replica.end(signal.SIGTERM) == 0


def test_a_config_map_is_exchanged(place: Place) -> None:
    place.write(OLD)
    for name, jobs in (("first", OLD), ("second", NEW)):
        (place.folder / name).mkdir()
        (place.folder / name / "config.yaml").write_text(HEAD.format(url=f"sqlite:///{place.folder}/s.db") + jobs)
    (place.folder / "config.yaml").unlink()
    (place.folder / "..data").symlink_to("first")
    (place.folder / "config.yaml").symlink_to(Path("..data") / "config.yaml")
    replica = place.start()
    replica.wait_for("leader_elected")
    (place.folder / "..data_tmp").symlink_to("second")
    (place.folder / "..data_tmp").rename(place.folder / "..data")
    assert wait_for(replica, "config_reloaded")["added"] == "new"


def test_settings_that_need_a_restart_are_named(place: Place) -> None:
    place.write(OLD)
    replica = place.start()
    replica.wait_for("leader_elected")
    place.write(OLD, NEW, "workers: {threads: 3}\n")
    assert wait_for(replica, "restart_needed")["settings"] == "workers.threads"
    assert wait_for(replica, "config_reloaded")["added"] == "new"


def test_a_rolling_edit_shows_drift_and_ends_it(place: Place, process: Command, postgres_url: str) -> None:
    place.url = postgres_url
    folders = [place.folder / name for name in ("one", "two", "three")]
    replicas = []
    for folder in folders:
        folder.mkdir()
        (folder / "config.yaml").write_text(HEAD.format(url=postgres_url) + OLD)
        place.replicas.append(Replica(folder, "replica"))
        replicas.append(place.replicas[-1])
    for replica in replicas:
        replica.wait_for("service_started")
    wait_until(lambda: len(_status(process, folders[0])["replicas"]) == 3, PROCESS_SECONDS)
    assert not _status(process, folders[0])["config_drift"]

    (folders[0] / "config.yaml").write_text(HEAD.format(url=postgres_url) + NEW)
    wait_for(replicas[0], "config_reloaded")
    for replica in replicas:
        wait_for(replica, "config_drift")
    assert _status(process, folders[0])["config_drift"]
    for folder, replica in zip(folders[1:], replicas[1:], strict=True):
        (folder / "config.yaml").write_text(HEAD.format(url=postgres_url) + NEW)
        wait_for(replica, "config_reloaded")
    for replica in replicas:
        wait_for(replica, "drift_ended")
    wait_until(lambda: not _status(process, folders[0])["config_drift"], PROCESS_SECONDS)


def _status(process: Command, folder: Path) -> dict[str, Any]:
    answer: dict[str, Any] = process("status", "--json", folder=folder, exit_code=None).document
    return answer


JOB_OF_A_TERM = "  {0}: {{command: 'touch {0}.begun; until [ -e go ]; do sleep 0.05; done', every: 100ms, {1}}}\n"


@pytest.fixture
def two_jobs(place: Place) -> Callable[[], None]:
    """One that shall end with the term in which it was started, and one that may finish."""
    place.write(
        JOB_OF_A_TERM.format("cancels", "on_leadership_lost: cancel"),
        JOB_OF_A_TERM.format("finishes", "on_leadership_lost: finish"),
    )

    def begun() -> None:
        for name in ("cancels", "finishes"):
            wait_until((place.folder / f"{name}.begun").exists, PROCESS_SECONDS)

    return begun


def test_a_leader_that_was_cut_off_ends_the_runs_that_shall_not_go_on(
    place: Place, two_jobs: Callable[[], None], process: Command, postgres_url: str
) -> None:
    with Relay(postgres_url) as line:
        (place.folder / "config.yaml").write_text(
            (place.folder / "config.yaml").read_text().replace(place.url, line.url)
        )
        replica = place.start()
        two_jobs()
        line.stall()
        replica.wait_for("leadership_lost")
        ended = wait_for(replica, "run_finished")
        assert (ended["job"], ended["state"]) == ("cancels", "cancelled")
        line.heal()
        wait_for(replica, "leader_elected", 2)
        (place.folder / "go").touch()
        wait_until(lambda: any(one["job"] == "finishes" for one in replica.events("run_finished")), PROCESS_SECONDS)
        assert replica.end(signal.SIGTERM) == 0
    assert _first_state(process, place, "cancels", postgres_url) == "cancelled"
    assert _first_state(process, place, "finishes", postgres_url) == "succeeded"


def test_a_drain_ends_no_run_because_of_its_term(place: Place, two_jobs: Callable[[], None], process: Command) -> None:
    replica = place.start()
    two_jobs()
    replica.process.send_signal(signal.SIGTERM)
    replica.wait_for("leadership_released")
    (place.folder / "go").touch()
    assert replica.process.wait(PROCESS_SECONDS) == 0
    url = f"sqlite:///{place.folder}/scheduler.db"
    assert _first_state(process, place, "cancels", url) == "succeeded"
    assert _first_state(process, place, "finishes", url) == "succeeded"


def _first_state(process: Command, place: Place, job: str, url: str) -> str:
    runs = process("runs", job, "--database", url, "--limit", 1000, "--json", folder=place.folder).document
    first: dict[str, Any] = min((run for run in runs if run["attempt"]), key=lambda run: run["id"])
    return str(first["state"])
