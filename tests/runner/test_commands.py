"""Commands: real processes that end with their attempt, or with their replica."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from scheduler_service.context import Stopping
from scheduler_service.model import Isolation, State
from tests.runner.conftest import Bench
from tests.runner.process_table import alive, children, marked, none_outlives, number_in
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]


def script(folder: Path, source: str) -> tuple[str, ...]:
    file = folder / f"script_{uuid.uuid4().hex}.py"
    file.write_text(textwrap.dedent(source))
    return (sys.executable, "-u", str(file))


def test_a_command_that_exits_with_0_has_succeeded(bench: Bench):
    outcome = bench.command("echo one; echo two >&2; echo three")
    assert (outcome.state, outcome.exit_code, outcome.error) == (State.SUCCEEDED, 0, None)
    assert outcome.output == "one\ntwo\nthree\n"
    assert bench.told.lines() == ["one", "two", "three"]


def test_a_list_is_not_given_to_the_shell(bench: Bench):
    assert bench.command(("echo", "$HOME; exit 3", "a  b", "")).output == "$HOME; exit 3 a  b \n"


def test_a_string_is_given_to_the_shell(bench: Bench):
    assert bench.command("for i in 1 2; do echo $i; done | wc -l").output.strip() == "2"


def test_output_is_told_with_job_run_term_and_tick(bench: Bench):
    bench.command("echo hello")
    fields = bench.told.fields("run_output")[0]
    assert {key: fields[key] for key in ("job", "run", "term", "instance", "line")} == {
        "job": "tidy",
        "run": 70,
        "term": 4,
        "instance": "web-1",
        "line": "hello",
    }
    assert fields["scheduled_at"].isoformat() == "2026-11-23T12:00:00+00:00"


def test_output_is_told_while_the_command_runs(bench: Bench, tmp_path: Path):
    pipe = tmp_path / "go"
    os.mkfifo(pipe)
    running = bench.start(Stopping(), command=f"echo waiting; read go < {pipe}; echo went $go")
    bench.told.wait_for("run_output")
    pipe.write_text("on\n")
    assert running.outcome().output == "waiting\nwent on\n"


@pytest.mark.parametrize("code", [1, 3, 125, 255])
def test_another_exit_code_is_a_failure(bench: Bench, code: int):
    outcome = bench.command(f"exit {code}")
    assert (outcome.state, outcome.exit_code, outcome.error) == (State.FAILED, code, f"exit code {code}")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGTERM"])
def test_a_command_that_a_signal_kills_has_failed(bench: Bench, name: str):
    outcome = bench.command(f"ulimit -c 0; kill -{name[3:]} $$")
    number = signal.Signals[name].value
    assert (outcome.state, outcome.exit_code, outcome.error) == (State.FAILED, 128 + number, f"killed by {name}")


def test_a_real_time_signal_has_a_number(bench: Bench):
    outcome = bench.command(("/bin/sh", "-c", f"kill -{signal.SIGRTMIN + 3} $$"))
    assert outcome.error == f"killed by signal {signal.SIGRTMIN + 3}"


def test_the_environment_says_which_run_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FROM_THE_REPLICA", "yes")
    outcome = Bench(tmp_path).command("env", env={"OWN": "a b", "SCHEDULER_FENCE": "forged"})
    found = dict(line.split("=", 1) for line in outcome.output.splitlines() if "=" in line)
    assert {key: value for key, value in found.items() if key.startswith("SCHEDULER_")} == {
        "SCHEDULER_JOB": "tidy",
        "SCHEDULER_SCHEDULED_AT": "2026-11-23T12:00:00Z",
        "SCHEDULER_TERM": "4",
        "SCHEDULER_FENCE": "7",
        "SCHEDULER_ATTEMPT": "1",
        "SCHEDULER_RUN_ID": "70",
        "SCHEDULER_INSTANCE": "web-1",
    }
    assert (found["OWN"], found["FROM_THE_REPLICA"]) == ("a b", "yes")


def test_a_command_starts_in_its_working_directory(bench: Bench, tmp_path: Path):
    (tmp_path / "there").mkdir()
    assert bench.command("pwd", working_directory=tmp_path / "there").output == f"{tmp_path}/there\n"


def test_a_callable_that_changes_directory_does_not_move_commands(bench: Bench, tmp_path: Path):
    here = Path.cwd()
    try:
        assert bench.function(f"import os\ndef main(): os.chdir({str(tmp_path)!r})").state is State.SUCCEEDED
        assert bench.command("pwd").output == f"{here}\n"
    finally:
        os.chdir(here)


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a function in a thread changes for the whole process, put back at the end."""
    monkeypatch.setenv("WORD", "of the replica")
    umask = os.umask(0o027)
    yield
    os.umask(umask)


