"""Who may read: everybody, or with `http.read_token` whoever sends it, or the token of writing calls."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import HTTPException
from starlette.requests import Request

if TYPE_CHECKING:
    from scheduler_service.web.view import View


def require_reader(view: View) -> Callable[[Request], None]:
    """Return a dependency that lets pass who may read."""

    def check(request: Request) -> None:
        if view.read_token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = any(_same(given.strip(), token) for token in (view.read_token, view.token))
        if scheme.lower() != "bearer" or not right:
            problem = "reading needs http.read_token of the configuration, as 'Authorization: Bearer …'"
            raise HTTPException(401, problem, headers={"WWW-Authenticate": 'Bearer realm="scheduler-service"'})

    return check


def _same(given: str, token: str | None) -> bool:
    # compare_digest tells lengths apart; hashes have but one.
    return token is not None and hmac.compare_digest(_hash(given), _hash(token))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
