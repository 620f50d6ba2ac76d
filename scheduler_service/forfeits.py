"""Runs that end with the term in which they were started: `on_leadership_lost: cancel`.

A term is forfeited when it was taken from us: another leads, or we could not renew it.  One that we give
back, to drain or because somebody asked, lets its runs finish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from scheduler_service.model import Attempt, JobSpec, OnLeadershipLost

REASONS = ("deposed", "fenced", "trust_lapsed")  # of `elector.Lost`; `crashed` ends the process with its runs


class Pool(Protocol):
    """Who runs attempts."""

    def registry(self) -> Mapping[int, Attempt]:
        """Return the attempts that were taken and are not yet recorded as ended."""

    def spec_of(self, attempt_id: int) -> JobSpec | None:
        """Return the job as it was when one of them was started."""

    def stop_run(self, attempt_id: int, reason: str) -> None:
        """Ask an attempt to stop."""


class Forfeits:
    """Stops the runs of terms that were taken from us.  For one thread, which steps it every second or so."""

    def __init__(self, workers: Pool, open_claims: Callable[[], frozenset[str]]) -> None:
        self._workers = workers
        self._open_claims = open_claims
        self._terms: frozenset[int] = frozenset()

    def lost(self, term: int, reason: str) -> None:
        """Take note that a term of ours is over."""
        if reason in REASONS:
            self._terms |= {term}

    def step(self) -> None:
        """Stop what shall not go on; what was on its way to a worker when its term ended is found later."""
        if not self._terms:
            return
        # Asked before: a run that is on its way now may be among the running ones, or only at the next step.
        coming = self._open_claims()
        running = self._workers.registry()
        for attempt_id, attempt in running.items():
            spec = self._workers.spec_of(attempt_id)
            if attempt.term in self._terms and spec and spec.on_leadership_lost is OnLeadershipLost.CANCEL:
                self._workers.stop_run(attempt_id, "leadership was lost")
        if not coming:
            self._terms &= {attempt.term for attempt in running.values()}
