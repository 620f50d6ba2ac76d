"""Reading the configuration again: which edits are taken when, and what is said about them."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scheduler_service.config import load
from scheduler_service.events import Event, Events
from scheduler_service.reloading import (
    AGAIN_SECONDS,
    IMPATIENT_SECONDS,
    LOOK_SECONDS,
    SETTLE_SECONDS,
    Reloaded,
    Reloader,
)

PATIENCE_SECONDS = 20.0
HELLO = "hello: {command: echo hello, every: 1s}"
BYE = "bye: {command: echo bye, every: 1s}"
SOON = "hello: {command: echo hello, every: 2s}"
WRONG = "hello: {command: echo hello, every: soon}"


class StillClock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class World:
    """A configuration in a folder, and a reloader that is stepped by hand."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    clock: StillClock = field(default_factory=StillClock)
    told: list[Event] = field(default_factory=list)
    taken: list[Reloaded] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "config.yaml"

    def write(self, *jobs: str, head: str = "") -> None:
        """Write the file in place."""
        self.path.write_text(self.text(*jobs, head=head))

    def exchange(self, *jobs: str) -> None:
        """Put another file in its place."""
        other = self.folder / "config.yaml.new"
        other.write_text(self.text(*jobs))
        other.replace(self.path)

    def text(self, *jobs: str, head: str = "") -> str:
        return "\n".join(["version: 1", head, "jobs:", *(f"  {job}" for job in jobs), ""])

    def module(self, text: str, name: str = "work") -> None:
        (self.folder / "jobs").mkdir(exist_ok=True)
        (self.folder / "jobs" / f"{name}.py").write_text(textwrap.dedent(text))

    def start(self) -> Reloader:
        """Start with what the file holds now; the first looks, which find that nothing changed, are over."""
        events = Events()
        events.subscribe(self.told.append)
        config = load(self.path, self.environ)
        reloader = Reloader(config, announce=self.taken.append, events=events, clock=self.clock, environ=self.environ)
        self.settle(reloader)
        assert self.told == []
        assert self.taken == []
        return reloader

    def settle(self, reloader: Reloader, looks: int = 2) -> None:
        for _ in range(looks):
            self.clock.now += reloader.step()

    def names(self) -> list[str]:
        return [event.name for event in self.told]

    def last(self, name: str) -> Event:
        return [event for event in self.told if event.name == name][-1]

    @property
    def in_force(self) -> list[str]:
        """The jobs of the newest configuration."""
        return [spec.id for spec in self.taken[-1].config.jobs]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    before = set(sys.modules)
    yield World(tmp_path)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "jobs":
            del sys.modules[name]


