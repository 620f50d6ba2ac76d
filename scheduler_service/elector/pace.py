"""How long to wait before the next attempt."""

from __future__ import annotations

import random

_FIRST_RETRY_SECONDS = 0.05


class Pace:
    """Spreads rounds, so that replicas do not ask together, and lets retries wait longer each time."""

    def __init__(self, jitter_seconds: float, rng: random.Random) -> None:
        self._jitter_seconds = jitter_seconds
        self._rng = rng
        self._failures = 0

    def restart(self) -> None:
        """Let the next retry be the first again."""
        self._failures = 0

    def jittered(self, seconds: float) -> float:
        """Return `seconds`, spread by the jitter."""
        return max(0.0, seconds + self._rng.uniform(-self._jitter_seconds, self._jitter_seconds))

    def retry_seconds(self, most: float) -> float:
        """Return the wait before the next retry, at most `most` seconds."""
        wait = min(most, _FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return wait * self._rng.uniform(0.5, 1.0)
