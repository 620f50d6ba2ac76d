"""Make answers smaller on the way: a page of fifty jobs has 400 KB, and a tenth of a tenth of that packed.

Packed is what is complete, is text, and is worth it, for who says that it understands gzip.  Streams pass as they
are: what they tell must not wait for more to pack.  It is done beside the event loop, which answers probes
meanwhile, and once for an answer that is kept and given to many.
"""

from __future__ import annotations

import gzip
import re
from collections import OrderedDict
from functools import partial

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEAST_BYTES = 1024
LEVEL = 5  # from there on time grows, and size hardly shrinks
PACKING_THREADS = 2
KEPT_ANSWERS = 4  # a scrape of ten thousand jobs has megabytes
TEXT = re.compile(r"text/(?!event-stream)|application/(json|[a-z]+\+json)|image/svg\+xml")
ACCEPTED = re.compile(r"(?:^|,)\s*(?P<coding>gzip|\*)\s*(?:;\s*q=(?P<weight>[0-9.]+)\s*)?(?=,|$)", re.IGNORECASE)


class Compressed:
    """An application whose answers are packed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # A kept page is one object, whose hash Python remembers: to look it up costs nothing.
        self._packed: OrderedDict[bytes, bytes] = OrderedDict()
        # Threads of our own: while the database hangs, whoever waits for it holds all the others.
        self._limiter = CapacityLimiter(PACKING_THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        accepts = accepts_gzip(Headers(scope=scope).get("accept-encoding", ""))
        begun: Message | None = None  # held back until it is known how long the answer is

        async def packing(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and _is_text(message):
                MutableHeaders(scope=message).add_vary_header("Accept-Encoding")
                begun = message
                return
            if begun is not None:
                begin, begun = begun, None
                body = message.get("body", b"")
                if accepts and not message.get("more_body", False) and len(body) >= LEAST_BYTES:
                    message = {**message, "body": await self._pack(body)}
                    headers = MutableHeaders(scope=begin)
                    headers["Content-Encoding"] = "gzip"
                    headers["Content-Length"] = str(len(message["body"]))
                await send(begin)
            await send(message)

        await self._app(scope, receive, packing)

    async def _pack(self, body: bytes) -> bytes:
        packed = self._packed.get(body)
        if packed is None:
            packed = self._packed[body] = await to_thread.run_sync(
                partial(gzip.compress, body, LEVEL, mtime=0), limiter=self._limiter
            )
            while len(self._packed) > KEPT_ANSWERS:
                self._packed.popitem(last=False)
        return packed


def accepts_gzip(header: str) -> bool:
    """Return whether the header Accept-Encoding asks for gzip, or leaves it to us."""
    weights = {found["coding"].lower(): found["weight"] or "1" for found in ACCEPTED.finditer(header)}
    weight = weights.get("gzip", weights.get("*", "0"))  # what is named counts, wherever everything else is accepted
    return re.fullmatch(r"0(\.0*)?", weight) is None


def _is_text(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return TEXT.match(headers.get("content-type", "")) is not None and "content-encoding" not in headers
