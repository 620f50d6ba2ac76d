"""Messages for one thread, from any thread and from handlers of signals.

A handler must not use `queue.Queue`: what it interrupts may hold the lock.  It may use `queue.SimpleQueue`, but before
Python 3.13 a wait with a limit becomes endless there if a handler is still running when the limit is reached: what is
left is negative then, and that is taken for no limit (`_queue_SimpleQueue_get_impl`).  A replica that drained and got
SIGHUP at that moment never ended.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue without a limit that many fill and one thread empties."""

    def __init__(self) -> None:
        self._messages: deque[T] = deque()
        self._nothing_came = Lock()  # held, but between a message and the look at it
        self._nothing_came.acquire()

    def put(self, message: T) -> None:
        """Add a message.  Never blocks, and may interrupt any other verb, this one too."""
        self._messages.append(message)
        with contextlib.suppress(RuntimeError):  # another has been told of already
            self._nothing_came.release()

    def get(self, seconds: float) -> T | None:
        """Return the oldest message; wait for one, at most so long.  None if there was none."""
        deadline = time.monotonic() + seconds
        while not self._messages:
            if not self._nothing_came.acquire(timeout=max(0.0, deadline - time.monotonic())) and not self._messages:
                return None
        return self._messages.popleft()

    def __len__(self) -> int:
        return len(self._messages)
