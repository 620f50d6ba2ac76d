"""What the ledger holds of each job, as the leader read it last, and what is decided from that.

    replace, learn --> known --settlement--> to be written --applied--> known, up to a later moment
                                                  `--in part: the rest of the job's ticks belongs to it-->

For the dispatcher's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from scheduler_service import schedule as schedules
from scheduler_service.dispatcher.settling import settle_job, written
from scheduler_service.dispatcher.telling import tell_pause
from scheduler_service.events import Events
from scheduler_service.ledger import JobState, OpenRun, Settlement
from scheduler_service.model import JobSpec
from scheduler_service.schedule import Schedule, ScheduleError


class JobStates(Mapping[str, JobState]):
    """The states of the jobs, by id."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._states: dict[str, JobState] = {}
        self._fresh: set[str] = set()  # jobs not wholly settled yet in this term
        self._partial: set[str] = set()  # jobs of which only some ticks are being settled

    def __getitem__(self, job_id: str) -> JobState:
        return self._states[job_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def replace(self, states: Iterable[JobState], *, elected: bool) -> None:
        """Know these jobs and no others; after an election nothing of them is settled yet."""
        former, self._states = self._states, {}
        for state in states:
            self._know(state, former.get(state.job_id))
        if elected:
            self._fresh = set(self._states)

    def learn(self, state: JobState) -> None:
        """Take note of what the ledger holds of a job, and tell of a new pause."""
        self._know(state, self._states.get(state.job_id))

    def settlement(self, spec: JobSpec, runs: Sequence[OpenRun], now: datetime, most: int) -> Settlement:
        """Return what is to be written for a job, of which `runs` are open; at most so many rows."""
        state = self._states[spec.id]
        past = self._past(spec, state)
        settlement, whole = settle_job(spec, state, past, runs, now, anew=spec.id in self._fresh, most=most)
        (self._partial.discard if whole else self._partial.add)(spec.id)
        return settlement

    def applied(self, settlement: Settlement) -> bool:
        """Take note that this was written; return whether that was all there was to be settled."""
        job_id = settlement.state.job_id
        self._states[job_id] = settlement.applied()
        if job_id in self._partial:
            self._fresh.add(job_id)  # what was decided now and what is decided next belong together
            return False
        self._fresh.discard(job_id)
        if not settlement.enabled:
            del self._states[job_id]
        return True

    def _know(self, state: JobState, former: JobState | None) -> None:
        self._states[state.job_id] = state
        tell_pause(self._events, state, former)

    def _past(self, spec: JobSpec, state: JobState) -> Schedule:
        """Return the schedule under which the job is settled."""
        if (state.schedule, state.timezone) == written(spec):
            return spec.schedule
        try:
            return schedules.parse(state.schedule, state.timezone)
        except ScheduleError as error:
            # Another version wrote it, or a zone is gone: the configured one holds from `settled_until` on.
            stored = f"{state.schedule} ({state.timezone})"
            self._events.emit("schedule_unreadable", job=spec.id, stored=stored, error=str(error))
            return spec.schedule
