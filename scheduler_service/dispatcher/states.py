"""What the ledger holds of each job, as the leader read it last, and what is decided from that.

    recall, replace --> known --settlement--> to be written --applied--> known, up to a later moment
                                                   `--in part: the rest of the job's ticks belongs to it-->

For the dispatcher's thread.  What reads raises StoreUnavailable as the ledger does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

from scheduler_service import schedule as schedules
from scheduler_service.dispatcher.settling import is_paused, settle_job, written
from scheduler_service.dispatcher.telling import tell_pause
from scheduler_service.events import Events
from scheduler_service.ledger import JobState, Ledger, OpenRun, Poll, Settlement, Survey
from scheduler_service.model import JobSpec, Overlap
from scheduler_service.schedule import Schedule, ScheduleError


class JobStates(Mapping[str, JobState]):
    """The states of the jobs, by id."""

    def __init__(self, ledger: Ledger, events: Events) -> None:
        self._ledger = ledger
        self._events = events
        self._states: dict[str, JobState] = {}
        self._pauses: dict[str, tuple[datetime, datetime | None]] = {}  # those that were told of, in whatever term
        self._fresh: set[str] = set()  # jobs not wholly settled yet in this term, or since a pause began
        self._untried: set[str] = set()  # jobs of which nothing was settled yet in this term, or nothing may start yet
        self._partial: set[str] = set()  # jobs of which only some ticks are being settled

    def __getitem__(self, job_id: str) -> JobState:
        return self._states[job_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def recall(self, specs: Mapping[str, JobSpec], most: int) -> Survey:
        """Know some of the jobs that are as the ledger has them, after an election: nothing is settled yet."""
        states, survey = self._ledger.recall(most)
        standing = (one for one in states if one.job_id in specs)
        self.replace(one for one in standing if _as_noted(specs[one.job_id], one))
        self._fresh, self._untried = set(self._states), set(specs)
        return survey

    def replace(self, states: Iterable[JobState]) -> list[str]:
        """Know these jobs and no others; return those that were not known, settled last first.

        Nothing of them is settled yet.
        """
        former, self._states = self._states, {}
        for state in states:
            self._know(state)
        new = [job_id for job_id in self._states if job_id not in former]
        new.sort(key=lambda job_id: self._states[job_id].settled_until, reverse=True)
        self._fresh.update(new)
        self._untried = (self._untried & self._states.keys()).union(new)
        return new

    def read_again(self, job_ids: Iterable[str]) -> bool:
        """Read some jobs' states, which were changed from elsewhere; return whether the ledger still has them all."""
        wanted = sorted(job_ids)
        found = self._ledger.job_states(wanted)
        for state in found:
            self._know(state)
        return len(found) == len(wanted)

    def pauses_over(self, poll: Poll) -> list[str]:
        """Read the pauses that are new or over; return the jobs of the latter, which are to be settled."""
        over = [job_id for job_id in poll.pauses_over if job_id in self._states]
        new = [job_id for job_id in poll.pauses if job_id in self._states]
        if over or new:
            for state in self._ledger.job_states(sorted({*over, *new})):
                if state.settled_until >= self._states[state.job_id].settled_until:
                    self._know(state)
        # Not those whose end is yet to come, nor those that were settled since, but for a tick that jitter
        # makes due later: settling ends nothing then, and would be asked for by every poll.
        return [job_id for job_id in over if job_id in self._fresh]

    def settled_until(self, job_id: str) -> datetime | None:
        """Return up to when a job is settled, None if it is not known."""
        state = self._states.get(job_id)
        return None if state is None else state.settled_until

    def edited(self, specs: Mapping[str, JobSpec]) -> list[str]:
        """Return the jobs that are configured otherwise than the ledger has them."""
        return [state.job_id for state in self._states.values() if _is_edited(specs[state.job_id], state)]

    @property
    def untried(self) -> AbstractSet[str]:
        """The jobs that had no turn yet in this term, or not with all their ticks: what waits of them is not started.

        It may be stale, or would refuse the ticks that are decided next.
        """
        return self._untried

    def had_its_turn(self, job_id: str, now: datetime) -> None:
        """Let what waits of a job be started: it was decided anew, or cannot be for now.

        Not in a pause: what waits since before is decided anew when that is over, and not started before.
        """
        if not is_paused(self._states[job_id], now):
            self._untried.discard(job_id)

    def settlement(self, spec: JobSpec, runs: Sequence[OpenRun], now: datetime, most: int) -> Settlement:
        """Return what is to be written for a job, of which `runs` are open; at most so many rows."""
        state = self._states[spec.id]
        past = self._past(spec, state)
        settlement, whole = settle_job(spec, state, past, runs, now, anew=spec.id in self._fresh, most=most)
        if whole:
            self._partial.discard(spec.id)
        else:  # noted before it is written, for the answer may be lost
            self._partial.add(spec.id)
            self._fresh.add(spec.id)  # what is decided now and what is decided next belong together
            if spec.overlap is not Overlap.ALLOW:
                self._untried.add(spec.id)  # a run that began would refuse the ticks that are decided next
        return settlement

    def applied(self, spec: JobSpec, settlement: Settlement, now: datetime) -> bool:
        """Take note that this was written for a job as of `now`; return whether that was all there was to settle."""
        state = self._states[spec.id] = settlement.applied()
        whole = spec.id not in self._partial
        if whole or spec.overlap is Overlap.ALLOW:
            self.had_its_turn(spec.id, now)
        if not whole:
            return False
        if not is_paused(state, now):
            self._fresh.discard(spec.id)
        if not settlement.enabled:
            del self._states[spec.id]
        return True

    def _know(self, state: JobState) -> None:
        self._states[state.job_id] = state
        if state.paused_at is None:
            self._pauses.pop(state.job_id, None)
        elif self._pauses.get(state.job_id) != (pause := (state.paused_at, state.paused_until)):
            self._pauses[state.job_id] = pause
            # What waits by then may be stale when the pause is over, as what a former leader left waiting may be.
            self._fresh.add(state.job_id)
            self._untried.add(state.job_id)
            tell_pause(self._events, state)

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


def _as_noted(spec: JobSpec, state: JobState) -> bool:
    """Whether an adoption would change nothing of a job: what is polled for goes by the limit, too."""
    return not _is_edited(spec, state) and state.running_limit == spec.running_limit


def _is_edited(spec: JobSpec, state: JobState) -> bool:
    """Whether a job is configured otherwise than the ledger has it."""
    return (state.schedule, state.timezone, state.enabled) != (*written(spec), spec.enabled)
