"""Who asks the same again gets the same bytes, as long as they are good.

    request, as it came -+-> known, and still good: the answer, as it went out before
                         |
                         +-> parsed, routed, answered; kept, if its route says for how long it is good

Screens and scrapers send the same bytes again and again, and most of what the service does for such a request is to
find out that it is one of those.  A request says all that an answer depends on, tokens, cookies and what it accepts
included; so an equal one may have the same answer, and nobody else can.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

MOST_ANSWERS = 32
LONGEST_ANSWER = 1024 * 1024  # bytes
LONGEST_REQUEST = 4096  # bytes

Good = Callable[[], bool]

_STATE = "good_while"


def repeat_while(request: Request, good: Good) -> None:
    """Let the answer to `request` be given to equal ones while `good`, which is asked on the server's event loop."""
    setattr(request.state, _STATE, good)


def good_while(scope: Any) -> Good | None:
    """Return for how long the answer to a request is good for equal ones, if a route said so."""
    found: Good | None = scope["state"].get(_STATE)
    return found


class Repeats:
    """Answers of one server, by requests.  All methods belong to its event loop."""

    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, tuple[bytes, Good]] = OrderedDict()

    def find(self, request: bytes) -> bytes | None:
        """Return the answer to `request` if it is known and still good."""
        if len(request) > LONGEST_REQUEST or (found := self._answers.get(request)) is None:
            return None
        answer, good = found
        if good():
            return answer
        del self._answers[request]
        return None

    def keep(self, request: bytes, answer: bytes, good: Good) -> None:
        """Know an answer from now on; of too many the oldest is forgotten."""
        if len(request) > LONGEST_REQUEST or len(answer) > LONGEST_ANSWER or not good():
            return
        self._answers[request] = answer, good
        self._answers.move_to_end(request)
        while len(self._answers) > MOST_ANSWERS:
            self._answers.popitem(last=False)