@pytest.mark.usefixtures("restored")
def test_a_callable_that_changes_the_environment_and_the_umask_does_not_change_those_of_commands(tmp_path: Path):
    bench = Bench(tmp_path)
    changes = "os.environ['WORD'] = 'behind'; os.umask(0o077)"
    assert bench.function(f"import os\ndef main(): {changes}").state is State.SUCCEEDED
    assert bench.command("echo $WORD; umask").output == "of the replica\n0027\n"


@pytest.mark.usefixtures("restored")
def test_where_nobody_tells_the_umask_a_command_has_that_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scheduler_service.runner.kernel.Path", lambda _: tmp_path / "nope")
    bench = Bench(tmp_path)
    os.umask(0o077)
    assert bench.command("umask").output == "0077\n"


def test_a_program_is_found_relative_to_the_working_directory(bench: Bench, tmp_path: Path):
    program = tmp_path / "there" / "hello"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho hello $1\n")
    program.chmod(0o755)
    assert bench.command(("./hello", "you"), working_directory=tmp_path / "there").output == "hello you\n"


def test_a_program_is_looked_for_on_the_path_of_the_job(bench: Bench, tmp_path: Path):
    program = tmp_path / "hello"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    assert bench.command(("hello",), env={"PATH": str(tmp_path)}).output == "hello\n"


@pytest.mark.parametrize(
    ("command", "settings", "error"),
    [
        (("nope-nope",), {}, "command not found: no 'nope-nope' on the PATH"),
        (("/nope/nope",), {}, "command not found: there is no file '/nope/nope'"),
        (("/etc/passwd",), {}, "'/etc/passwd' is not executable: chmod +x it, or name its interpreter"),
        (("/etc",), {}, "'/etc' is a folder, not a program"),
        ((), {}, "the command is empty"),
        (("echo", "a\0b"), {}, "the command cannot be started: embedded null byte"),
        (("echo",) + ("x" * 100_000,) * 100, {}, "the command cannot be started: Argument list too long"),
        ("true", {"working_directory": Path("/nope")}, "the working directory '/nope' does not exist"),
        ("true", {"working_directory": Path("/etc/passwd")}, "the working directory '/etc/passwd' is not a folder"),
        ("nope-nope", {}, "exit code 127 (command not found)"),
        ("/etc/passwd", {}, "exit code 126 (not executable)"),
    ],
)
def test_a_command_that_cannot_start_says_why_in_one_line(bench: Bench, command, settings, error):
    outcome = bench.command(command, **settings)
    assert (outcome.state, outcome.error) == (State.FAILED, error)


def test_a_program_without_an_interpreter_fails_and_shows_what_the_system_says(bench: Bench, tmp_path: Path):
    program = tmp_path / "broken"
    program.write_text("#!/nope/nope\n")
    program.chmod(0o755)
    outcome = bench.command((str(program),))
    assert outcome.error == "exit code 127 (command not found)"
    assert "broken" in outcome.output


def test_a_command_has_no_input(bench: Bench):
    assert bench.command("cat; echo ended").output == "ended\n"


def test_a_command_has_no_terminal_to_ask_at(bench: Bench):
    outcome = bench.command(script(bench.folder, "import os\nos.open('/dev/tty', os.O_RDWR)"))
    assert outcome.exit_code == 1
    assert "No such device or address" in outcome.output


def test_a_command_inherits_no_descriptors(bench: Bench, tmp_path: Path):
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        outcome = bench.command(
            script(tmp_path, "import os\nprint(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])")
        )
    assert outcome.output == "[0, 1, 2]\n"


# --- output


def test_a_flood_of_output_stays_bounded(tmp_path: Path):
    bench = Bench(tmp_path, output_limit=1000)
    outcome = bench.command("yes 0123456789 | head -c 11000000; echo the end")
    assert outcome.state is State.SUCCEEDED
    assert outcome.truncated
    assert len(outcome.output) == 1000
    assert outcome.output.endswith("0123456789\nthe end\n")
    assert len(bench.told.lines()) < 2000
    assert any("more lines, not logged" in line for line in bench.told.lines())


def test_binary_output_is_kept_as_text(bench: Bench):
    outcome = bench.command(r"printf '\000\377\376a\n'")
    assert outcome.output == "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}a\n"
    assert not outcome.truncated


def test_a_command_that_closes_its_output_is_still_waited_for(bench: Bench, tmp_path: Path):
    pipe = tmp_path / "go"
    os.mkfifo(pipe)
    running = bench.start(Stopping(), command=f"echo closing; exec >&- 2>&-; read go < {pipe}; exit 3")
    bench.told.wait_for("run_output")
    pipe.write_text("on\n")
    assert running.outcome().error == "exit code 3"


# --- ends


