"""Which jobs there are: what is configured, and what the ledger was told of it.

    configured --take_up--> `specs`, the ledger is behind --recall: what was settled last--> some are known
                                                           `--adopt: all of it--> the ledger agrees

For the dispatcher's thread.  What asks the ledger raises StoreUnavailable as it does.
"""

from __future__ import annotations

from collections.abc import Mapping

from scheduler_service.clock import Clock
from scheduler_service.dispatcher.states import JobStates
from scheduler_service.dispatcher.telling import tell_adoption
from scheduler_service.events import Events
from scheduler_service.ledger import ABSENT_AFTER, Ledger, Survey
from scheduler_service.model import JobSpec, Lease

RECALLED_JOBS = 400  # known before all are adopted: more than can be settled at once, for some may be edited
SOON_SECONDS = 30.0  # after a change; and otherwise
ADOPT_SECONDS = ABSENT_AFTER.total_seconds() / 2  # how often the ledger is told which jobs there are, at least


class Adopter:
    """The configured jobs of one dispatcher, and their adoption by the ledger.

    `specs`, which any thread may read, is replaced whole.
    """

    def __init__(
        self, ledger: Ledger, states: JobStates, events: Events, clock: Clock, specs: Mapping[str, JobSpec]
    ) -> None:
        self._ledger = ledger
        self._states = states
        self._events = events
        self._clock = clock
        self.specs = specs
        self.is_behind = False  # the ledger has not adopted what was taken up
        self._former: Mapping[str, JobSpec] | None = None  # the jobs of before, if it was not told of their end
        self._term = 0  # the last in which it adopted any
        self._adopt_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the ledger is to be told again, though nothing has changed."""
        return not self.is_behind and self._clock.monotonic() >= self._adopt_at

    def take_up(self, specs: Mapping[str, JobSpec]) -> None:
        """Go by these jobs from now on."""
        self._former = self.specs if self._former is None else self._former
        self.specs = specs
        self.is_behind = True

    def recall(self) -> Survey:
        """Know the first that are to be settled, after an election, and survey them: an adoption of all can wait."""
        survey = self._states.recall(self.specs, RECALLED_JOBS)
        self.is_behind = True
        return survey

    def adopt(self, lease: Lease) -> list[str] | None:
        """Let the ledger agree; return the jobs to be settled now, None if the term is over."""
        if self._former is not None and self._term == lease.term:  # those that are gone were there until now
            former = self._ledger.adopt(lease, tuple(self._former.values()))
            if former is not None:
                tell_adoption(self._events, lease, former)
        self._former = None
        adoption = self._ledger.adopt(lease, tuple(self.specs.values()))
        if adoption is None:
            return None
        # The first time soon again: another hand may have been at the table meanwhile, or this has been forgotten.
        self._adopt_at = self._clock.monotonic() + (SOON_SECONDS if self.is_behind else ADOPT_SECONDS)
        self._term, self.is_behind = lease.term, False
        new = self._states.replace(one for one in adoption.states if one.enabled or self.specs[one.job_id].enabled)
        edited = self._states.edited(self.specs)
        disabled = [job_id for job_id in edited if not self.specs[job_id].enabled]
        tell_adoption(self._events, lease, adoption, [job for job in edited if job not in disabled], disabled)
        # Now: what the new schedule says holds from this moment on, not from the job's next tick.
        return [*edited, *new]
