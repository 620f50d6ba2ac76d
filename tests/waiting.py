"""Wait for something to be so, with a limit, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Return when `condition()` is true; AssertionError if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.005
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds:g} s: {condition}"
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)  # what takes long is asked for less often: many conditions ask a database
