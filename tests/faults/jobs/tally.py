"""A job that leaves a line at its beginning and one at its end, in a file that all replicas append to."""

import contextlib
import ctypes
import multiprocessing
import os
import threading
import time
from pathlib import Path

from scheduler_service.context import RunContext


def note(path: str, seconds: float, run: RunContext) -> None:
    """Write down that a run began, take `seconds`, write down that it ended."""
    _append(path, run, "begin")
    threading.Event().wait(seconds)  # time.sleep fails below libfaketime
    _append(path, run, "end")


def note_until_stopped(path: str, seconds: float, run: RunContext) -> None:
    """Do as `note` does, and break off when asked to."""
    _append(path, run, "begin")
    try:
        if run.stopping.wait(seconds):
            run.check()
    finally:
        _append(path, run, "end")


def fail(path: str, seconds: float, run: RunContext) -> None:
    """Do as `note` does, and fail."""
    note(path, seconds, run)
    raise RuntimeError(f"attempt {run.attempt} fails, as it shall")


def note_and_hold(path: str, seconds: int, gate: str, run: RunContext) -> None:
    """Do as `note` does; once a gate is there, hold the interpreter for `seconds`, as a C library might."""
    _append(path, run, "begin")
    if _passes(gate):
        ctypes.PyDLL(None).sleep(seconds)  # PyDLL, unlike CDLL, does not let other threads run meanwhile
    _append(path, run, "end")


def note_and_fork(path: str, gate: str, run: RunContext) -> None:
    """Do as `note` does; once a gate is there, leave two copies of this process behind.

    They write their numbers to `{gate}.pids`, and go on until `{gate}.end` is there.
    """
    _append(path, run, "begin")
    if _passes(gate):
        multiprocessing.get_context("fork").Process(target=_go_on, args=(gate,)).start()
        if os.fork() == 0:
            _go_on(gate)
            return  # as what a job has forked by mistake does
    _append(path, run, "end")


def nothing() -> None:
    """Do nothing."""


def _passes(gate: str) -> bool:
    """Whether the gate was there; it is not any more."""
    with contextlib.suppress(FileNotFoundError):
        Path(gate).unlink()
        return True
    return False


def _go_on(gate: str) -> None:
    with Path(f"{gate}.pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(f"{gate}.end").exists():
        time.sleep(0.01)


def _append(path: str, run: RunContext, what: str) -> None:
    at = time.clock_gettime(time.CLOCK_BOOTTIME)
    line = f"{run.job} {run.scheduled_at.isoformat()} {run.fence} {run.run_id} {os.getpid()} {what} {at:.6f}\n"
    # One write to a file that only grows: lines of several processes stay whole and in order.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
