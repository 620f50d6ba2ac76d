"""Follow a process group to its end, and see that nothing of it is left.

    runs --stop, or over its `timeout`--> asked (SIGTERM) --`kill_after`--> killed (SIGKILL)
      |                                     |                                 |
      `-------------------------------------+---------------------------------+--> ended

A group is over when its first process ends; what that left behind in the group is killed and waited
for, because the slot is free only when the code is gone (I7).  The first process is reaped last: as
long as it is not, the number of the group cannot be anybody else's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scheduler_service.clock import Clock
from scheduler_service.context import request_stop, stop_reason
from scheduler_service.model import JobSpec, State
from scheduler_service.runner.output import Output

LOOK_SECONDS = 0.1  # how often a silent group's stop, time-out and end are looked at
LAST_WORDS_SECONDS = 0.25  # how long output is awaited from what a group left behind
BURY_SECONDS = 30.0  # how long killed processes are waited for, which may hang in a dead file system
# How long a function may take to be loaded before its `timeout` counts all the same.
LOAD_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.0002
UNGUARDED = "the process that watched over it was killed, and it was ended with it"


class Group(Protocol):
    """A group of processes, and the pipe through which it speaks."""

    silent: bool  # the pipe is closed at the other end

    @property
    def began(self) -> bool:
        """Whether what is limited by `timeout` has begun."""

    def read(self, seconds: float) -> bytes:
        """Return what it wrote; nothing if that is nothing for `seconds`, or if something else happened."""

    def ended(self) -> bool:
        """Whether its first process has ended."""

    def ask(self, reason: str) -> None:
        """Ask all of it to end."""

    def kill(self) -> None:
        """End all of it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """That a group did not end by itself."""

    state: State  # cancelled or timed_out
    error: str  # for a person


def follow(group: Group, spec: JobSpec, stop: threading.Event, output: Output, clock: Clock) -> Asked | None:
    """Follow a group to its end, which the job's settings limit; return how we ended it, None if we did not."""
    limit = None if spec.timeout is None else Limit(spec.timeout.total_seconds(), clock)
    asked: Asked | None = None
    kill_at: float | None = None
    pause = FIRST_PAUSE_SECONDS
    while not group.ended():
        if limit is not None and group.began:
            limit.begin()
        now = clock.monotonic()
        if asked is None:
            if stop.is_set():
                asked = Asked(State.CANCELLED, f"stopped: {stop_reason(stop)}")
            elif limit is not None and now >= limit.ends_at:
                asked = Asked(State.TIMED_OUT, limit.reason)
                request_stop(stop, limit.reason)
            if asked is not None:
                kill_at = now + spec.kill_after.total_seconds()
                group.ask(stop_reason(stop))
        elif kill_at is not None and now >= kill_at:
            kill_at = None
            ignored = f"; it ignored SIGTERM and was killed {spec.kill_after.total_seconds():g}s later"
            asked = Asked(asked.state, asked.error + ignored)
            group.kill()
        due = kill_at if asked is not None else None if limit is None else limit.ends_at
        wait = LOOK_SECONDS if due is None else min(LOOK_SECONDS, max(0.0, due - now))
        if not group.silent:
            output.write(group.read(wait))
        else:  # usually it is ending right now
            time.sleep(min(pause, wait))
            pause = min(LOOK_SECONDS, 2 * pause)
    # Whoever else holds the pipe may be about to say something, but nobody waits for it long.
    quiet_at = clock.monotonic() + LAST_WORDS_SECONDS
    while not group.silent and (left := quiet_at - clock.monotonic()) > 0:
        output.write(group.read(left))
    return asked


class Limit:
    """A `timeout`: its clock starts when the function starts, or when that has taken too long to be loaded."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._begun = False
        self.ends_at = clock.monotonic() + LOAD_SECONDS + seconds

    @property
    def reason(self) -> str:
        """What has happened when it is over, for a person."""
        return f"timed out after {self._seconds:g}s" + ("" if self._begun else ", before it was loaded")

    def begin(self) -> None:
        """Start the clock, if it does not run yet."""
        if not self._begun:
            self._begun = True
            self.ends_at = self._clock.monotonic() + self._seconds


def signal_group(number: int, sign: signal.Signals) -> None:
    """Send a signal to all processes of the group `number`."""
    # Not there any more, or another user's: there is nothing that we could do.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(number, sign)


def bury(number: int) -> None:
    """Wait until no process of the group `number`, which was killed and whose first process is reaped, is left."""
    gone_by = time.monotonic() + BURY_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while _any_left(number) and time.monotonic() < gone_by:
        time.sleep(pause)
        pause = min(LOOK_SECONDS, 2 * pause)


def _any_left(number: int) -> bool:
    try:
        # Orphans become children of process 1, which in a container may be us.
        while os.waitpid(-number, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    try:
        os.killpg(number, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return _has_living(number)


def _has_living(number: int) -> bool:
    """Whether a process of the group is more than a zombie, which process 1 may leave lying for long."""
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    for stat in stats:
        try:
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # gone meanwhile
            continue
        if int(its_group) == number and state not in "ZX":
            return True
    return not stats  # a system without /proc: what can be signalled counts


def signal_name(number: int) -> str:
    """Return the name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def folder_problem(folder: Path, *, hidden: bool) -> str | None:
    """Return what keeps `folder`, whose name may be `hidden`, from being a working directory, or None."""
    if folder.is_dir():
        return None
    name = "" if hidden else f" {str(folder)!r}"
    return f"the working directory{name} {'is not a folder' if folder.exists() else 'does not exist'}"
