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
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from scheduler_service.web.repeating import Repeats, good_while

REQUEST_SECONDS = 10.0  # from the connection, or the end of the last answer but for idle time, to the last byte
ANSWER_SECONDS = 20.0  # for which a client may take nothing of its answer
MOST_CONNECTIONS = 256


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with a limit on every wait; all connections of a server share what they know of repeated answers."""

    def __init__(self, repeats: Repeats, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._repeats = repeats
        self._asked: bytes | None = None  # the request that is answered, if it came in one piece with nothing beside it
        self._said: list[bytes] = []  # of its answer, if that may be repeated
        self._request_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(cast("asyncio.Transport", _Heard(transport, self._note)))
        self._begin_to_wait()
        self._expect_request()
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take what came, and look whether it is a whole request."""
        waits = self._waits_for_nothing_but_a_request
        if waits and (answer := self._repeats.find(data)) is not None:
            self._repeat(answer)
            return
        self._asked, self._said = data if waits else None, []
        if self._request_timer is None:
            self._expect_request()
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request, which may take its time to begin."""
        self._keep()
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

    # --- answers that are repeated

    @property
    def _waits_for_nothing_but_a_request(self) -> bool:
        return self.conn.their_state is h11.IDLE and not self._is_begun and not self.flow.write_paused

    @property
    def _is_begun(self) -> bool:
        """Whether something came that belongs to no request yet."""
        came, _ = self.conn.trailing_data
        return bool(came)

    def _repeat(self, answer: bytes) -> None:
        self._stop_request_timer()
        self._asked = None
        self.transport.write(answer)
        self._begin_to_wait()
        super().on_response_complete()

    def _note(self, data: bytes) -> None:
        if self._asked is None or self.scope is None:  # what is answered is no request that could be understood
            return
        if good_while(self.scope) is not None:
            self._said.append(data)

    def _keep(self) -> None:
        asked, said = self._asked, self._said
        self._asked, self._said = None, []
        # Of an answer with which the connection ends, a repetition would have to end it too.
        if asked is None or not said or self._is_begun or self.cycle.more_body or self.transport.is_closing():
            return
        good = good_while(self.scope)
        assert good is not None  # noqa: S101  # or nothing would be noted
        self._repeats.keep(asked, b"".join(said), good)

    # --- limits

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


class _Heard:
    """A transport; what is written to it is told."""

    def __init__(self, transport: asyncio.Transport, tell: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._tell = tell

    def write(self, data: bytes) -> None:
        self._tell(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
