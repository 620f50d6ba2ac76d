"""Run one function in a process of its own, forked from the template.

    with a report            what the function did, as it would be told of a thread
    ended before a report    failed: the signal is named, or the exit code given
    stopped, timed out       SIGTERM, in the child Cancelled; `kill_after` later SIGKILL for its whole group

A template that dies is replaced.  Runs that go on do not depend on it; one that it should have started
and did not is started by the next one, once: what a run is goes out only when a supervisor has spoken, and a
child says that it has it before it looks at it, so it is known whether anything of it can have begun.

After each run a child is forked for the next one and kept: it has everything but what it shall run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scheduler_service.clock import Clock
from scheduler_service.context import RunContext
from scheduler_service.model import JobSpec, State
from scheduler_service.runner import channel as words
from scheduler_service.runner.callable import Call
from scheduler_service.runner.channel import Channel, End, Request
from scheduler_service.runner.command import environment
from scheduler_service.runner.ending import Ending
from scheduler_service.runner.group import UNGUARDED, Asked, bury, folder_problem, follow, signal_group, signal_name
from scheduler_service.runner.output import Output, clean
from scheduler_service.runner.surroundings import Surroundings
from scheduler_service.runner.template import PROGRAM, REQUEST

START_SECONDS = 60.0  # for a template to load our package and fork
CLOSE_SECONDS = 2.0
TRIALS = 3
_READ_BYTES = 65536
_LAST_WORDS_BYTES = 65536


class ProcessError(Exception):
    """The process could not be started; the message is for a person."""


class _NeverBegan(Exception):  # noqa: N818  # an answer, not a mistake
    """Nobody took the run."""


def request_for(call: Call, spec: JobSpec, run: RunContext, folder: Path) -> Request:
    """Return what the child is told; ProcessError if it could not run there, or not with these arguments."""
    folder = spec.working_directory or folder
    if (problem := folder_problem(folder, hidden="working_directory" in spec.hidden)) is not None:
        raise ProcessError(problem)
    try:
        arguments = pickle.dumps((call.args, dict(call.kwargs)))
    except Exception as error:  # whatever the arguments' own code raises
        raise ProcessError(
            f"the arguments cannot be handed to a process of its own: {type(error).__name__}: {error}"
        ) from error
    return Request(
        reference=call.reference,
        jobs_folder=call.jobs_folder,
        arguments=arguments,
        job=run.job,
        scheduled_at=run.scheduled_at,
        due_at=run.due_at,
        term=run.term,
        fence=run.fence,
        attempt=run.attempt,
        run_id=run.run_id,
        instance=run.instance,
        folder=folder,
        variables=environment(spec, run, {}),
        log_level=logging.getLogger().level,
        database=run.database,
    )


def run_process(template: Template, call: Call, spec: JobSpec, run: RunContext, output: Output, clock: Clock) -> Ending:
    """Run `call` to its end, in the template's surroundings but for what the job says of its own."""
    try:
        request = request_for(call, spec, run, template.surroundings.folder)
        for trial in range(1, TRIALS + 1):
            try:
                with template.start(request) as child:
                    asked = follow(child, spec, run.stopping, output, clock)
                if child.end is not None and not child.end.taken and asked is None:
                    raise _NeverBegan("it was killed before it began")  # noqa: TRY301  # told as the other
            except _NeverBegan as reason:
                if trial == TRIALS:
                    raise ProcessError(f"no process could be started: {reason}") from None
            else:
                return _ending(child.end, asked)
    except ProcessError as error:
        return Ending(State.FAILED, clean(str(error)))
    raise AssertionError("the last trial returns or raises")


