"""Tell everybody who looks at a page that something happened: one question a second for all of them together.

The stream is of server-sent events:

    change   something happened: fetch the page again
    beat     how long the lease runs, when replicas were seen: numbers that change all the time
    trouble  the database does not answer

Nobody watching, nothing asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from scheduler_service.database import StoreUnavailable
from scheduler_service.ledger.history.pages import Marks
from scheduler_service.web.view import View
from scheduler_service.web.wording import iso

POLL_SECONDS = 1.0
LOOK_SECONDS = 0.1  # for the end of the server, between polls
BEAT_SECONDS = 5.0  # at the latest, so that a page notices when it is cut off
MOST_WATCHERS = 100  # at once; others are told to come again
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Watcher = asyncio.Queue[bytes | None]  # what somebody is still to be told; None is the end


class Watch:
    """The stream.  All methods belong to the server's event loop."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None
        self._marks: Marks | None = None
        self._trouble = False
        self.changed_at = 0.0  # of the view's clock: what was read before may be out of date

    @property
    def full(self) -> bool:
        """Whether so many watch that nobody else may."""
        return len(self._watchers) >= MOST_WATCHERS

    def enter(self) -> Watcher | None:
        """Return a place for somebody who watches, to be given back with `leave`; None if there is none."""
        if self.full:
            return None
        messages: Watcher = asyncio.Queue(maxsize=16)
        self._watchers.add(messages)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        return messages

    def leave(self, messages: Watcher) -> None:
        """Give a place back."""
        self._watchers.discard(messages)

    async def _poll(self) -> None:
        clock = self._view.parts.clock
        beat_at = 0.0
        while self._watchers:
            try:
                marks = await run_in_threadpool(self._view.pages.marks, self._view.lost_after_seconds)
            except StoreUnavailable as error:
                if not self._trouble or clock.monotonic() >= beat_at:
                    self._trouble, beat_at = True, clock.monotonic() + BEAT_SECONDS
                    self._send("trouble", {"error": str(error)})
            else:
                changed = self._trouble or self._marks is None or self._marks.change != marks.change
                beaten = self._marks is None or _beat(self._marks) != _beat(marks)
                self._trouble, self._marks = False, marks
                if changed:
                    self.changed_at = clock.monotonic()
                    self._send("change", _beat(marks))
                elif beaten or clock.monotonic() >= beat_at:
                    self._send("beat", {**_beat(marks), "now": iso(marks.now)})
                if changed or beaten:
                    beat_at = clock.monotonic() + BEAT_SECONDS
            await self._rest(clock.monotonic() + POLL_SECONDS)
        self._marks = None  # who comes next has a fresh page

    async def _rest(self, until: float) -> None:
        while self._watchers and self._view.parts.clock.monotonic() < until:
            if self._view.stopping.is_set():
                for messages in self._watchers:
                    _put(messages, None)
                self._watchers.clear()
            await asyncio.sleep(LOOK_SECONDS)

    def _send(self, event: str, document: dict[str, Any]) -> None:
        message = f"event: {event}\ndata: {json.dumps(document)}\n\n".encode()
        for messages in self._watchers:
            _put(messages, message)


async def _told(messages: Watcher) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    while (message := await messages.get()) is not None:
        yield message


class Watching(Response):
    """The answer to somebody who watches: what happens, until the server ends or whoever watches leaves."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer.  The place is taken and given back here: a stream that never begins would keep it."""
        # Nothing is awaited before: of many who come at once, all would find the same place free.
        messages = self._watch.enter()
        if messages is None:
            await too_many()(scope, receive, send)
            return
        try:
            stream = StreamingResponse(_told(messages), media_type=MEDIA_TYPE, headers=HEADERS)
            await stream(scope, receive, send)
        finally:
            self._watch.leave(messages)


def too_many() -> Response:
    """Return what to say to those for whom there is no place."""
    return Response("too many watch already\n", 503, {"Retry-After": "10"}, "text/plain")


def _put(messages: Watcher, message: bytes | None) -> None:
    if messages.full():  # somebody who does not read: what is old is of no use
        messages.get_nowait()
    messages.put_nowait(message)


def _beat(marks: Marks) -> dict[str, Any]:
    return {
        "lease": iso(marks.leader.expires_at) if marks.leader is not None else None,
        "seen": {instance_id: iso(at) for instance_id, at in marks.seen.items()},
    }
