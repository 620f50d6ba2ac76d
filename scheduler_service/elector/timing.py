"""How long a lease lasts and how often it is renewed, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta

Duration = float | timedelta

_LONGEST_SECONDS = 86_400.0


def seconds(duration: Duration) -> float:
    """Return a duration, in seconds or as a timedelta, in seconds; ValueError for what is neither."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise ValueError(f"{duration!r} is no duration: give seconds as a number, or a timedelta")  # noqa: TRY004
    return float(duration)


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations of an election, in seconds; ValueError for those that cannot work together."""

    lease_seconds: float = 10.0
    renewal_seconds: float = 3.0
    jitter_seconds: float = 2.0  # the next round comes after renewal_seconds plus or minus as much as this
    attempt_seconds: float = 2.0  # how long an answer may take
    margin_seconds: float = 1.0  # how long before the lease can expire we stop trusting it

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = field.name in ("jitter_seconds", "margin_seconds")
            if not (value >= 0 if least else value > 0) or value > _LONGEST_SECONDS:
                raise ValueError(
                    f"{_setting(field.name)} is {value:g}s: it must be {'at least' if least else 'over'} 0, "
                    "and at most a day"
                )
        needed = self.renewal_seconds + self.jitter_seconds + 2 * self.attempt_seconds + self.margin_seconds
        if self.lease_seconds < needed - 1e-9:
            raise ValueError(
                f"lease_duration is {self.lease_seconds:g}s, too short for two attempts to renew it: raise it to "
                f"at least {needed:g}s (renewal_interval + jitter_range + 2 * attempt_timeout + safety_margin), "
                "or lower one of these"
            )

    @property
    def cleanup_seconds(self) -> float:
        """How often the leader removes a row that nobody replaced."""
        return 6 * self.lease_seconds


def _setting(name: str) -> str:
    return {
        "lease_seconds": "lease_duration",
        "renewal_seconds": "renewal_interval",
        "jitter_seconds": "jitter_range",
        "attempt_seconds": "attempt_timeout",
        "margin_seconds": "safety_margin",
    }[name]