def test_a_command_over_its_timeout_is_asked_to_end(bench: Bench):
    outcome = bench.command("echo begun; exec sleep 600", timeout=timedelta(seconds=0.2))
    assert (outcome.state, outcome.error) == (State.TIMED_OUT, "timed out after 0.2s")
    assert outcome.exit_code == 128 + signal.SIGTERM
    assert outcome.output == "begun\n"


def test_a_command_that_ends_well_when_asked_has_timed_out_all_the_same(bench: Bench):
    outcome = bench.command(
        "trap 'echo cleaned up; exit 0' TERM; echo begun; while :; do sleep 0.01; done", timeout=timedelta(seconds=0.2)
    )
    assert (outcome.state, outcome.exit_code) == (State.TIMED_OUT, 0)
    assert outcome.output.endswith("cleaned up\n")


def test_a_command_that_ignores_sigterm_is_killed(bench: Bench):
    outcome = bench.command(
        "trap '' TERM; echo begun; while :; do sleep 0.01; done",
        timeout=timedelta(seconds=0.2),
        kill_after=timedelta(seconds=0.3),
    )
    assert outcome.state is State.TIMED_OUT
    assert outcome.error == "timed out after 0.2s; it ignored SIGTERM and was killed 0.3s later"
    assert outcome.exit_code == 128 + signal.SIGKILL


def test_a_stopped_command_is_cancelled_with_the_reason(bench: Bench):
    stop = Stopping()
    running = bench.start(stop, command="echo begun; sleep 600")
    bench.told.wait_for("run_output")
    stop.request("cancelled by anna")
    outcome = running.outcome()
    assert (outcome.state, outcome.error) == (State.CANCELLED, "stopped: cancelled by anna")


def test_the_whole_group_ends_with_the_command(bench: Bench, tmp_path: Path):
    child = tmp_path / "child"
    outcome = bench.command(f"sleep 600 & echo $! > {child}; exit 3")
    assert outcome.error == "exit code 3"
    assert not alive(number_in(child))


def test_the_whole_group_is_asked_to_end(bench: Bench, tmp_path: Path):
    outcome = bench.command(
        f"(trap 'echo child > {tmp_path}/asked; exit' TERM; echo ready; while :; do sleep 0.01; done) & wait",
        timeout=timedelta(seconds=0.3),
    )
    assert outcome.state is State.TIMED_OUT
    wait_until((tmp_path / "asked").exists)


def test_a_grandchild_that_keeps_the_pipe_does_not_hold_the_worker(bench: Bench, tmp_path: Path):
    child = tmp_path / "child"
    command = script(
        tmp_path,
        f"""
        import os, signal, sys, time
        if os.fork() == 0:
            os.setsid()                                   # a daemon: out of reach, and it holds the pipe
            with open({str(child)!r}, "w") as file:
                print(os.getpid(), file=file)
            signal.pause()
        while not os.path.exists({str(child)!r}):
            time.sleep(0.001)
        print("done")
        """,
    )
    try:
        outcome = bench.command(command)
        assert (outcome.state, outcome.output) == (State.SUCCEEDED, "done\n")
    finally:
        os.kill(number_in(child), signal.SIGKILL)


def test_a_command_that_kills_its_own_group_ends_like_any_other(bench: Bench):
    assert bench.command("trap 'exit 5' TERM; kill 0; sleep 1").error == "exit code 5"
    assert bench.command("kill -KILL 0").error == "killed by SIGKILL"


def test_what_timeout_of_gnu_runs_ends_too(bench: Bench, tmp_path: Path):
    child = tmp_path / "child"
    outcome = bench.command(
        ("timeout", "600", "sh", "-c", f"echo $$ > {child}; exec sleep 600"), timeout=timedelta(seconds=0.3)
    )
    assert outcome.state is State.TIMED_OUT
    assert not alive(number_in(child))


def test_nothing_is_left_behind_by_a_thousand_runs(bench: Bench):
    bench.write(
        "async def coroutine(): print('hello')\ndef function(): print('hello')\ndef failing(): raise ValueError"
    )
    kinds = [{"run": "tidy:function"}, {"run": "tidy:failing"}, {"run": "tidy:coroutine"}]
    commands = [{"command": "echo hello"}, {"command": ("false",)}, {"command": ("nope-nope",)}]

    def run_all(rounds: int) -> None:
        for _ in range(rounds):
            for settings in kinds:
                bench.run(**settings)

    run_all(1)
    for settings in commands:
        bench.run(**settings)
    before = (threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), children())
    run_all(250)
    for _ in range(84):
        for settings in commands:
            bench.run(**settings)
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), children()) == before


# --- the replica dies


