"""Start what waits in the ledger, and hand what was started to the workers.

    poll --> candidates --as many as there is room for--> start --> submit
                                                                          |
                                                           no reply: claimed, until it is known what was started

What to start is read from the ledger, for a few starts at once when much waits: whoever reads sorts all that waits.
Oldest first, but half of the room then belongs to what has just come due, the newest first: a job that comes due
every second does not wait behind thousands that came due at the full hour, nor do they wait for ever.
A candidate is no more than a hint, and until the next poll: the statement that starts looks at each again.
What was started is run, drain or not, leader or not: its attempt is open under our name.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from scheduler_service.clock import Clock
from scheduler_service.dispatcher.settling import never_began
from scheduler_service.ledger import Ledger, Poll
from scheduler_service.model import Attempt, JobSpec, Kind, Lease, Run
from scheduler_service.runner import needs_process

CANDIDATES = 1000  # read at once
OLDEST_SECONDS = 0.75  # how often a new leader starts what waits longest, as long as it has jobs to settle
NEWEST = 200  # so many of the jobs that have just come due are looked at beside them

Specs = Mapping[str, JobSpec]


class Pool(Protocol):
    """Who runs what was started."""

    @property
    def room(self) -> int:
        """How many attempts of quick jobs can be taken now."""

    def weight(self, spec: JobSpec) -> int:
        """Return how many of them one of this job takes the place of."""

    @property
    def waiting_count(self) -> int:
        """How many of those that were taken nobody has begun yet."""

    def give_back(self) -> Sequence[Attempt]:
        """Return attempts that were taken, not begun, and shall wait in the ledger again."""

    @property
    def free_process_count(self) -> int:
        """How many of them may be of jobs with `isolation: process`."""

    def submit(self, attempt: Attempt, spec: JobSpec, weight: int) -> None:
        """Run an attempt that was given so much of the room."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A start that was sent: which runs and their weights, under which configuration, when (boot clock)."""

    runs: Mapping[Run, int]
    specs: Specs
    sent: float