class Template:
    """The template process of one replica: started when it is needed, and again when it has died."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._spare: Child | None = None

    @property
    def process_id(self) -> int | None:
        """The template's process id; None if none was started, or the last one was seen to die."""
        process = self._process
        return None if process is None else process.pid

    def prepare(self) -> None:
        """Start it before it is needed, and a first child; ProcessError if that cannot be."""
        with self._lock:
            if self._spare is None:
                self._spare, _ = self._ordered()

    @contextlib.contextmanager
    def start(self, request: Request) -> Iterator[Child]:
        """Start a child; at the end all of its group is gone.  _NeverBegan if nobody started it."""
        child = self._take() or self._fork()
        try:
            child.run(request)
            yield child
        finally:
            child.bury()
            self._keep_another()

    def close(self) -> None:
        """End it.  Children that still run end with their replica."""
        with self._lock:
            process, self._process = self._process, None
            spare, self._spare = self._spare, None
            self._hang_up()
        if spare is not None:
            spare.bury()
        if process is not None:
            try:
                process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_stderr(process)

    def _take(self) -> Child | None:
        """Return the child that was kept for this moment, if it is still there."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None or spare.watched(START_SECONDS):
            return spare
        spare.bury()
        return None

    def _keep_another(self) -> None:
        """Have a child forked for the next run, which then need not wait for that."""
        with contextlib.suppress(ProcessError), self._lock:
            if self._spare is None and self._process is not None and self._process.poll() is None:
                self._spare, _ = self._ordered()

    def _fork(self) -> Child:
        """Return a new child; _NeverBegan if the template does not do its work."""
        with self._lock:
            child, process = self._ordered()
        if child.watched(START_SECONDS):
            return child
        child.bury()
        raise _NeverBegan(self._discard(process))

    def _ordered(self) -> tuple[Child, subprocess.Popen[bytes]]:
        """Ask the template for a child; the lock is held."""
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        child = Child(Channel(ours), reading)
        try:
            process, requests = self._ready()
            # If it dies now, nobody takes the channel, which then ends.
            with contextlib.suppress(OSError):
                socket.send_fds(requests, [REQUEST], [theirs.fileno(), writing])
        except BaseException:
            child.bury()
            raise
        finally:
            theirs.close()
            os.close(writing)
        return child, process

    def _ready(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Return a template that was alive a moment ago.  The lock is held."""
        if self._process is not None and self._requests is not None:
            if self._process.poll() is None:
                return self._process, self._requests
            self._bury(self._process)
        ours, theirs = socket.socketpair()
        # A template that is stopped must not stop those who wait for it, with the lock in hand.
        ours.settimeout(START_SECONDS)
        try:
            path = json.dumps([str(Path(entry).absolute()) for entry in sys.path])
            self._process = subprocess.Popen(  # noqa: S603  # a constant program
                # -P: a module in the working directory must not stand in for one of Python's.
                [sys.executable, "-P", "-c", PROGRAM, str(theirs.fileno()), str(os.getpid()), path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                cwd=self.surroundings.folder,
                env=self.surroundings.variables,
                umask=self.surroundings.umask,
                start_new_session=True,  # Ctrl+C in a terminal is for the replica alone
            )
        except (OSError, ValueError) as error:
            ours.close()
            raise ProcessError(f"the template process cannot be started: {error}") from error
        finally:
            theirs.close()
        self._requests = ours
        return self._process, ours

    def _discard(self, process: subprocess.Popen[bytes]) -> str:
        """Let go of a template that did not do its work; return what is known of it."""
        with self._lock:
            process.kill()  # it has died, or is stuck
            code = process.wait()
            how = (
                f"the template process was killed by {signal_name(-code)}" if code < 0 else "the template process ended"
            )
            said = _last_words(process)
            if self._process is process:
                self._bury(process)
        return how + (f": {said}" if said else "")

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        self._hang_up()
        _close_stderr(process)

    def _hang_up(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None


class Child:
    """A child that runs, through the eyes of its supervisor."""

    def __init__(self, channel: Channel, output: int) -> None:
        self._channel = channel
        self._output = output
        self._process_id: int | None = None
        self._supervised = True
        self._poll = select.poll()
        self._poll.register(output, select.POLLIN)
        self._poll.register(channel.fileno(), select.POLLIN)
        os.set_blocking(output, False)
        self.silent = False
        self.began = False
        self.end: End | None = None

    def read(self, seconds: float) -> bytes:
        """Return what it wrote, or nothing after at most `seconds`, or when its supervisor has something to say."""
        ready = {descriptor for descriptor, _ in self._poll.poll(max(0.0, seconds * 1000))}
        if self._supervised and self._channel.fileno() in ready:
            self._listen()
        if self.silent or self._output not in ready:
            return b""
        try:
            data = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self.silent = True
            self._poll.unregister(self._output)
        return data

    def ended(self) -> bool:
        """Whether it has ended, and all of its group with it."""
        while self._supervised and self._channel.ready(0.0):
            self._listen()
        return not self._supervised

    def ask(self, reason: str) -> None:
        """Ask all of it to end."""
        self._channel.send(words.ASK, reason.encode("utf-8", "replace"))

    def kill(self) -> None:
        """End all of it."""
        self._channel.send(words.KILL)

    def watched(self, seconds: float) -> bool:
        """Whether its supervisor watches over it, which may take up to `seconds` to be known."""
        if not self._channel.ready(seconds):
            return False
        return not self.ended()

    def run(self, request: Request) -> None:
        """Have it run what it was forked for."""
        self._channel.send(words.RUN, request.packed())

    def bury(self) -> None:
        """See that nothing of it is left, also where the supervisor could not; let go of it."""
        self._channel.close()  # first: its supervisor, if there still is one, then ends it as well
        os.close(self._output)
        if self.end is None and self._process_id is not None:
            signal_group(self._process_id, signal.SIGKILL)
            bury(self._process_id)

    def _listen(self) -> None:
        frame = self._channel.receive()
        if frame is None:
            self._supervised = False
        elif frame[0] == words.STARTED:
            self._process_id = int(frame[1])
        elif frame[0] == words.BEGAN:
            self.began = True
        elif frame[0] == words.ENDED:
            self.end = End.unpacked(frame[1])
            self._supervised = False
        if not self._supervised:
            self._poll.unregister(self._channel.fileno())


def _ending(end: End | None, asked: Asked | None) -> Ending:
    if end is None:
        if asked is not None:
            return Ending(asked.state, asked.error)
        return Ending(State.FAILED, UNGUARDED)
    return replace(_told(end, asked), peak_memory_bytes=end.peak_memory_bytes)


def _told(end: End, asked: Asked | None) -> Ending:
    code, report = end.code, end.report
    exit_code = code if code >= 0 else 128 - code
    if asked is not None:
        if asked.state is State.CANCELLED and report is not None and code >= 0:
            return report  # it alone knows whether its work was done
        return Ending(asked.state, asked.error, None if report is not None and code >= 0 else exit_code)
    if code < 0:
        when = "" if report is None else ", after its function had ended"
        hint = " (by a person, or by the kernel because memory ran out)" if -code == signal.SIGKILL else ""
        return Ending(State.FAILED, f"killed by {signal_name(-code)}{hint}{when}", exit_code)
    if report is None:
        return Ending(State.FAILED, f"exit code {code}: its process ended before its function did", exit_code)
    if report.state is State.CANCELLED:  # by a signal from elsewhere: nobody cancelled the run
        return replace(report, state=State.FAILED)
    return report


def _last_words(process: subprocess.Popen[bytes]) -> str:
    """Return the last line that a template which has ended wrote to stderr."""
    if process.stderr is None or process.stderr.closed:
        return ""
    os.set_blocking(process.stderr.fileno(), False)
    try:
        text = os.read(process.stderr.fileno(), _LAST_WORDS_BYTES).decode("utf-8", "replace")
    except BlockingIOError:
        return ""
    return text.strip().rpartition("\n")[2]


def _close_stderr(process: subprocess.Popen[bytes]) -> None:
    if process.stderr is not None:
        process.stderr.close()
