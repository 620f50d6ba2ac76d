"""Run one command as a process group that ends with the attempt, or with the replica.

    replica --------- pipe ---------> guardian      /bin/sh; at the pipe's end kills the group it was told
       |                ^
       | starts         | "my group is 4711"
       `--------> launcher ---exec--> command       in a session and a process group of its own

A command is over when its first process ends; what it left behind in its process group is killed.
Asked to stop, or over its `timeout`, the group gets SIGTERM and, `kill_after` later, SIGKILL.

If the replica dies, by SIGKILL even, the kernel closes its end of the pipe, and the guardian kills
the group.  PR_SET_PDEATHSIG would reach the first process only, follows the thread that forked, and
needs code between fork and exec.  The launcher announces itself before it becomes the command, so
there is no moment at which a command runs unguarded.  Both shells together cost about 2 ms a command.

Out of reach: a process that moves to a group of its own (`setsid`, a daemon, GNU timeout inside a
script), and one that runs as another user.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from scheduler_service.clock import Clock
from scheduler_service.context import RunContext, stop_reason
from scheduler_service.model import JobSpec, State
from scheduler_service.runner.ending import Ending
from scheduler_service.runner.output import Output

SHELL = "/bin/sh"
# The pipe is the guardian's stdin, and at first the launcher's too: `sh` can name no descriptor over 9.
_GUARDIAN = 'trap "" HUP INT TERM; read -r group && { read -r rest; kill -s KILL -- "-$group"; }'
_LAUNCHER = 'echo $$ >&0; exec "$@" </dev/null'

LOOK_SECONDS = 0.1  # how often a silent command's stop, time-out and end are looked at
LAST_WORDS_SECONDS = 0.25  # how long output is awaited from what a command left behind
BURY_SECONDS = 30.0  # how long killed processes are waited for, which may hang in a dead file system
_READ_BYTES = 65536
_MEANING = {126: " (not executable)", 127: " (command not found)"}  # the shell's convention


class CommandError(Exception):
    """The command could not be started; the message is for a person."""


def environment(spec: JobSpec, run: RunContext, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return what the command finds in its environment."""
    return {
        **inherited,
        **spec.env,
        "SCHEDULER_JOB": run.job,
        "SCHEDULER_SCHEDULED_AT": run.scheduled_at.isoformat().replace("+00:00", "Z"),
        "SCHEDULER_TERM": str(run.term),
        "SCHEDULER_FENCE": str(run.fence),
        "SCHEDULER_ATTEMPT": str(run.attempt),
        "SCHEDULER_RUN_ID": str(run.run_id),
        "SCHEDULER_INSTANCE": run.instance,
    }


def run_command(
    spec: JobSpec, run: RunContext, stop: threading.Event, output: Output, folder: Path, clock: Clock
) -> Ending:
    """Run `spec.command` to its end; `folder` is where it starts unless the job names another."""
    started = clock.monotonic()
    folder = spec.working_directory or folder
    variables = environment(spec, run, os.environ)
    try:
        with _start(_arguments(spec, folder, variables), folder, variables) as group:
            asked = _watch(group, spec, stop, output, started, clock)
    except CommandError as error:
        return Ending(State.FAILED, str(error))
    return _ending(group, asked, spec, stop)


