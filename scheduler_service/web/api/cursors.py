"""Where a page of runs ended, as text that a script passes on without looking into it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from scheduler_service.clock import EPOCH
from scheduler_service.ledger.history import RunPlace, RunRow
from scheduler_service.web.problems import Problem

MICROSECOND = timedelta(microseconds=1)


def after_run(rows: Sequence[RunRow], limit: int) -> str | None:
    """Return the cursor that follows the first `limit` of `rows`; None if these are all."""
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    return f"{(last.scheduled_at - EPOCH) // MICROSECOND}.{last.id}"


def read_cursor(text: str | None) -> RunPlace | None:
    """Return the place that a cursor names; a Problem if it is none of ours."""
    if text is None:
        return None
    match = re.fullmatch(r"(-?[0-9]{1,18})\.([0-9]{1,18})", text, re.ASCII)
    try:
        if match is not None:
            return RunPlace(EPOCH + int(match[1]) * MICROSECOND, int(match[2]))
    except OverflowError:
        pass
    raise Problem(
        422, f"after: {text[:50]!r} is no cursor: send the `after` of the page before, or none.", kind="invalid-request"
    )
