"""A job that leaves a line at its beginning and one at its end, in a file that all replicas append to."""

import asyncio
import os
import threading
import time

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


async def note_later(path: str, seconds: float, fails: bool, run: RunContext) -> None:
    """Do as `note` does in a coroutine, break off when asked to, fail at the end if `fails`."""
    _append(path, run, "begin")
    try:
        await asyncio.sleep(seconds)
    finally:
        _append(path, run, "end")
    if fails:
        raise RuntimeError(f"attempt {run.attempt} fails, as it shall")


def nothing() -> None:
    """Do nothing."""


def _append(path: str, run: RunContext, what: str) -> None:
    at = time.clock_gettime(time.CLOCK_BOOTTIME)
    line = f"{run.job} {run.scheduled_at.isoformat()} {run.fence} {run.run_id} {os.getpid()} {what} {at:.6f}\n"
    # One write to a file that only grows: lines of several processes stay whole and in order.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