def _arguments(spec: JobSpec, folder: Path, variables: Mapping[str, str]) -> list[str]:
    """Return the program and its arguments; CommandError where it cannot be found."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CommandError(f"the working directory {str(folder)!r} {what}")
    if isinstance(spec.command, str):
        return [SHELL, "-c", spec.command]
    if not spec.command:
        raise CommandError("the command is empty")
    program, *rest = spec.command
    if "/" not in program:
        found = shutil.which(program, path=variables.get("PATH", os.defpath))
        if found is None:
            raise CommandError(f"command not found: no {program!r} on the PATH")
        return [str(folder / found), *rest]
    path = folder / program
    if path.is_dir():
        raise CommandError(f"{str(path)!r} is a folder, not a program")
    if not path.exists():
        raise CommandError(f"command not found: there is no file {str(path)!r}")
    if not os.access(path, os.X_OK):
        raise CommandError(f"{str(path)!r} is not executable: chmod +x it, or name its interpreter")
    return [str(path), *rest]


class _Group:
    """A running command, and all that it starts."""

    def __init__(self, leader: subprocess.Popen[bytes]) -> None:
        if leader.stdout is None:
            raise AssertionError("the output is a pipe")
        self._leader = leader
        self._output = leader.stdout
        self._poll = select.poll()
        self._poll.register(self._output.fileno(), select.POLLIN)
        os.set_blocking(self._output.fileno(), False)
        self.silent = False  # the pipe is closed at the other end

    @property
    def exit_code(self) -> int:
        """The first process's, negative for the signal that killed it."""
        return self._leader.returncode

    def read(self, seconds: float) -> bytes:
        """Return what it wrote, or nothing after at most `seconds`."""
        if self.silent or not self._poll.poll(max(0.0, seconds * 1000)):
            return b""
        try:
            data = os.read(self._output.fileno(), _READ_BYTES)
        except BlockingIOError:
            return b""
        self.silent = not data
        return data

    def ended(self) -> bool:
        """Whether the first process has ended.  It is not reaped: its id stays ours to signal."""
        if not hasattr(os, "waitid"):
            return self._leader.poll() is not None
        return os.waitid(os.P_PID, self._leader.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of them."""
        # Not there any more, or another user's: there is nothing that we could do.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._leader.pid, number)

    def bury(self) -> None:
        """Reap the first process, and wait until the others, which were killed, are gone (I7)."""
        self._leader.wait()
        self._output.close()
        gone_by = time.monotonic() + BURY_SECONDS
        pause = 0.0002
        while self._any_left() and time.monotonic() < gone_by:
            time.sleep(pause)
            pause = min(LOOK_SECONDS, 2 * pause)

    def _any_left(self) -> bool:
        try:
            # Orphans become children of process 1, which in a container may be us.
            while os.waitpid(-self._leader.pid, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        try:
            os.killpg(self._leader.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return _has_living(self._leader.pid)


def _has_living(group: int) -> bool:
    """Whether a process of `group` is more than a zombie, which process 1 may leave lying for long."""
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    for stat in stats:
        try:
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # gone meanwhile
            continue
        if int(its_group) == group and state not in "ZX":
            return True
    return not stats  # a system without /proc: what can be signalled counts


@contextlib.contextmanager
def _start(arguments: list[str], folder: Path, variables: Mapping[str, str]) -> Iterator[_Group]:
    """Start the command under guard; at the end all of it is gone, and reaped."""
    with contextlib.ExitStack() as closing:
        try:
            reading, writing = os.pipe()
            closing.callback(os.close, writing)
            try:
                guardian = subprocess.Popen(  # noqa: S603  # a constant script
                    [SHELL, "-c", _GUARDIAN],
                    stdin=reading,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl+C in a terminal is for the replica alone
                )
            finally:
                os.close(reading)
            closing.callback(_end_guardian, guardian)
            leader = subprocess.Popen(  # noqa: S603  # running what the configuration says is the purpose
                [SHELL, "-c", _LAUNCHER, SHELL, *arguments],
                stdin=writing,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                cwd=folder,
                env=variables,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CommandError(f"the command cannot be started: {reason}") from error
        group = _Group(leader)
        closing.callback(group.bury)
        # Before the first process is reaped, while the number of the group cannot be anybody else's.
        closing.callback(_end_guardian, guardian)
        closing.callback(group.signal, signal.SIGKILL)
        yield group


def _end_guardian(guardian: subprocess.Popen[bytes]) -> None:
    guardian.kill()
    guardian.wait()


def _watch(
    group: _Group, spec: JobSpec, stop: threading.Event, output: Output, started: float, clock: Clock
) -> tuple[State, bool] | None:
    """Follow a command to its end.  Return why we ended it, and whether by SIGKILL; None if it ended by itself."""
    deadline = None if spec.timeout is None else started + spec.timeout.total_seconds()
    kill_at = 0.0
    asked: State | None = None
    killed = False
    pause = 0.0002
    while not group.ended():
        now = clock.monotonic()
        if asked is None:
            if stop.is_set():
                asked = State.CANCELLED
            elif deadline is not None and now >= deadline:
                asked = State.TIMED_OUT
            if asked is not None:
                kill_at = now + spec.kill_after.total_seconds()
                group.signal(signal.SIGTERM)
        elif now >= kill_at and not killed:
            killed = True
            group.signal(signal.SIGKILL)
        due = deadline if asked is None else kill_at
        wait = LOOK_SECONDS if due is None or killed else min(LOOK_SECONDS, max(0.0, due - now))
        if not group.silent:
            output.write(group.read(wait))
        else:  # usually it is ending right now
            time.sleep(min(pause, wait))
            pause = min(LOOK_SECONDS, 2 * pause)
    # Whoever else holds the pipe may be about to say something, but nobody waits for it long.
    quiet_at = clock.monotonic() + LAST_WORDS_SECONDS
    while not group.silent and (left := quiet_at - clock.monotonic()) > 0:
        output.write(group.read(left))
    return None if asked is None else (asked, killed)


def _ending(group: _Group, asked: tuple[State, bool] | None, spec: JobSpec, stop: threading.Event) -> Ending:
    code = group.exit_code
    exit_code = code if code >= 0 else 128 - code
    if asked is not None:
        state, killed = asked
        if state is State.TIMED_OUT and spec.timeout is not None:
            why = f"timed out after {spec.timeout.total_seconds():g}s"
        else:
            why = f"stopped: {stop_reason(stop)}"
        ignored = f"; it ignored SIGTERM and was killed {spec.kill_after.total_seconds():g}s later"
        return Ending(state, why + ignored if killed else why, exit_code)
    if code == 0:
        return Ending(State.SUCCEEDED, exit_code=0)
    if code < 0:
        return Ending(State.FAILED, f"killed by {_name(-code)}", exit_code)
    return Ending(State.FAILED, f"exit code {code}{_MEANING.get(code, '')}", exit_code)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
