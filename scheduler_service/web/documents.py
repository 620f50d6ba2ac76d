"""JSON over HTTP."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.responses import Response


class Document(Response):
    """A JSON document as an answer, made on the thread that asked the database."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return its bytes."""
        return as_json(content)


def as_json(content: Any) -> bytes:
    """Return a document's bytes.

    ASCII alone: arguments may hold halves of surrogate pairs, which JSON can escape and UTF-8 cannot say.
    """
    return json.dumps(content, separators=(",", ":")).encode()


def read_json(text: bytes) -> Any:
    """Return what JSON says; ValueError for what only Python takes for JSON, and for keys that are given twice."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return document
