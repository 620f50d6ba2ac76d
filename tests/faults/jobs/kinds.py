"""Functions that end in every way there is; each leaves a program behind that nobody must find later."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from scheduler_service.context import RunContext

LONG_SECONDS = 600


def leave(marker: str) -> None:
    """Start a program that would outlive us."""
    subprocess.Popen(["/bin/sh", "-c", f"sleep {LONG_SECONDS} # {marker}"])


def nothing() -> None:
    """Return at once."""


def returns(marker: str) -> int:
    print("hello")
    return 42


def raises(marker: str) -> None:
    print("hello")
    raise ValueError("no way")


def times_out(marker: str, run: RunContext) -> None:
    print("hello")
    run.stopping.wait(LONG_SECONDS)
    run.check()


def ignores(marker: str, gate: str) -> None:
    """Go on, whatever is asked, until the gate is there."""
    print("hello")
    while not Path(gate).exists():
        time.sleep(0.01)


def ignores_signals(marker: str) -> None:
    print("hello", flush=True)
    leave(marker)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.05)


def dies(marker: str) -> None:
    print("hello", flush=True)
    leave(marker)
    os.kill(os.getpid(), signal.SIGKILL)


def exits(marker: str) -> None:
    print("hello")
    sys.exit(3)


async def returns_later(marker: str) -> int:
    print("hello")
    await asyncio.sleep(0)
    return 42


async def raises_later(marker: str) -> None:
    print("hello")
    raise ValueError("no way")


async def times_out_later(marker: str) -> None:
    print("hello")
    await asyncio.sleep(LONG_SECONDS)


async def ignores_later(marker: str, gate: str) -> None:
    ignores(marker, gate)