class Starter:
    """The starts of one dispatcher; for its thread, but for `open_claims`.

    Its verbs raise StoreUnavailable as the ledger's do.
    """

    def __init__(self, ledger: Ledger, workers: Pool, clock: Clock) -> None:
        self._ledger = ledger
        self._workers = workers
        self._clock = clock
        self._claims: Mapping[str, _Claim] = {}  # sent, and not answered or not handed over
        self._candidates: Sequence[Run] = ()  # read and not started yet, in the order of the poll
        self._newest: Sequence[Run] = ()  # those among them, or beside them, that came due last, the newest first
        self._oldest_next = False  # they take turns, though one worker at a time becomes free
        self._oldest_at = 0.0  # when what has waited longest is started again while jobs are to be settled first
        self._just_due: list[str] = []  # the jobs that may have such runs, which were not read yet
        self._more = False  # others seem to wait behind them
        self._foreign: set[str] = set()  # jobs that are not configured, and of which something waits

    @property
    def has_room(self) -> bool:
        """Whether something can be started now."""
        return self._workers.room > 0

    @property
    def is_behind(self) -> bool:
        """Whether more seems to wait than there was room for, or than the workers have begun."""
        return bool(self._candidates) or self._more or self._workers.waiting_count > 0

    @property
    def has_candidates(self) -> bool:
        """Whether something is known that may be started, without asking the ledger."""
        return bool(self._candidates)

    def open_claims(self) -> frozenset[str]:
        """Return the claims whose attempts are, or may be, on their way to a worker.  Any thread may ask."""
        return frozenset(self._claims)

    def came_due(self, job_ids: Iterable[str]) -> None:
        """Take note of jobs that were just settled because they came due."""
        self._just_due = [*self._just_due, *job_ids][-NEWEST:]

    def poll(self, specs: Specs, untried: AbstractSet[str]) -> Poll:
        """Read what there is to do, and the candidates among it, if there is room for any.

        What waits of the jobs `untried` may be stale, and is no candidate if it never began.
        """
        self.forget()
        isolated = self._without_a_process(specs)
        self._foreign -= specs.keys()
        limit = CANDIDATES if self._workers.room else 0
        poll = self._poll(limit, isolated, specs)
        self._more = len(poll.runs) >= limit > 0
        if self._more and all(_may_be_stale(run, untried) for run in poll.runs):  # there may be others behind them
            poll = self._poll(limit, [*isolated, *untried], specs)
        self._candidates = _acceptable(poll.runs, specs, untried)
        if limit and not self._more:
            self._just_due = []
        return poll

    def _poll(self, limit: int, without: Iterable[str], specs: Specs) -> Poll:
        poll = self._ledger.poll(limit, [*without, *self._foreign])
        while unknown := {run.job_id for run in poll.runs} - specs.keys():
            # They wait for a leader that has them, and would come first in each poll: nothing behind them would start.
            self._foreign |= unknown
            poll = self._ledger.poll(limit, [*without, *self._foreign])
        return poll

    def look_at_newest(self, specs: Specs, untried: AbstractSet[str]) -> None:
        """Read what waits of the jobs that have just come due, if others have been waiting and there is room."""
        if self._just_due and self._candidates and self._workers.room:
            jobs = sorted(set(self._just_due))
            runs = self._ledger.poll(CANDIDATES, self._without_a_process(specs), jobs).runs
            first: dict[str, Run] = {}  # of each job: its runs keep their order
            for run in _acceptable(runs, specs, untried):
                if run.kind is not Kind.CATCH_UP:
                    first.setdefault(run.job_id, run)
            newest = [*first.values(), *(run for run in self._newest if run.job_id not in self._just_due)]
            self._newest = sorted(newest, key=lambda run: run.due_at, reverse=True)[:NEWEST]
            self._just_due = []

    def _without_a_process(self, specs: Specs) -> list[str]:
        return [] if self._workers.free_process_count else [one.id for one in specs.values() if needs_process(one)]

    def forget(self) -> None:
        """Know no candidates any more: to be done when jobs, leadership or the database have changed."""
        still_waiting = (run.job_id for run in reversed(self._newest))
        self._just_due = [*still_waiting, *self._just_due][-NEWEST:]
        self._candidates = self._newest = ()
        self._more = False

    def with_room(self, specs: Specs, untried: AbstractSet[str], *, settling: bool) -> tuple[Mapping[Run, int], bool]:
        """Return those of the candidates that can be taken, with their weights; they are candidates no more.

        While a new leader is `settling`, mostly those alone that have just come due.
        And whether others may wait behind those that need a process.
        """
        now = self._clock.monotonic()
        newest_alone = settling and now < self._oldest_at
        if not newest_alone:
            self._oldest_at = now + OLDEST_SECONDS
        room, processes = self._workers.room, self._workers.free_process_count
        chosen: dict[Run, int] = {}
        passed = False
        seen: set[int] = set()
        oldest = {run.id for run in self._candidates}
        for run in self._newest if newest_alone else self._in_turn():
            spec = specs[run.job_id]
            isolated = needs_process(spec)
            if _may_be_stale(run, untried):  # since it was read: its job turned out to have been paused
                pass
            elif isolated and processes == 0:
                passed = passed or run.id in oldest
            else:
                weight = self._workers.weight(spec)
                if weight > room:  # nor what comes behind it: in their order
                    break
                processes -= isolated
                room -= weight
                chosen[run] = weight
            seen.add(run.id)
        # Those that were passed by would be passed by again: the ledger is asked for what there is beside them.
        self._candidates = () if passed else [run for run in self._candidates if run.id not in seen]
        self._newest = [run for run in self._newest if run.id not in seen]
        self._oldest_next ^= len(chosen) % 2 == 1
        return chosen, passed

    def _in_turn(self) -> Iterable[Run]:
        """Return each candidate once: in turn one that came due last and one that has waited longest."""
        known: set[int] = set()
        lanes = (self._candidates, self._newest) if self._oldest_next else (self._newest, self._candidates)
        for pair in itertools.zip_longest(*lanes):
            for run in pair:
                if run is not None and run.id not in known:
                    known.add(run.id)
                    yield run

    def start(self, lease: Lease, runs: Mapping[Run, int], specs: Specs) -> int | None:
        """Start runs and hand their attempts over; return how many could be, None when the term is over."""
        claim_id, sent = uuid.uuid4().hex, self._clock.monotonic()
        # Known before it is sent: if the reply is lost we ask for what carries the claim.
        self._claims = {**self._claims, claim_id: _Claim(runs, specs, sent)}
        wanted = [(run, specs[run.job_id].running_limit) for run in runs]
        attempts = self._ledger.start(lease, claim_id, wanted, sent)
        self._hand_over(claim_id, attempts or [])
        return None if attempts is None else len(attempts)

    def give_back(self) -> bool:
        """Let what the workers took and cannot begin wait in the ledger again; return whether there was any."""
        attempts = self._workers.give_back()
        # An answer that is lost costs nothing: an open attempt without an owner is found by housekeeping.
        for instance_id in {attempt.instance_id for attempt in attempts}:
            self._ledger.unstart(instance_id, [one.id for one in attempts if one.instance_id == instance_id])
        return bool(attempts)

    def answer_claims(self) -> None:
        """Find out what became of starts without an answer."""
        for claim_id, claim in tuple(self._claims.items()):
            self._hand_over(claim_id, self._ledger.claimed(claim_id, tuple(claim.runs), claim.sent))

    def _hand_over(self, claim_id: str, attempts: Iterable[Attempt]) -> None:
        claim = self._claims[claim_id]
        weights = {run.id: weight for run, weight in claim.runs.items()}
        for attempt in attempts:
            self._workers.submit(attempt, claim.specs[attempt.job_id], weights[attempt.run_id])
        self._claims = {known: claim for known, claim in self._claims.items() if known != claim_id}


def is_wanted(run: Run, specs: Specs) -> bool:
    """Whether the configuration has the run's job; one that is disabled runs only when a person asks."""
    spec = specs.get(run.job_id)
    return spec is not None and (spec.enabled or run.kind is Kind.MANUAL)


def _acceptable(runs: Iterable[Run], specs: Specs, untried: AbstractSet[str]) -> list[Run]:
    return [run for run in runs if is_wanted(run, specs) and not _may_be_stale(run, untried)]


def _may_be_stale(run: Run, untried: AbstractSet[str]) -> bool:
    return run.job_id in untried and never_began(run)
