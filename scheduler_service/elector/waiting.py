"""Who waits for this replica to lead: threads, and coroutines of any event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from scheduler_service.model import Lease


class Waiting:
    """Futures of a lease, each answered at most once; None answers that there will be none.

    `current` says whether there is one already.
    """

    def __init__(self, current: Callable[[], Lease | None]) -> None:
        self._current = current
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child too, whose parent's threads wait elsewhere."""
        self._changing = threading.Lock()
        self._futures: set[Future[Lease | None]] = set()
        self._closed = False

    def wait(self, timeout_seconds: float) -> Lease | None:
        """Return the lease when there is one; None after `timeout_seconds`, or when there will be none."""
        with self._expected() as future:
            try:
                return future.result(timeout_seconds)
            except TimeoutError:
                return None

    async def wait_async(self, timeout_seconds: float) -> Lease | None:
        """Do as `wait` without blocking the event loop."""
        with self._expected() as future:
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await asyncio.wrap_future(future)
            except TimeoutError:
                return None

    def tell(self, lease: Lease | None) -> None:
        """Answer everyone; never blocks."""
        with self._changing:
            futures, self._futures = self._futures, set()
        for future in futures:
            if future.set_running_or_notify_cancel():  # a coroutine that was cancelled waits no more
                future.set_result(lease)

    def close(self) -> None:
        """Answer everyone, now and later, that there will be no lease."""
        self._closed = True
        self.tell(None)

    @contextmanager
    def _expected(self) -> Iterator[Future[Lease | None]]:
        future: Future[Lease | None] = Future()
        with self._changing:
            self._futures.add(future)
        # Asked afterwards: a lease that came before the future was there has told nobody.
        lease = self._current()
        if lease is not None or self._closed:
            self.tell(lease)
        try:
            yield future
        finally:
            with self._changing:
                self._futures.discard(future)
