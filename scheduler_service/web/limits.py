"""What surrounds every answer: limits on what is asked, and headers that keep browsers strict.

too many at once  -> 503, but probes and scrapes are answered
too large a body  -> 413
HEAD              -> as GET, without the body; streams, which have no end, answer it themselves
every answer      -> headers
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler_service.web.problems import Problem

MOST_REQUESTS = 100  # at once; a page or a script asks again
MOST_BYTES = 64 * 1024  # of a body: arguments are the longest that anybody sends
PROBES = frozenset({"/livez", "/readyz", "/leader", "/metrics"})  # wait for no database, and cost next to nothing
STREAMS = frozenset({"/events"})  # answers without an end, which have a limit of their own

HEADERS = {
    # No inline script or style, nothing from elsewhere, in nobody's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none at all a browser sends a form without its origin
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Bounded:
    """An application within limits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        send = _with_headers(send)
        if problem := self._problem(scope):
            await problem.response(quote(scope["path"]))(scope, receive, send)
            return
        if (
            scope["method"] == "HEAD" and scope["path"] not in STREAMS
        ):  # the server leaves the body out by its own copy of the scope
            scope = {**scope, "method": "GET"}
        counted = scope["path"] not in STREAMS
        self._requests += counted
        try:
            await self._app(scope, _bounded(receive), send)
        finally:
            self._requests -= counted

    def _problem(self, scope: Scope) -> Problem | None:
        if self._requests >= MOST_REQUESTS and scope["path"] not in PROBES:
            detail = f"{MOST_REQUESTS} requests are being answered, and that is all at once: ask again."
            return Problem(503, detail, kind="busy", headers={"Retry-After": "1"})
        length = Headers(scope=scope).get("content-length", "0")
        if not re.fullmatch(r"0*[0-9]{1,9}", length, re.ASCII) or int(length) > MOST_BYTES:
            return _too_large()
        return None


def _bounded(receive: Receive) -> Receive:
    """Count what comes in pieces, for which nobody has to say the length beforehand."""
    total = 0

    async def bounded() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MOST_BYTES:
            # Of this kind, because the framework turns every other error of a body into its own.
            raise HTTPException(413, _too_large().detail, {"Connection": "close"})
        return message

    return bounded


def _too_large() -> Problem:
    return Problem(413, f"A body may have {MOST_BYTES} bytes.", headers={"Connection": "close"})


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _missing(headers):
                headers[name] = value
        await send(message)

    return with_headers


def _missing(headers: MutableHeaders) -> Iterable[tuple[str, str]]:
    yield from ((name, value) for name, value in HEADERS.items() if name not in headers)
    if "cache-control" not in headers:
        yield "Cache-Control", "no-store"