def test_an_edit_is_taken_when_it_was_the_same_in_two_looks(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(HELLO, BYE)

    assert reloader.step() == SETTLE_SECONDS
    assert world.taken == []
    assert reloader.step() == LOOK_SECONDS

    (reloaded,) = world.taken
    assert (reloaded.added, reloaded.removed, reloaded.changed) == (("bye",), (), ())
    assert world.in_force == ["hello", "bye"]
    world.settle(reloader, 5)
    assert len(world.taken) == 1


def test_what_changed_is_named(world: World) -> None:
    world.write(HELLO, BYE, "kept: {command: echo kept, every: 1s}")
    reloader = world.start()
    world.write(SOON, "new: {command: echo new, every: 1s}", "kept: {command: echo kept, every: 1s}")
    world.settle(reloader)
    (reloaded,) = world.taken
    assert (reloaded.added, reloaded.removed, reloaded.changed) == (("new",), ("bye",), ("hello",))


@pytest.mark.parametrize(
    "edit",
    [
        "hello: {command: echo again, every: 1s}",
        "hello: {command: echo hello, every: 1s, timeout: 5s}",
        "hello: {command: echo hello, every: 1s, env: {A: b}}",
        "hello: {command: echo hello, every: 1s, enabled: false}",
    ],
)
def test_any_setting_of_a_job_is_a_change(world: World, edit: str) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(edit)
    world.settle(reloader)
    assert world.taken[-1].changed == ("hello",)


def test_a_url_with_which_no_replica_could_start_again_is_refused(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(HELLO, BYE, head="database: {url: 'postgresql://u:s3cret@host:99999/x'}")
    world.settle(reloader)
    assert world.names() == ["config_rejected"]
    error = world.last("config_rejected").fields["error"]
    assert error.startswith(f"{world.path}:2:17  database.url: 99999 in the database's URL cannot be a port")
    assert world.taken == []


def test_a_half_written_file_is_no_edit(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    whole = world.text(HELLO, BYE)
    for end in range(10, len(whole), 7):
        world.path.write_text(whole[:end])
        assert reloader.step() == SETTLE_SECONDS
    world.path.write_text(whole)
    world.settle(reloader)
    assert world.names() == []
    assert world.in_force == ["hello", "bye"]


def test_a_file_that_never_rests_is_read_as_it_is(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    for number in range(1 + round(IMPATIENT_SECONDS / SETTLE_SECONDS)):
        world.write(HELLO, f"job-{number}: {{command: echo, every: 1s}}")
        world.clock.now += reloader.step()
    assert len(world.taken) == 1


def test_a_request_takes_an_edit_at_once(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(HELLO, BYE)
    reloader.step(asked=True)
    assert world.in_force == ["hello", "bye"]


def test_a_request_always_has_an_answer(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    reloader.step(asked=True)
    assert world.names() == ["config_unchanged"]
    world.write(WRONG)
    reloader.step(asked=True)
    reloader.step(asked=True)
    assert world.names() == ["config_unchanged", "config_rejected", "config_rejected"]
    world.write(HELLO)
    reloader.step(asked=True)
    assert world.names()[3:] == ["config_restored"]
    assert world.taken == []


def test_an_edit_between_the_start_and_the_first_look_is_found(world: World) -> None:
    world.write(HELLO)
    config = load(world.path, {})
    world.write(HELLO, BYE)  # while the database was being waited for
    reloader = Reloader(config, announce=world.taken.append, events=Events(), clock=world.clock, environ={})
    world.settle(reloader)
    assert world.taken[-1].added == ("bye",)


def test_a_wrong_edit_is_told_once_and_changes_nothing(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(WRONG)
    world.settle(reloader, 50)
    assert world.names() == ["config_rejected"]
    assert "jobs.hello.every: 'soon' is not a duration" in world.told[0].fields["error"]
    assert f"{world.path}:4:" in world.told[0].fields["error"]
    assert world.taken == []


def test_a_wrong_edit_of_a_function_changes_nothing(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(SOON, "new: {run: 'nowhere:main', every: 1s}")
    world.settle(reloader, 50)
    assert world.names() == ["config_rejected"]
    assert "no such module" in world.told[0].fields["error"]
    assert world.taken == []


def test_another_wrong_edit_is_told_again(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(WRONG)
    world.settle(reloader)
    world.write(WRONG, "bye: {tiemout: 5s}")
    world.settle(reloader)
    assert world.names() == ["config_rejected", "config_rejected"]
    assert "did you mean 'timeout'?" in world.told[1].fields["error"]


def test_mending_a_wrong_edit_takes_it(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(WRONG)
    world.settle(reloader)
    world.write(SOON)
    world.settle(reloader)
    assert world.names() == ["config_rejected"]
    assert world.taken[-1].changed == ("hello",)


def test_undoing_a_wrong_edit_says_that_all_is_as_before(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(WRONG)
    world.settle(reloader)
    world.write(HELLO)
    world.settle(reloader, 10)
    assert world.names() == ["config_rejected", "config_restored"]
    assert world.taken == []


def test_a_missing_file_is_a_wrong_edit(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.path.unlink()
    world.settle(reloader, 5)
    assert world.names() == ["config_rejected"]
    assert world.told[0].fields["error"].endswith(": there is no such file")
    world.write(HELLO)
    world.settle(reloader, 5)
    assert world.names() == ["config_rejected", "config_restored"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"\0",
        b"jobs: [",
        b"!!python/object/apply:os.system [true]",
        b"a: " * 1000,
        b"[" * 5000,
        b"&a [*a]",
        b"version: 1\njobs: {a: {every: " + b"9" * 5000 + b"s, command: x}}",
        b"%YAML 9.9\n---\n",
    ],
)
def test_nothing_in_a_file_ends_the_thread(world: World, content: bytes) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.path.write_bytes(content)
    world.settle(reloader)
    assert world.names() == ["config_rejected"]
    world.write(SOON)
    world.settle(reloader)
    assert world.taken[-1].changed == ("hello",)


def test_secrets_are_not_told(world: World) -> None:
    world.environ["TOKEN"] = "hunter2"
    world.write(HELLO)
    reloader = world.start()
    world.write("hello: {command: echo, every: '${TOKEN}'}")
    world.settle(reloader)
    assert world.names() == ["config_rejected"]
    assert "hunter2" not in str(world.told)


def test_the_environment_is_the_one_that_the_service_was_started_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.environ["NAME"] = "world"
    world.write("hello: {command: 'echo ${NAME}', every: 1s}")
    reloader = world.start()
    world.environ["NAME"] = "everybody"  # as a job may do to os.environ
    reloader.step(asked=True)
    assert world.names() == ["config_unchanged"]


def test_a_comment_is_no_change(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write("# says hello", HELLO)
    world.settle(reloader)
    assert world.names() == ["config_unchanged"]
    assert world.taken == []


def test_a_touched_or_exchanged_file_with_the_same_content_is_not_read(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    os.utime(world.path, (1, 1))
    world.settle(reloader)
    world.exchange(HELLO)
    world.settle(reloader)
    assert world.names() == []


def test_an_exchanged_file_is_taken(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.exchange(HELLO, BYE)
    world.settle(reloader)
    assert world.in_force == ["hello", "bye"]


def test_a_link_that_leads_elsewhere_is_taken(world: World) -> None:
    # As Kubernetes mounts a ConfigMap: the file is a link through a link to a folder, which is exchanged.
    for name, jobs in (("first", (HELLO,)), ("second", (HELLO, BYE))):
        (world.folder / name).mkdir()
        (world.folder / name / "config.yaml").write_text(world.text(*jobs))
    (world.folder / "..data").symlink_to("first")
    world.path.symlink_to(Path("..data") / "config.yaml")
    reloader = world.start()
    (world.folder / "..data_tmp").symlink_to("second")
    (world.folder / "..data_tmp").rename(world.folder / "..data")
    world.settle(reloader)
    assert world.in_force == ["hello", "bye"]


def test_a_file_that_changes_while_it_is_read_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(HELLO)
    reloader = world.start()
    edits = iter([(HELLO, BYE), (SOON,)])

    def edited(path: Path, environ: dict[str, str]) -> object:
        config = load(path, environ)
        if (jobs := next(edits, None)) is not None:
            world.exchange(*jobs)
        return config

    monkeypatch.setattr("scheduler_service.reloading.load", edited)
    world.write(BYE)
    world.settle(reloader)
    assert [one.config.jobs for one in world.taken] == [load(world.path, {}).jobs]


def test_content_that_came_and_went_while_it_was_read_is_not_mistaken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write(HELLO)
    reloader = world.start()
    rounds = []

    def other(path: Path, environ: dict[str, str]) -> object:
        rounds.append(1)
        if len(rounds) > 1:
            return load(path, environ)
        world.exchange(HELLO, BYE)
        config = load(path, environ)
        world.exchange(SOON)
        return config

    monkeypatch.setattr("scheduler_service.reloading.load", other)
    world.exchange(SOON)
    world.settle(reloader)
    assert [one.changed for one in world.taken] == [("hello",)]


def test_settings_that_need_a_restart_are_named_once_and_ignored(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    head = "workers: {threads: 3}\nservice: {shutdown_grace: 5s, name: other}"
    world.write(HELLO, BYE, head=head)
    world.settle(reloader)
    assert world.names() == ["restart_needed"]
    assert world.told[0].fields["settings"] == "service.name, workers.threads"
    config = world.taken[-1].config
    assert config.workers.threads == 20
    assert config.service.name == "scheduler"
    assert config.service.shutdown_grace.total_seconds() == 5
    world.write(HELLO, head=head)
    world.settle(reloader)
    assert world.names() == ["restart_needed"]


def test_settings_that_need_a_restart_alone_are_no_news_for_the_conductor(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(HELLO, head="workers: {threads: 3}")
    world.settle(reloader)
    world.write(HELLO)
    world.settle(reloader)
    assert world.names() == ["restart_needed", "config_unchanged"]
    assert world.taken == []


def test_the_zone_of_all_jobs_may_change(world: World) -> None:
    world.write("hello: {command: echo hello, cron: '0 5 * * *'}")
    reloader = world.start()
    world.write("hello: {command: echo hello, cron: '0 5 * * *'}", head="service: {timezone: Europe/Berlin}")
    world.settle(reloader)
    assert world.taken[-1].changed == ("hello",)
    assert world.names() == []


def test_a_file_that_comes_to_match_a_pattern_is_an_edit(world: World) -> None:
    (world.folder / "jobs.d").mkdir()
    world.write(HELLO, head="include: [jobs.d/*.yaml]")
    reloader = world.start()
    file = world.folder / "jobs.d" / "a.yaml"
    alone, both = ["hello"], ["hello", "bye"]
    changes = ((lambda: file.write_text(f"jobs: {{{BYE}}}"), both), (file.unlink, alone))
    for number, (change, jobs) in enumerate(changes, 1):
        change()
        world.settle(reloader)
        assert len(world.taken) == number
        assert world.in_force == jobs


def test_what_was_read_at_the_start_is_not_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "more.yaml").write_text(f"jobs: {{{BYE}}}")
    world.write(HELLO, head="include: [more.yaml]")
    read = []
    monkeypatch.setattr(
        "scheduler_service.reloading.load", lambda path, environ: read.append(path) or load(path, environ)
    )
    reloader = world.start()
    assert read == []
    (world.folder / "more.yaml").write_text(f"jobs: {{{BYE}}}  # as before")
    world.settle(reloader)
    assert read == [world.path]


def test_an_edit_between_the_start_and_the_first_look_is_taken(world: World) -> None:
    world.write(HELLO)
    config = load(world.path, {})
    world.write(HELLO, BYE)
    reloader = Reloader(config, announce=world.taken.append, events=Events(), clock=world.clock, environ={})
    world.settle(reloader)
    assert world.in_force == ["hello", "bye"]


def test_new_functions_are_loaded(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.module("def main(): ...")
    world.write(HELLO, "new: {run: 'work:main', every: 1s}")
    world.settle(reloader)
    assert world.taken[-1].added == ("new",)
    assert "jobs.work" in sys.modules


def test_a_job_whose_module_comes_later_is_taken_then(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write(HELLO, "new: {run: 'work:main', every: 1s}")
    world.settle(reloader, 3)
    assert world.names() == ["config_rejected"]
    assert "no such module" in world.told[0].fields["error"]
    world.module("def main(): ...")
    world.settle(reloader)
    assert world.taken[-1].added == ("new",)
    assert world.names() == ["config_rejected"]


def test_what_a_rejected_edit_lacks_elsewhere_is_found_within_half_a_minute(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.write("hello: {command: 'echo ${file:secret}', every: 1s}")
    world.settle(reloader)
    (world.folder / "secret").write_text("hunter2")
    world.settle(reloader, 1 + round(AGAIN_SECONDS / LOOK_SECONDS))
    assert world.names() == ["config_rejected"]
    assert world.taken[-1].changed == ("hello",)


def test_a_job_that_runs_already_is_not_judged_again(world: World) -> None:
    world.module("def main(): ...")
    world.write("old: {run: 'work:main', every: 1s}")
    reloader = world.start()
    (world.folder / "jobs" / "work.py").unlink()
    world.write("old: {run: 'work:main', every: 1s}", BYE)
    world.settle(reloader)
    assert world.taken[-1].added == ("bye",)


def test_a_new_job_folder_takes_a_restart_and_is_not_loaded(world: World) -> None:
    world.module("def main(): ...")
    world.write("old: {run: 'work:main', every: 1s}")
    reloader = world.start()
    (world.folder / "others").mkdir()
    (world.folder / "others" / "other.py").write_text("raise SystemExit('loaded')")
    world.write("new: {run: 'other:main', every: 1s}", head="service: {jobs_folder: others}")
    world.settle(reloader)
    (told,) = world.told
    assert told.name == "config_rejected"
    assert "no such module" in told.fields["error"]
    assert told.fields["error"].endswith("service.jobs_folder has changed too: that takes a restart")


class TestAChangedModule:
    @pytest.fixture
    def reloader(self, world: World) -> Reloader:
        """Two jobs in one module, in threads, with which the service was started."""
        from scheduler_service.callables import find

        world.module("def main(): ...")
        world.write("b: {run: 'work:main', every: 1s}", "a: {run: 'work:main', every: 1s}")
        find("work:main", world.folder / "jobs")
        return world.start()

    def test_is_told_once_of_each_content(self, world: World, reloader: Reloader) -> None:
        for text in ("def main(): return 1", "def main(): return 2", "def main(): ..."):
            world.module(text)
            world.settle(reloader, 5)
        assert world.names() == ["module_changed", "module_changed"]
        assert world.told[0].fields["module"] == "jobs.work"
        assert world.told[0].fields["jobs"] == "a, b"

    def test_is_not_told_while_it_is_being_written(self, world: World, reloader: Reloader) -> None:
        for length in range(5, 15):
            world.module("def main(): return 1"[:length])
            reloader.step()
        assert world.names() == []

    def test_is_told_when_it_is_gone(self, world: World, reloader: Reloader) -> None:
        (world.folder / "jobs" / "work.py").unlink()
        world.settle(reloader, 5)
        assert world.names() == ["module_changed"]
        assert "is gone" in world.told[0].fields["message"]

    def test_says_that_an_edit_for_it_needs_a_restart(self, world: World, reloader: Reloader) -> None:
        world.module("def main(): ...\ndef other(): ...")
        world.write("b: {run: 'work:other', every: 1s}", "a: {run: 'work:main', every: 1s}")
        world.settle(reloader)
        error = world.last("config_rejected").fields["error"]
        assert "jobs/work.py has no function 'other'" in error
        assert "jobs.work has changed since this replica loaded it: restart it" in error
        assert world.taken == []

    def test_says_nothing_of_a_restart_where_the_edit_itself_is_wrong(self, world: World, reloader: Reloader) -> None:
        world.write("b: {run: 'work:other', every: 1s}", "a: {run: 'work:main', every: 1s}")
        world.settle(reloader)
        assert world.last("config_rejected").fields["error"].endswith("has no function 'other'; it has main")


def test_something_that_is_no_file_is_not_watched(world: World) -> None:
    world.write(HELLO)
    config = load(world.path, {})
    pipe = world.folder / "pipe"
    os.mkfifo(pipe)
    events = Events()
    events.subscribe(world.told.append)
    reloader = Reloader(
        config.model_copy(update={"path": pipe}), announce=world.taken.append, events=events, clock=world.clock
    )
    world.settle(reloader, 5)
    assert world.names() == []
    reloader.step(asked=True)
    assert world.names() == ["config_rejected"]


def test_a_pipe_in_the_place_of_the_file_is_refused_and_not_waited_for(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    world.path.unlink()
    os.mkfifo(world.path)
    thread = threading.Thread(target=world.settle, args=(reloader,), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert world.last("config_rejected").fields["error"].endswith("is not an ordinary file, so it cannot be read again")
    world.path.unlink()
    world.write(SOON)
    world.settle(reloader)
    assert world.taken[-1].changed == ("hello",)


def test_a_changed_module_of_processes_alone_is_used_without_a_word(world: World) -> None:
    from scheduler_service.callables import find

    world.module("def main(): ...")
    world.write("job: {run: 'work:main', every: 1s, isolation: process}")
    find("work:main", world.folder / "jobs")
    reloader = world.start()
    world.module("def other(folder): ...")
    world.settle(reloader, 5)
    world.write("job: {run: 'work:other', every: 1s, isolation: process, kwargs: {folder: /tmp}}")
    world.settle(reloader)
    assert world.names() == []
    assert world.taken[-1].changed == ("job",)


def test_a_request_that_meets_a_file_being_written_is_answered_when_it_rests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write(HELLO)
    reloader = world.start()

    def writing(path: Path, environ: dict[str, str]) -> object:
        config = load(path, environ)
        world.exchange(HELLO)
        return config

    with monkeypatch.context() as patched:
        patched.setattr("scheduler_service.reloading.load", writing)
        assert reloader.step(asked=True) == SETTLE_SECONDS
    assert world.names() == []
    reloader.step()
    assert world.names() == ["config_unchanged"]


def test_reading_leaves_no_trace_in_how_threads_take_turns(world: World) -> None:
    before = sys.getswitchinterval()
    world.write(HELLO)
    reloader = world.start()
    reloader.step(asked=True)
    world.write(WRONG)
    reloader.step(asked=True)
    assert sys.getswitchinterval() == before


def test_the_thread_ends_when_it_is_told_to_and_answers_two_requests_at_once_with_one_word(world: World) -> None:
    world.write(HELLO)
    reloader = world.start()
    answered = threading.Event()
    reloader._events.subscribe(lambda _: answered.set())
    reloader.request()
    reloader.request()
    thread = threading.Thread(target=reloader.run)
    thread.start()
    assert answered.wait(30)
    reloader.request()
    reloader.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert world.names() == ["config_unchanged"]


def test_jobs_of_included_files_come_change_and_go(world: World) -> None:
    folder = world.folder / "jobs.d"
    folder.mkdir()

    def write(name: str, job: str) -> None:
        (folder / name).write_text(f"jobs: {{{job}}}")

    def jobs_change() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        world.settle(reloader)
        return world.taken[-1].added, world.taken[-1].changed, world.taken[-1].removed

    world.write(HELLO, head="include: [jobs.d/*.yaml, more/*.yaml]")
    reloader = world.start()
    write("a.yaml", "a: {command: echo, every: 1s}")
    assert jobs_change() == (("a",), (), ())
    write("a.yaml", "a: {command: echo, every: 2s}")
    assert jobs_change() == ((), ("a",), ())
    write("b.yaml", SOON)
    world.settle(reloader)
    assert world.names()[-1] == "config_rejected", "hello stands in two files"
    (folder / "b.yaml").unlink()
    world.settle(reloader)
    assert world.names()[-1] == "config_restored"
    (folder / "a.yaml").unlink()
    assert jobs_change() == ((), (), ("a",))
    (world.folder / "more").mkdir()
    (world.folder / "more" / "z.yaml").write_text("jobs: {z: {command: echo, every: 2s}}")
    assert jobs_change() == (("z",), (), ())
