"""What processes have taken of the processors so far."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def busy_seconds(pids: Iterable[int]) -> float:
    """Return the processor seconds of these processes; one that has ended counts for nothing."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
