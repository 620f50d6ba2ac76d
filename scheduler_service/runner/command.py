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
from collections.abc import Iterator, Mapping
from pathlib import Path

from scheduler_service.clock import Clock
from scheduler_service.context import RunContext
from scheduler_service.model import JobSpec, State
from scheduler_service.runner.ending import Ending
from scheduler_service.runner.group import UNGUARDED, Asked, bury, folder_problem, follow, signal_group, signal_name
from scheduler_service.runner.output import Output
from scheduler_service.runner.surroundings import Surroundings

SHELL = "/bin/sh"
# The pipe is the guardian's stdin, and at first the launcher's too: `sh` can name no descriptor over 9.
_GUARDIAN = 'trap "" HUP INT TERM; read -r group && { read -r rest; kill -s KILL -- "-$group"; }'
_LAUNCHER = 'echo $$ >&0; exec "$@" </dev/null'

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
    spec: JobSpec, run: RunContext, stop: threading.Event, output: Output, surroundings: Surroundings, clock: Clock
) -> Ending:
    """Run `spec.command` to its end, in `surroundings` but for what the job says of its own."""
    folder = spec.working_directory or surroundings.folder
    variables = environment(spec, run, surroundings.variables)
    try:
        with _start(_arguments(spec, folder, variables), folder, variables, surroundings.umask) as group:
            asked = follow(group, spec, stop, output, clock)
    except CommandError as error:
        return Ending(State.FAILED, str(error))
    if asked is None and group.unguarded and group.exit_code == -signal.SIGKILL:
        return Ending(State.FAILED, UNGUARDED)
    return _ending(group.exit_code, asked)


def _arguments(spec: JobSpec, folder: Path, variables: Mapping[str, str]) -> list[str]:
    """Return the program and its arguments; CommandError where it cannot be found."""
    if (problem := folder_problem(folder, hidden="working_directory" in spec.hidden)) is not None:
        raise CommandError(problem)
    if isinstance(spec.command, str):
        return [SHELL, "-c", spec.command]
    if not spec.command:
        raise CommandError("the command is empty")
    program, *rest = spec.command
    if "/" not in program:
        found = shutil.which(program, path=variables.get("PATH", os.defpath))
        if found is None:
            raise CommandError(f"command not found: no {_shown(program, spec)} on the PATH")
        return [str(folder / found), *rest]
    path = folder / program
    shown = _shown(path, spec)
    if path.is_dir():
        raise CommandError(f"{shown} is a folder, not a program")
    if not path.exists():
        raise CommandError(f"command not found: there is no file {shown}")
    if not os.access(path, os.X_OK):
        raise CommandError(f"{shown} is not executable: chmod +x it, or name its interpreter")
    return [str(path), *rest]


def _shown(program: object, spec: JobSpec) -> str:
    """Return the program for a person, but nothing that came from variables."""
    return "'***'" if spec.hidden & {"command", "working_directory"} else repr(str(program))


class _Group:
    """A running command, and all that it starts."""

    def __init__(self, leader: subprocess.Popen[bytes], guardian: subprocess.Popen[bytes]) -> None:
        if leader.stdout is None:
            raise AssertionError("the output is a pipe")
        self._leader = leader
        self._guardian = guardian
        self._output = leader.stdout
        self._poll = select.poll()
        self._poll.register(self._output.fileno(), select.POLLIN)
        os.set_blocking(self._output.fileno(), False)
        self.silent = False
        self.began = True  # a program is all that there is to a command
        self.unguarded = False  # it was killed because its guardian was

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
        if not self.unguarded and self._guardian.poll() is not None:
            self.unguarded = True
            self.kill()  # or it could outlive the replica
        if not hasattr(os, "waitid"):
            return self._leader.poll() is not None
        return os.waitid(os.P_PID, self._leader.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ask(self, reason: str) -> None:  # noqa: ARG002  # a signal carries none
        """Send SIGTERM to all of them."""
        signal_group(self._leader.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to all of them."""
        signal_group(self._leader.pid, signal.SIGKILL)

    def bury(self) -> None:
        """Reap the first process, and wait until the others, which were killed, are gone."""
        self._leader.wait()
        self._output.close()
        bury(self._leader.pid)


@contextlib.contextmanager
def _start(arguments: list[str], folder: Path, variables: Mapping[str, str], umask: int) -> Iterator[_Group]:
    """Start the command under guard; at the end all of it is gone, and reaped."""
    with contextlib.ExitStack() as closing:
        try:
            reading, writing = os.pipe()
            _replica_ends.add(writing)
            closing.callback(_close_replica_end, writing)
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
                umask=umask,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CommandError(f"the command cannot be started: {reason}") from error
        group = _Group(leader, guardian)
        closing.callback(group.bury)
        # Before the first process is reaped, while the number of the group cannot be anybody else's.
        closing.callback(_end_guardian, guardian)
        closing.callback(group.kill)
        yield group


# A function in a thread may fork: the copy must not keep guardians believing that the replica lives.
_replica_ends: set[int] = set()  # of the pipes


def _close_replica_end(descriptor: int) -> None:
    _replica_ends.discard(descriptor)  # first: the number may be another's as soon as it is closed
    os.close(descriptor)


def _close_copies() -> None:
    for descriptor in tuple(_replica_ends):
        os.close(descriptor)
    _replica_ends.clear()


os.register_at_fork(after_in_child=_close_copies)


def _end_guardian(guardian: subprocess.Popen[bytes]) -> None:
    guardian.kill()
    guardian.wait()


def _ending(code: int, asked: Asked | None) -> Ending:
    exit_code = code if code >= 0 else 128 - code
    if asked is not None:
        return Ending(asked.state, asked.error, exit_code)
    if code == 0:
        return Ending(State.SUCCEEDED, exit_code=0)
    if code < 0:
        return Ending(State.FAILED, f"killed by {signal_name(-code)}", exit_code)
    return Ending(State.FAILED, f"exit code {code}{_MEANING.get(code, '')}", exit_code)
