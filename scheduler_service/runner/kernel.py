"""What Linux alone can do for a process and its children.  Elsewhere nothing of it happens."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _prctl(option: int, value: int) -> None:
    if _libc is not None:
        _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind: it can be reaped, and not only signalled."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def umask() -> int:
    """Return the umask of this process; -1, which `Popen` takes for "as it is then", where nobody tells it.

    `os.umask` tells it only by setting another, with which other threads would make their files meanwhile.
    """
    try:
        status = Path("/proc/self/status").read_bytes()
    except OSError:
        return -1
    found = re.search(rb"^Umask:\s*([0-7]+)$", status, re.MULTILINE)
    return int(found[1], 8) if found is not None else -1


def watch(process_id: int) -> int | None:
    """Return a descriptor that becomes readable when that process ends; None where there is no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(process_id)
    except OSError:  # an old kernel; a sandbox
        return None
