"""Messages for one thread, from any thread and from handlers of signals.

A handler must not use `queue.Queue`: what it interrupts may hold the lock.  It may use `queue.SimpleQueue`, but before
Python 3.13 a wait with a limit becomes endless there if it is interrupted and the limit is reached before it goes on:
what is left is negative then, and that is taken for no limit (`_queue_SimpleQueue_get_impl`).  A handler of a signal
that is still running at that moment does it, and so does a thread that does not get a processor.
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

    def get(self, seconds: float | None) -> T | None:
        """Return the oldest message; wait for one, at most so long, or without a limit.  None if there was none."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._messages:
            left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._nothing_came.acquire(timeout=left) and not self._messages:
                return None
        return self._messages.popleft()

    def __len__(self) -> int:
        return len(self._messages)
