"""The one error of this package."""

from __future__ import annotations


class ScheduleError(ValueError):
    """What is wrong with a schedule and what to write instead; where it stands is the caller's to add."""
