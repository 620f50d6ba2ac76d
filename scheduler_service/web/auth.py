"""Who may read and who may write.

    http.token        may write and read; without one nobody may write
    http.read_token   may read; without one everybody may

A token comes in the header `Authorization: Bearer …` and in no other way.  Browsers add that header to no
request by themselves, so a page of somebody else's cannot write through a visitor's browser (CSRF): a cookie,
which they do add, never counts for writing.  Nothing here is logged.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request

from scheduler_service.web.problems import Problem

if TYPE_CHECKING:
    from scheduler_service.web.view import View

Check = Callable[[Request], None]

REALM = 'Bearer realm="scheduler-service"'


def require_reader(view: View) -> Check:
    """Return a dependency that lets pass who may read; for others it raises a Problem."""

    def check(request: Request) -> None:
        if view.read_token is None:
            return
        given = given_token(request)
        if not any(same(given, token) for token in (view.read_token, view.token)):
            raise _unauthorized(given, "Reading needs http.read_token of the configuration")

    return check


def require_writer(view: View) -> Check:
    """Return a dependency that lets pass who may write; for others it raises a Problem."""

    def check(request: Request) -> None:
        if view.token is None:
            raise Problem(
                403,
                "Writing is off: set http.token in the configuration, start the replica anew, and send it as "
                "'Authorization: Bearer …'.  The commands (`scheduler-service trigger` and others) need none.",
                kind="writing-off",
            )
        given = given_token(request)
        if same(given, view.token):
            return
        if same(given, view.read_token):
            raise Problem(403, "This token may only read: writing needs http.token.", kind="read-only-token")
        raise _unauthorized(given, "Writing needs http.token of the configuration")

    return check


def given_token(request: Request) -> str | None:
    """Return the bearer token that came with a request."""
    given = request.headers.getlist("authorization")
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def same(given: str | None, token: str | None) -> bool:
    """Whether a token is the right one, in a time that says nothing of how much of it is."""
    # compare_digest tells lengths apart; hashes have but one.
    if not given or not token:
        return False
    # A header's bytes are read as Latin-1, whatever they stand for.
    return hmac.compare_digest(_hash(given.encode("latin-1", "replace")), _hash(token.encode()))


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _unauthorized(given: str | None, need: str) -> Problem:
    challenge = REALM if given is None else f'{REALM}, error="invalid_token"'
    said = "none was sent" if given is None else "the one that was sent is wrong"
    return Problem(
        401,
        f"{need}, as 'Authorization: Bearer …': {said}.",
        kind="token-needed",
        headers={"WWW-Authenticate": challenge},
    )
