"""What was done to whom and when, as the judge needs to know it.

Moments are UTC of this machine, which is the database's too: the server runs here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.chaos.jobs import Job

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Deed:
    """A fault that was done."""

    what: str
    at: datetime
    victim: str | None = None  # the instance, where it was one


@dataclass
class Edit:
    """A version of one job: until `adopted_at` the version before it may have decided as well."""

    job: Job
    written_at: datetime
    adopted_at: datetime | None = None


@dataclass
class Pause:
    """A pause of one job: from when on, and between which moments it ended."""

    job: str
    paused_at: datetime
    resumed_after: datetime | None = None
    resumed_before: datetime | None = None


@dataclass
class Diary:
    """Everything that happened from outside."""

    jobs: Sequence[Job]
    deeds: list[Deed] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # there was nobody to do it to
    requests: Counter[str] = field(default_factory=Counter)  # that were answered
    edits: list[Edit] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    triggered: dict[str, int] = field(default_factory=dict)  # key → run
    cancelled_runs: set[int] = field(default_factory=set)  # cancelled while they waited, or asked to stop
    killed: dict[str, tuple[datetime, float]] = field(default_factory=dict)  # instance → when; boot-clock seconds
    unheard: set[str] = field(default_factory=set)  # instances that were kept from signing in for a while
    ended_at: datetime | None = None  # up to here everything must be decided
    pruned_before: datetime | None = None  # what was decided before may have been let go
    troubles: list[str] = field(default_factory=list)  # what stopped the run itself

    def versions(self, job: str) -> list[Edit]:
        """Return what a job was, one version after another."""
        first = next(one for one in self.jobs if one.name == job)
        return [Edit(first, LONG_AGO, LONG_AGO), *(edit for edit in self.edits if edit.job.name == job)]
