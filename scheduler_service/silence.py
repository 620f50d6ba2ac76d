"""When a replica has missed its sign of life: it may be gone, which only `lost_after` decides.

One rule for the leader, who settles nothing that hangs on such a replica, and for those who watch the leader and
must excuse it then.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from scheduler_service.ledger import OpenRun
from scheduler_service.model import State


def missed_after(sign_in_seconds: float) -> timedelta:
    """Return how old a replica's sign of life is when the next one is missing."""
    return timedelta(seconds=1.5 * sign_in_seconds + 1.0)


def holder_in_doubt(runs: Sequence[OpenRun], me: str, believed_after: datetime) -> OpenRun | None:
    """Return a running run of another replica that has not signed in since `believed_after`.

    Whether the next tick overlaps with it cannot be said before that replica signs in again or its
    run is closed as lost.
    """
    for one in runs:
        if one.run.state is State.WAITING or one.run.instance_id == me:
            continue
        if one.holder_seen_at is None or one.holder_seen_at < believed_after:
            return one
    return None
