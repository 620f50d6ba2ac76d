"""Run one function in a process of its own.

Everything is the job's here: the environment, the working directory, signals, locale, memory.  What it
prints, and what C code and programs that it starts write, goes to one pipe.  Asked to stop by SIGTERM,
`stopping` is set, and

    a function    gets Cancelled raised where it is, once, so that its `finally` blocks run
    a coroutine   is cancelled, as in a thread

The process ends as a Python program does: threads that are no daemons are waited for, exit handlers run.
Only the interpreter is not taken apart, which would take longer than everything else together.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import faulthandler
import functools
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TypeVar

from scheduler_service.context import Cancelled, Stopping, enter_run
from scheduler_service.model import State
from scheduler_service.runner import kernel
from scheduler_service.runner.callable import Call, error_text, run_callable
from scheduler_service.runner.channel import BEGAN, STARTED, Board, Channel, Request
from scheduler_service.runner.ending import Ending
from scheduler_service.runner.group import folder_problem
from scheduler_service.runner.output import RECORD_FORMAT

_AS_USUAL = (signal.SIGHUP, signal.SIGCHLD, signal.SIGTERM)
_Forked = TypeVar("_Forked")


class SignalledStopping(Stopping):
    """A request to stop that a signal handler may make, whatever the main thread is doing just then."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board
        self._asked = False
        self._interruptible = False
        self._put_off = False

    def is_set(self) -> bool:
        """Whether the run shall end."""
        return self._asked or super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run shall end, at most `timeout` seconds; return whether it shall."""
        return self._asked or super().wait(timeout)

    def on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # as handlers are called
        """Ask to stop, and interrupt the function."""
        if not self.is_set():
            self.reason = self._board.reason() or f"it got {signal.Signals(number).name}"
            self._asked = True
            # Not here: this very thread may be holding the event's lock, in `wait`.
            _thread.start_new_thread(self.set, ())
        if self._interruptible:
            self._interruptible = False
            raise Cancelled(self.reason)
        self._put_off = True

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a request interrupt what happens inside; one that came before does so at once."""
        self._interruptible = True
        try:
            if self.is_set():
                raise Cancelled(self.reason)
            yield
        finally:
            self._interruptible = False

    @contextlib.contextmanager
    def putting_off(self) -> Iterator[None]:
        """Let a request that comes inside interrupt at the end, and no sooner."""
        if threading.current_thread() is not threading.main_thread():  # only that one is interrupted
            yield
            return
        self._put_off = False
        former, self._interruptible = self._interruptible, False
        try:
            yield
        finally:
            self._interruptible = former
            if former and self._put_off:
                self._interruptible = False
                raise Cancelled(self.reason)

    def leave(self) -> None:
        """Have no part in this process, which is a copy of the one that was asked."""
        self._put_off = False
        if signal.getsignal(signal.SIGTERM) == self.on_signal:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run(orders: Channel, board: Board, channel: Channel, output: int, supervisor: int) -> NoReturn:
    """Wait for a request, run what it says, report it on the board, and end.

    Everything that can be done beforehand is done before the wait, in which a child may be kept for later.
    """
    gc.enable()
    os.setsid()
    orders.send(STARTED)
    kernel.die_with_parent()
    if os.getppid() != supervisor:  # it died before the kernel was told
        os._exit(1)
    for number in _AS_USUAL:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _redirect(output)
    stopping = SignalledStopping(board)
    orders.ready()
    request = orders.receive()
    if request is None:
        os._exit(1)
    board.put_taken()
    signal.signal(signal.SIGTERM, stopping.on_signal)
    _end_forks_as_usual(stopping)
    orders.close()
    try:
        ending = _perform(Request.unpacked(request[1]), stopping, channel)
    except BaseException as error:  # our own mistake; the run still has an end
        ending = Ending(State.FAILED, error_text(error, whole=True))
    channel.close()
    board.put_report(ending)
    _finish()
    os._exit(0 if ending.state is State.SUCCEEDED else 1)


def _end_forks_as_usual(stopping: SignalledStopping) -> None:
    """Let SIGTERM end what the function forks, of a pool perhaps, which counts on that and waits for ever otherwise.

    None may come during a fork: Python forgets, just after it, the signals that it was told of and has not handled.
    Nor may the function be interrupted then: what is raised in a hook for forks, such as `logging` has, Python
    ignores, and the function would never hear of it.  For the same reason these two are not done by such hooks.
    """

    def uninterrupted(fork: Callable[[], _Forked]) -> Callable[[], _Forked]:
        @functools.wraps(fork)
        def forking() -> _Forked:
            # Another thread of the job may get the signal, whatever this one holds back.
            with stopping.putting_off():
                former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                try:
                    return fork()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, former)

        return forking

    os.register_at_fork(after_in_child=stopping.leave)
    for name in ("fork", "forkpty"):
        setattr(os, name, uninterrupted(getattr(os, name)))
    # For a `preexec_fn` the hooks are run, too.  Nothing is held there: the program would inherit that.
    if hasattr(subprocess, "_fork_exec"):
        subprocess._fork_exec = stopping.putting_off()(subprocess._fork_exec)


def _finish() -> None:
    """Do what the interpreter does before it ends, in its order; as `multiprocessing` does in its children."""
    for step in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]
        with contextlib.suppress(BaseException):  # the job's own code runs here: its run has ended
            step()


def _redirect(output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(nothing)
    os.close(output)
    # Line by line, as at a terminal: what is printed before a crash is not lost.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # for as long as the process lives
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115  # the same
            number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    faulthandler.enable(2)  # says where a segmentation fault happened


def _perform(request: Request, stopping: SignalledStopping, channel: Channel) -> Ending:
    problem = folder_problem(request.folder, hidden=True)  # gone since it was looked at
    if problem is not None:
        return Ending(State.FAILED, problem)
    os.chdir(request.folder)
    os.environ.update(request.variables)
    if "TZ" in request.variables:
        time.tzset()
    sys.argv = [request.reference]
    logging.basicConfig(level=request.log_level, format=RECORD_FORMAT, stream=sys.stderr)
    logging.getLogger("asyncio").setLevel(max(request.log_level, logging.WARNING))
    args, kwargs = pickle.loads(request.arguments)  # noqa: S301  # from our own replica
    context = request.context(stopping)
    enter_run(context)

    @contextlib.contextmanager
    def going_on() -> Iterator[None]:
        channel.send(BEGAN)
        channel.close()
        with stopping.interrupting():
            yield

    return run_callable(Call(request.reference, request.jobs_folder, args, kwargs), context, going_on)
