"""What is answered where no route leads: to a browser a page, to whoever else asks a problem document.

A browser is led from /jobs/backup/ to /jobs/backup.  What begins with /api is a problem document for everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler_service.web.rendering import HEADERS


class Nowhere:
    """Answers a browser by `page`, and all else by `others`."""

    def __init__(self, others: ASGIApp, page: Callable[[Request], Response]) -> None:
        self._others = others
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = self._others
        if scope["type"] == "http" and _is_of_browser(request := Request(scope)):
            answer = _without_slash(scope) if scope["path"].endswith("/") else self._page(request)
        await answer(scope, receive, send)


def _is_of_browser(request: Request) -> bool:
    is_api = request.scope["path"].split("/")[1:2] == ["api"]
    return request.method == "GET" and not is_api and "text/html" in request.headers.get("accept", "")


def _without_slash(scope: Scope) -> Response:
    query = scope["query_string"].decode("latin-1")
    # With one slash before it, however many there were: //host leads to another host.
    path = quote(f"/{scope['path'].strip('/')}")
    return RedirectResponse(f"{path}?{query}" if query else path, 307, HEADERS)
