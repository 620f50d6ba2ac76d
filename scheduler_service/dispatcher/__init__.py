"""The leader's hand: due jobs are settled, waiting runs are started, under the term.

    due jobs --survey, decide--> settle --------> rows of the ledger
                                                     |  waiting, due, a worker free
    workers <--------------- start <-----------------+

Settling is the one path for every tick: on time, late, after an outage of a week.  What to start is
read from the ledger, and looked at again by the statement that starts it.  Before each statement the lease is
asked for; in each statement the database asks again, and its answer counts.

`step` does what is to be done now and says how long to wait; it never runs a job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from scheduler_service.clock import LONG_AGO, Clock
from scheduler_service.database import StoreUnavailable
from scheduler_service.dispatcher.adopting import Adopter
from scheduler_service.dispatcher.agenda import Agenda, Due
from scheduler_service.dispatcher.leadership import Leadership
from scheduler_service.dispatcher.resting import Rest
from scheduler_service.dispatcher.settling import is_stale
from scheduler_service.dispatcher.starting import Pool, Starter, is_wanted
from scheduler_service.dispatcher.states import JobStates
from scheduler_service.dispatcher.telling import tell_settlement
from scheduler_service.events import Events, Outage
from scheduler_service.ledger import Ledger, OpenRun, Settlement, StartsLimits, Survey
from scheduler_service.model import JobSpec, Lease, OnCrash, Overlap
from scheduler_service.rush import Rush
from scheduler_service.silence import holder_in_doubt, missed_after

BATCH_JOBS = 200  # jobs settled in one statement,
BATCH_ROWS = 2000  # and about so many rows written, lest a backlog take longer than a statement may
MOST_SHARES = 1024
JOB_ROWS = 1000  # of which one job may have so many; the rest of its ticks is settled next
POLL_SECONDS = 0.98  # how often the ledger is asked what waits to be started,
POLL_REST = 4  # and so many times as long as that took it is not asked while something is known to wait
SETTLE_ALL_SECONDS = 60.0  # how often all jobs are settled, which finds what a timer missed
HELD_SECONDS = 0.25  # how soon a job that may not be settled yet is looked at again
CHANGED_SECONDS = 0.01  # how soon a job is computed anew that was changed from elsewhere
RETRY_SECONDS = 0.5  # after the database did not answer
REHEARSE_SECONDS = 300.0  # how often a standby makes sure that it is ready: connections come and go
IDLE_SECONDS = 1.0  # a standby only shows that it is alive
SUSPECT_SECONDS = 0.05


class Dispatcher:
    """Settle and start while we lead.

    `lead`, `retire`, `configure`, `due` and `wake` may be called by any thread.  Two may be set before the first
    step, and must not block: `on_replaced` is called when a run was asked to make room for another, `on_taken_over`
    once in each term, when the first of what was due is settled and started.  `rush` is told when more is due
    than was started.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        leadership: Leadership,
        workers: Pool,
        events: Events,
        clock: Clock,
        specs: Iterable[JobSpec],
        sign_in_seconds: float,
        rush: Rush | None = None,
    ) -> None:
        self._ledger = ledger
        self._leadership = leadership
        self._starter = Starter(ledger, workers, clock)
        self._events = events
        self._clock = clock
        self.on_replaced: Callable[[], None] = lambda: None
        self.on_taken_over: Callable[[int], None] = lambda _: None
        self._unseen_after = missed_after(sign_in_seconds)
        self._changed = threading.Condition()
        self._lease: Lease | None = None  # the term that we were told to lead
        self._agenda = Agenda(self._changed, clock)
        self._rush = Rush() if rush is None else rush
        self._rest = Rest(self._changed, self._rush)
        self._stopping = False
        self.stepped_at = clock.monotonic()  # when the thread was last alive, on the boot clock
        self._configured: Mapping[str, JobSpec] | None = None  # a new configuration, not taken up yet
        # From here on only the dispatcher's thread writes.
        self._term = 0  # the term whose job states we hold
        self._states = JobStates(ledger, events)
        self._adopter = Adopter(ledger, self._states, events, clock, {spec.id: spec for spec in specs})
        self._taken_over = 0  # the last term of which it was told
        self._share = 1  # a batch is this many times smaller than it may be, after one that failed
        self._poll_at = self._settled_all_at = 0.0
        self._rehearsed_at = -REHEARSE_SECONDS
        self._outage = Outage(events, "dispatcher", clock)

    # --- from other threads

    def lead(self, lease: Lease) -> None:
        """Begin to act under this term."""
        with self._changed:
            self._lease = lease
            self._agenda.clear()
            self._rest.elected()

    def retire(self, term: int) -> None:
        """Stop acting under this term.  What is not settled is settled by the next leader."""
        with self._changed:
            if self._lease is not None and self._lease.term == term:
                self._lease = None
                self._agenda.clear()

    def configure(self, specs: Iterable[JobSpec]) -> None:
        """Take a new set of jobs: what was begun goes on as it was, everything else follows the new one."""
        with self._changed:
            self._configured = {spec.id: spec for spec in specs}
            self._changed.notify()

    def starts_limits(self) -> StartsLimits:
        """Return how often a run is started at most, for the jobs whose runs are started again after a crash."""
        return {spec.id: spec.starts_limit for spec in self._specs.values() if spec.on_crash is OnCrash.RERUN}

    def due(self, job_id: str, moment: datetime) -> None:
        """A timer went off: the job must be settled at least up to `moment`."""
        with self._changed:
            if self._lease is not None:
                self._rush.tell(going_on=True)
                self._agenda.add(job_id, moment)
                self._changed.notify()

    def wake(self) -> None:
        """A worker became free or a result was written: something may be started."""
        self._rest.signal()

    def stop(self) -> None:
        """Let `run` return."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def open_claims(self) -> frozenset[str]:
        """Return the claims whose attempts are, or may be, on their way to a worker."""
        return self._starter.open_claims()

    @property
    def _specs(self) -> Mapping[str, JobSpec]:
        return self._adopter.specs

    @property
    def at_rest(self) -> bool:
        """Whether no job waits to be settled and no configuration to be taken up: only a poll may find something."""
        with self._changed:
            return not (self._agenda or self._adopter.is_behind) and self._configured is None

    # --- the thread

    def run(self) -> None:
        """Step until `stop`."""
        while not self._stopping:
            seconds = self.step()
            with self._changed:
                self._changed.wait_for(self._is_woken, seconds)
        self._rush.tell(going_on=False)  # though more may be due: nobody here starts it

    def step(self) -> float:
        """Do what is to be done now; return the seconds until something is, if nobody wakes us."""
        self.stepped_at = self._clock.monotonic()
        self._rest.step_begins()
        try:
            seconds = self._act()
        except StoreUnavailable as error:
            self._starter.forget()
            self._rest.unanswered()
            self._outage.failed(error)
            return RETRY_SECONDS
        if seconds is None:
            self._rest.in_doubt()
            return SUSPECT_SECONDS
        adopting = self._lease is not None and self._adopter.is_behind
        self._rest.answered(going_on=adopting or self._ready() or self._starter.is_behind)
        self._outage.over()
        return seconds

    def _act(self) -> float | None:
        self._reconfigure()  # first, because the thread does not rest before
        self._starter.answer_claims()
        if self._starter.give_back():
            self._rest.signal()
        lease = self._current()
        if lease is None:
            self._starter.forget()
            with self._changed:
                if self._lease is not None:  # suspect or deposed: we shall be told, or the elector trusts it again
                    return None
                self._rest.take_signal()  # whoever leads starts what may be started
            return self._stand_by()
        recalled: Survey | None = None
        if lease.term != self._term:
            recalled = self._recall(lease)
        elif self._adopter.is_behind and not self._adopt(lease):
            return SUSPECT_SECONDS
        now = self._clock.monotonic()
        if now - self._settled_all_at >= SETTLE_ALL_SECONDS:
            if self._adopter.is_due and not self._adopt(lease):
                return SUSPECT_SECONDS
            self._settled_all_at = now
            self._agenda.add_all(self._states)
        wanted = self._rest.take_signal()
        batch = self._agenda.take(max(1, BATCH_JOBS // self._share), self._states.settled_until)
        if batch:
            self._settle(lease, batch, recalled)
            self._starter.came_due(job_id for job_id, due in batch.items() if due.moment > LONG_AGO)
            wanted = True
        polling = now >= self._poll_at
        if polling or (wanted and self._starter.has_room):
            self._start(lease, anew=polling)
        settled_some = self._states or not self._adopter.is_behind  # or there are no jobs
        if settled_some and self._term == lease.term and self._taken_over != lease.term:
            self._taken_over = lease.term
            self.on_taken_over(lease.term)
        return self._pause()

    def _stand_by(self) -> float:
        """Be ready to lead: what is said for the first time costs most, and would be said just after the election."""
        now = self._clock.monotonic()
        if now - self._rehearsed_at >= REHEARSE_SECONDS:
            self._rehearsed_at = now
            self._ledger.rehearse()
        return IDLE_SECONDS

    def _reconfigure(self) -> None:
        """Take up a new configuration, if there is one."""
        with self._changed:
            if self._configured is not None:
                self._adopter.take_up(self._configured)
                self._configured = None
                self._starter.forget()  # of jobs as they were

    def _current(self) -> Lease | None:
        self.stepped_at = self._clock.monotonic()  # before each statement, which may take its time
        told, lease = self._lease, self._leadership.current()
        return lease if told is not None and lease is not None and lease.term == told.term else None

    def _is_woken(self) -> bool:
        return self._stopping or self._configured is not None or self._rest.over(ready=self._ready())

    def _ready(self) -> bool:
        return self._lease is not None and self._agenda.ready

    def _pause(self) -> float:
        if self._adopter.is_behind:
            return 0.0
        now, first = self._clock.monotonic(), self._agenda.next_at()
        return max(0.0, min(now + POLL_SECONDS if first is None else first, self._poll_at) - now)

    # --- taking over

    def _recall(self, lease: Lease) -> Survey:
        self._starter.forget()
        survey = self._adopter.recall()
        self._term = lease.term
        self._settled_all_at = self._clock.monotonic() - SETTLE_ALL_SECONDS
        return survey

    def _adopt(self, lease: Lease) -> bool:
        to_settle = self._adopter.adopt(lease)
        if to_settle is None:
            self._fenced("adopt", lease)
            return False
        self._agenda.add_all(to_settle)
        return True

    # --- settling

    def _settle(self, lease: Lease, batch: Mapping[str, Due], recalled: Survey | None) -> None:
        """Settle jobs; `recalled` is the survey of those that a new leader has just recalled."""
        known = [job_id for job_id in batch if job_id in self._states]
        for job_id in () if self._adopter.is_behind else batch.keys() - set(known):  # none that is yet to be adopted
            self._agenda.done(job_id, batch[job_id].moment)
        if not known:
            return
        survey = recalled or self._ledger.survey(known)
        settlements = self._compute(lease, known, survey)
        if recalled:  # first of all what came due while nobody led, or may be started; the others stay due
            with_runs = {one.run.job_id for one in survey.open_runs}
            urgent = {job_id: one for job_id, one in settlements.items() if one.decisions or job_id in with_runs}
            settlements = urgent or settlements
        if not settlements or self._current() is None:
            return
        try:
            settled = self._ledger.settle(lease, tuple(settlements.values()))
        except StoreUnavailable:
            # If it was too much for one statement, less of it is not; if it is one job's fault, the others go on.
            if len(settlements) == 1 and self._share >= BATCH_JOBS:
                ((failing, settlement),) = settlements.items()
                if not settlement.withdrawn:  # nothing that waits is stale
                    self._states.had_its_turn(failing, survey.now)
                self._agenda.retry(failing, SETTLE_ALL_SECONDS)
            if self._share < MOST_SHARES:
                self._rest.less_is_asked()
            self._share = min(self._share * 4, MOST_SHARES)
            raise
        self._share = 1
        if settled is None:
            self._fenced("settle", lease)
            return
        for job_id in settled:
            self._record(settlements[job_id], batch[job_id].moment, survey.now)
        if changed := settlements.keys() - settled:
            self._read_again(changed)

    def _compute(self, lease: Lease, job_ids: Iterable[str], survey: Survey) -> dict[str, Settlement]:
        open_runs: dict[str, list[OpenRun]] = {}
        for one in survey.open_runs:
            open_runs.setdefault(one.run.job_id, []).append(one)
        settlements: dict[str, Settlement] = {}
        row_count, most = 0, max(1, JOB_ROWS // self._share)
        for job_id in job_ids:
            if row_count >= max(1, BATCH_ROWS // self._share):
                break  # the others stay due
            runs = open_runs.get(job_id, [])
            ahead_seconds = (self._states[job_id].settled_until - survey.now).total_seconds()
            if ahead_seconds > 0:  # the database's clock was set back: nothing is due that is not settled
                if not any(is_stale(self._specs[job_id], one.run, survey.now) for one in runs):
                    self._states.had_its_turn(job_id, survey.now)
                self._agenda.retry(job_id, min(ahead_seconds, SETTLE_ALL_SECONDS))  # a pause may be over before
            elif (holder := self._doubtful(lease, job_id, runs, survey)) is not None:
                self._events.emit("settling_held", job=job_id, run=holder.run.id, holder=holder.run.instance_id)
                self._agenda.retry(job_id, HELD_SECONDS)
            else:
                settlements[job_id] = self._states.settlement(self._specs[job_id], runs, survey.now, most)
                row_count += len(settlements[job_id].decisions)
        return settlements

    def _doubtful(self, lease: Lease, job_id: str, runs: list[OpenRun], survey: Survey) -> OpenRun | None:
        if self._specs[job_id].overlap is not Overlap.SKIP:
            return None
        believed_after = max(lease.acquired_at, survey.now - self._unseen_after)
        return holder_in_doubt(runs, lease.leader_id, believed_after)

    def _record(self, settlement: Settlement, moment: datetime, now: datetime) -> None:
        job_id = settlement.state.job_id
        tell_settlement(self._events, settlement)
        if settlement.replaced:
            self.on_replaced()
        if not self._states.applied(self._specs[job_id], settlement, now):
            return
        if not settlement.enabled or settlement.until >= moment:
            self._agenda.done(job_id, moment)
        else:  # a timer that went off early: the database's clock is not there yet
            self._agenda.retry(job_id, (moment - now).total_seconds())

    def _read_again(self, changed: set[str]) -> None:
        still_there = self._states.read_again(changed)
        for job_id in changed:
            self._agenda.retry(job_id, CHANGED_SECONDS)
        if not still_there:
            self._term = 0  # somebody deleted rows: adopt the jobs anew

    # --- starting

    def _start(self, lease: Lease, *, anew: bool) -> None:
        if self._in_doubt():
            return
        polls = anew or not self._starter.has_candidates
        if polls:
            self._poll()
        self._starter.look_at_newest(self._specs, self._states.untried)
        settling = self._agenda.ready_among(self._states.untried)
        runs, more = self._starter.with_room(self._specs, self._states.untried, settling=settling)
        used_up = not polls and not self._starter.has_candidates  # what was read before; there may be others
        if more or used_up:
            self._rest.signal()
        if not runs or self._in_doubt():
            return
        started_count = self._starter.start(lease, runs, self._specs)
        if started_count is None:
            self._fenced("start", lease)
        elif started_count < len(runs) and not polls:  # others may start instead
            self._starter.forget()
            self._rest.signal()

    def _poll(self) -> None:
        """Read what waits, and which pauses are new or over."""
        began = self._clock.monotonic()
        poll = self._starter.poll(self._specs, self._states.untried)
        now = self._clock.monotonic()
        rest = POLL_REST * (now - began) if self._starter.has_candidates else 0.0
        self._poll_at = now + max(POLL_SECONDS, rest)
        self._agenda.add_all(self._states.pauses_over(poll))
        if not all(is_wanted(run, self._specs) for run in poll.runs):
            # They would come first in each poll, and nothing behind them would start: to adopt anew cancels them.
            self._adopter.is_behind = True

    def _in_doubt(self) -> bool:
        if self._current() is not None:
            return False
        self._rest.signal()  # to be looked at again when the doubt is over
        return True

    # --- what went wrong

    def _fenced(self, statement: str, lease: Lease) -> None:
        self._events.emit("statement_fenced", statement=statement, term=lease.term)
        self._leadership.deposed(lease.term)
