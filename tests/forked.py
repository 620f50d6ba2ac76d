"""`scheduler-service` as a process of its own, forked from one that has loaded it already.

    process = start(("run", "-c", str(path)), folder, os.environ, stderr=pipe)

Loading takes a second of processor time and all that follows a tenth of it, which of a test run with hundreds of
processes would be the greater half.  What runs is the same command, with nothing but its own arguments, folder,
environment and streams.

    test process --socket: what to start, its streams--> template --fork--> scheduler-service

Tests marked `long`, and whatever is no test (benchmarks, `python -m tests.chaos`), start `python -m scheduler_service`.
So does what must change something before Python begins: the loader's environment, another command before ours.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "scheduler_service")
MESSAGE_BYTES = 1 << 17


class Forked:
    """A process, as `subprocess.Popen` has it: dead, it keeps its number until it has been waited for."""

    def __init__(self, template: Template, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._template = template
        self._end = os.pidfd_open(pid)
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        """Return its exit code, minus the signal that ended it; None while it lives."""
        return self._wait(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended; TimeoutExpired if it does not within `timeout` seconds."""
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("scheduler-service", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, seconds: float | None) -> int | None:
        with self._waiting:
            if self.returncode is None:
                ended, _, _ = select.select([self._end], [], [], seconds)
                if not ended:
                    return None
                self.returncode = self._template.bury(self.pid)
                os.close(self._end)
            return self.returncode


class Template:
    """The process that others are forked from; it ends with this one."""

    wanted: ClassVar[bool] = False

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._requests = ours
        self._asking = threading.Lock()

    def fork(self, request: Mapping[str, object], streams: Sequence[int]) -> Forked:
        return Forked(self, self._ask(request, streams))

    def bury(self, pid: int) -> int:
        return self._ask({"bury": pid})

    def close(self) -> None:
        self._requests.close()
        self._process.wait()

    def _ask(self, request: Mapping[str, object], descriptors: Sequence[int] = ()) -> int:
        with self._asking:
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
            answer = self._requests.recv(MESSAGE_BYTES)
        assert answer, "the template has ended: see its words on stderr"
        return int(answer)


def fork_from_now_on(wanted: bool) -> None:
    """Say whether `start` forks, where that can be done."""
    Template.wanted = wanted and hasattr(os, "pidfd_open")


def start(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    within: Sequence[str] = (),
) -> subprocess.Popen[bytes] | Forked:
    """Start `scheduler-service` with these arguments and nothing to read; streams are descriptors.

    What stands `within` comes before the command and becomes it, as `nice` does.
    """
    if not Template.wanted or within or _is_read_at_start(environment):
        command = (*within, *COMMAND, *arguments)
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
    with open(os.devnull, "r+b") as nowhere:  # noqa: PTH123  # no file
        streams = [nowhere.fileno() if one == subprocess.DEVNULL else one for one in (nowhere.fileno(), stdout, stderr)]
        request = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        return _template().fork(request, streams)


def _is_read_at_start(environment: Mapping[str, str]) -> bool:
    """Whether it differs from ours in what the loader or Python looks at before anything of ours runs."""
    return _start(environment) != _start(os.environ)


def _start(environment: Mapping[str, str]) -> Mapping[str, object]:
    names = ("LD_", "PYTHON", "LC_", "LANG", "TZ")
    found: dict[str, object] = {name: one for name, one in environment.items() if name.startswith(names)}
    # What is loaded is of this checkout: whether it could be found a second time makes no difference.
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    return {**found, "PYTHONPATH": [path for path in paths if path not in ("", str(ROOT))]}


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said; TimeoutExpired if it does not end within `seconds`."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(arguments, folder, environment, stdout=out.fileno(), stderr=err.fileno())
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


@functools.cache
def _template() -> Template:
    template = Template()
    atexit.register(template.close)
    return template


def _serve(requests: socket.socket) -> None:
    """Do what is asked for until nobody asks any more; return in a process that was forked."""
    while True:
        message, streams, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 3)
        if not message:
            sys.exit()
        request = json.loads(message)
        if "bury" in request:
            _, status = os.waitpid(request["bury"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                requests.close()
                _become(request, streams)
                return
        for stream in streams:
            os.close(stream)
        requests.send(str(answer).encode())


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, max(streams) + 1)
    # As Python makes it at a start: ours was a file, and this may be a pipe.
    like = sys.stdout
    sys.stdout = sys.__stdout__ = open(1, "w", encoding=like.encoding, errors=like.errors, closefd=False)  # noqa: SIM115
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["folder"]  # as `python -m` has it
    sys.argv = [sys.argv[0], *request["arguments"]]


def _load() -> None:
    """Import what any command may come to import."""
    ours = pkgutil.walk_packages([str(ROOT / "scheduler_service")], "scheduler_service.")
    left_out = ("scheduler_service.migrations", "scheduler_service.testing", "scheduler_service.__main__")
    for name in (*(module.name for module in ours), "alembic.command", "uvicorn"):
        if not name.startswith(left_out):
            importlib.import_module(name)
    # Objects that no collection touches stay in memory that all share.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _load()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from scheduler_service.cli import main

    main()
