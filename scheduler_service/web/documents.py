"""JSON over HTTP."""

from __future__ import annotations

import json
from typing import Any

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
