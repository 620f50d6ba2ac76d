"""Let what can wait be done when what is due has been started.

    calm --something is due--> rush --all that is due and finds room is begun--> calm

A process has one interpreter.  When a thousand ticks come due at once, whoever else takes it then (to write a line,
to record a result, to look how the service fares) makes starts late, though nobody waits for what it does.  The
dispatcher says when there is more to start; the others ask, and wait a little, each with a limit of its own: a rush
may last for as long as all workers are busy.
"""

from __future__ import annotations

import threading


class Rush:
    """Whether more is due than has been started.  Any thread may tell and ask."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._over.set()

    @property
    def going_on(self) -> bool:
        """Whether there is more to start."""
        return not self._over.is_set()

    def tell(self, *, going_on: bool) -> None:
        """Tell whether there is something to start, or all is started that can be."""
        if going_on == self.going_on:  # asked first, because each of thousands of jobs that come due tells it
            return
        if going_on:
            self._over.clear()
        else:
            self._over.set()

    def wait(self, seconds: float) -> bool:
        """Wait until it is over, at most so long; return whether it is."""
        return self._over.wait(seconds)