REPLICA = """
import os, sys, threading
from datetime import datetime, UTC
from pathlib import Path
from scheduler_service import schedule
from scheduler_service.clock import BootClock
from scheduler_service.events import Events
from scheduler_service.model import Attempt, JobSpec, Kind
from scheduler_service.runner import Runner

folder, instance, count, command = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
runner = Runner(jobs_folder=folder, output_limit=1000, events=Events(), clock=BootClock(), instance_id=instance)
now = datetime(2026, 11, 23, 12, tzinfo=UTC)
spec = JobSpec(id="tidy", schedule=schedule.manual(), command=command)

def work():
    while True:
        runner.run(Attempt(7, 70, 1, "tidy", now, now, Kind.SCHEDULED, 4, instance, now, 0.0), spec, threading.Event())

for _ in range(count):
    threading.Thread(target=work, daemon=True).start()
print("running", flush=True)
for _ in sys.stdin:  # each line makes a copy
    if (copy := os.fork()) == 0:
        threading.Event().wait()
    (folder / "copy").write_text(f"{copy}\\n")
"""


@pytest.fixture
def instance() -> Iterator[str]:
    """A name that marks processes; none of them outlives the test."""
    name = f"web-{uuid.uuid4().hex}"
    with none_outlives(f"SCHEDULER_INSTANCE={name}"):
        yield name


def start_replica(folder: Path, instance: str, count: int, command: str) -> subprocess.Popen[str]:
    replica = subprocess.Popen(
        [sys.executable, "-c", REPLICA, str(folder), instance, str(count), command],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert replica.stdout is not None
    assert replica.stdout.readline() == "running\n"
    return replica


def test_commands_do_not_outlive_a_replica_that_is_killed(tmp_path: Path, instance: str):
    command = f"trap '' TERM HUP; sleep 601 & echo $! > {tmp_path}/child; sleep 602"
    with start_replica(tmp_path, instance, 1, command) as replica:
        child = number_in(tmp_path / "child")
        assert alive(child)
        replica.kill()
    wait_until(lambda: not marked(f"SCHEDULER_INSTANCE={instance}"))
    assert not alive(child)


def test_a_command_whose_guardian_is_killed_has_failed_and_leaves_nothing(bench: Bench, tmp_path: Path):
    command = f"trap '' TERM HUP; sleep 604 & echo $! > {tmp_path}/child; sleep 605"
    running = bench.start(Stopping(), command=command, timeout=timedelta(seconds=60))
    child = number_in(tmp_path / "child")
    for process in psutil.Process().children():
        if "read -r group" in " ".join(process.cmdline()):
            process.kill()
    outcome = running.outcome()
    assert (outcome.state, outcome.exit_code) == (State.FAILED, None)
    assert outcome.error == "the process that watched over it was killed, and it was ended with it"
    assert not alive(child)


def test_a_copy_of_the_replica_that_a_job_forked_holds_up_no_guardian(tmp_path: Path, instance: str):
    command = f"sleep 606 & echo $! > {tmp_path}/child; sleep 607"
    with start_replica(tmp_path, instance, 1, command) as replica:
        child = number_in(tmp_path / "child")
        assert replica.stdin is not None
        replica.stdin.write("fork\n")
        replica.stdin.flush()
        copy = number_in(tmp_path / "copy")
        replica.kill()
    try:
        wait_until(lambda: not alive(child))
        assert alive(copy)
    finally:
        os.kill(copy, signal.SIGKILL)


@pytest.mark.parametrize("trial", range(3))
def test_no_moment_of_starting_a_command_is_unguarded(tmp_path: Path, instance: str, trial: int):
    # Each command starts and lives on for ever in one of two cases; the replica dies while many are starting.
    with start_replica(tmp_path, instance, 8, "test $(($$ % 2)) = 0 || exec sleep 603") as replica:
        wait_until(lambda: len(marked(f"SCHEDULER_INSTANCE={instance}")) >= 2 + trial)
        replica.kill()
    wait_until(lambda: not marked(f"SCHEDULER_INSTANCE={instance}"))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"command": ("s3cret",)}, "command not found: no '***' on the PATH"),
        ({"command": ("/nope/s3cret",)}, "command not found: there is no file '***'"),
        ({"command": ("/",)}, "'***' is a folder, not a program"),
        ({"command": "date", "working_directory": Path("/s3cret")}, "the working directory does not exist"),
        ({"run": "tidy:main", "working_directory": Path("/s3cret")}, "the working directory does not exist"),
    ],
)
def test_what_came_from_variables_is_not_told_where_it_is_wrong(bench: Bench, settings, error):
    bench.write("def main(): ...")
    outcome = bench.run(**settings, isolation=Isolation.PROCESS, hidden=frozenset(settings))
    assert (outcome.state, outcome.error) == (State.FAILED, error)
