"""Connections that may not be slow: each has so long to send a request, and to take the answer.

                   whole request                    answered
    waiting  ------------------------> answering -------------> waiting
       | too slow, or another needs the room  | the answer is not taken
       v                                      v
     closed                                 closed

Whoever opens connections and sends nothing, or a byte now and then, keeps nobody else out: when there are too
many, the one that has waited longest without a request makes room.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0  # from the connection, or the end of the last answer but for idle time, to the last byte
ANSWER_SECONDS = 20.0  # for which a client may take nothing of its answer
MOST_CONNECTIONS = 256


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with a limit on every wait."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._request_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._begin_to_wait()
        self._expect_request()
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take what came, and look whether it is a whole request."""
        if self._request_timer is None:
            self._expect_request()
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request, which may take its time to begin."""
        self._begin_to_wait()
        if not self.cycle.more_body:
            self._stop_request_timer()
        super().on_response_complete()
        self._look()  # the next one may have come along with the last

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what it asked for."""
        super().pause_writing()
        self._answer_timer = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        self._stop_answer_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every wait."""
        self._stop_request_timer()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def _begin_to_wait(self) -> None:
        self._waits_since = self.loop.time()

    def _expect_request(self) -> None:
        self._request_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _look(self) -> None:
        """Wait no more if there is a whole request to answer."""
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self._stop_request_timer()
            self._waits_since = None

    def _make_room(self) -> None:
        waiting = [
            (one._waits_since, id(one), one)
            for one in self.connections
            if isinstance(one, BoundedProtocol) and one._waits_since is not None and not one.transport.is_closing()
        ]
        min(waiting)[2].transport.abort()  # if nobody else waits, it is ourselves
