"""What replicas ask of the database while nothing is due, from the server's own log.

    python -m benchmarks.idle

A leader and a standby with the default settings and 20 jobs, for 75 s: more than the minute after which the leader
settles all jobs, prunes and cleans up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from tests.faults.asking import SIGN_OF_LIFE, TALKING, Asked, listen
from tests.servers import PostgresServer

SECONDS, QUICK_SECONDS = 75.0, 20.0


def main() -> None:
    """Print each statement with its count."""
    print(_listen(SECONDS).table())


def figures(*, quick: bool) -> Iterator[Figure]:
    """Measure the rows of the design that speak of idle replicas."""
    asked = _listen(QUICK_SECONDS if quick else SECONDS)
    yield Figure("idle leader: statements", "a second", [asked.leader.total() / asked.seconds], {"max": 2.0})
    yield Figure("idle standby: statements", "a second", [asked.standby.total() / asked.seconds], {"max": 1.0})
    other = [one for one in asked.written_by_standby if SIGN_OF_LIFE not in one]
    written = sum(asked.standby[one] for one in other)
    yield Figure("idle standby: writes but its sign of life", "", [written], {"max": 0.0})


def _listen(seconds: float) -> Asked:
    with tempfile.TemporaryDirectory(prefix="idle-") as folder, PostgresServer(TALKING) as server:
        return listen(Path(folder), server, {}, seconds)


if __name__ == "__main__":
    main()
