"""Who may read the pages, where `http.read_token` is set.

A program sends `Authorization: Bearer` with one of the two tokens.  A person types one into the sign-in page
and gets a cookie that says until when it holds, signed with the read token: every replica knows it, nothing
is kept, and nobody can make a token of it.  A cookie is good for reading only; nothing that writes looks at
it, so there is nothing to forge across sites.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from urllib.parse import parse_qs, quote

from fastapi import Request, Response

from scheduler_service.web.auth import given_token, same
from scheduler_service.web.view import View

COOKIE = "scheduler_service_reader"
HOLDS_SECONDS = 30 * 24 * 3600  # a screen on the wall is not to ask every morning
FORM_LIMIT = 8192  # bytes
OWN_PATH = r"/(?!/)[!-\[\]-~]{0,1000}"  # one slash, and neither a backslash nor what is no visible ASCII


class Session:
    """The door to the pages of one replica."""

    def __init__(self, view: View) -> None:
        self._tokens = [one for one in (view.read_token, view.token) if one is not None]
        self._read_token = view.read_token

    @property
    def open_to_all(self) -> bool:
        """Whether reading needs no token."""
        return self._read_token is None

    def admits(self, request: Request) -> bool:
        """Whether this request may read."""
        if self._read_token is None:
            return True
        return self.knows(given_token(request)) or self._holds(request.cookies.get(COOKIE, ""), time.time())

    def knows(self, token: str | None) -> bool:
        """Whether `token` is one of ours."""
        return any(same(token, one) for one in self._tokens)

    def open(self, request: Request, response: Response) -> None:
        """Let whoever gets `response` read from now on."""
        until = str(int(time.time()) + HOLDS_SECONDS)
        response.set_cookie(
            COOKIE,
            f"{until}.{self._signature(until)}",
            max_age=HOLDS_SECONDS,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def close(self, request: Request, response: Response) -> None:
        """Forget whoever gets `response`, if he came with a cookie: a form of another site sends none along."""
        if COOKIE not in request.cookies:
            return
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    def _holds(self, cookie: str, now: float) -> bool:
        until, _, signature = cookie.partition(".")
        if not until.isascii() or not until.isdigit() or len(until) > 12:
            return False
        genuine = hmac.compare_digest(signature.encode(), self._signature(until).encode())
        return genuine and int(until) > now

    def _signature(self, until: str) -> str:
        key = (self._read_token or "").encode()
        return hmac.new(key, f"{COOKIE} until {until}".encode(), hashlib.sha256).hexdigest()


def asked_for(request: Request) -> str:
    """Return the path and query of a request, to come back to after signing in."""
    query = request.scope["query_string"].decode("latin-1")
    return own_path(quote(request.scope["path"]) + (query and f"?{query}"))


def own_path(text: str) -> str:
    """Return `text` if it is a path here; for all that a browser could take for the address of another host, /."""
    return text if re.fullmatch(OWN_PATH, text) else "/"


async def typed_form(request: Request) -> tuple[str | None, str]:
    """Return the token that was typed into the sign-in page, None if that was no small form; and where to go."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_LIMIT:
            return None, "/"
    try:
        fields = parse_qs(body.decode(), max_num_fields=4)
    except ValueError:
        return None, "/"
    return fields.get("token", [""])[0].strip(), own_path(fields.get("back", ["/"])[0])
