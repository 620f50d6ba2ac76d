"""The course of a simulation: from one moment at which something happens to the next.

At one moment, in this order: runs end, what the test ordered happens, a leader is elected if there is none,
ticks come due, and everything is done that follows from these.

The parts that decide are the service's own: configuration, schedules, policy, dispatcher, housekeeping, and the
ledger and the lease in SQLite.  What is simulated is what they stand on: time, the workers, and who leads.  Nothing
is done in between: a leader's polls, its signs of life and its renewals, which would find nothing.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler_service.config import Config
from scheduler_service.events import Events
from scheduler_service.housekeeping import WATCH_SECONDS
from scheduler_service.leases.sqlite import SqliteLeaseStore
from scheduler_service.ledger.history import History
from scheduler_service.ledger.requests import Requests
from scheduler_service.model import Attempt, JobSpec, Lease, Outcome
from scheduler_service.testing.behaviour import Behaviour
from scheduler_service.testing.calling import Caller
from scheduler_service.testing.moments import MILLISECOND, SimulatedClock, iso, up_to_millisecond
from scheduler_service.testing.replica import SimulatedReplica
from scheduler_service.testing.store import ObservedLedger, SimulatedDatabase
from scheduler_service.testing.workers import Given, SimulatedWorkers
from scheduler_service.timetable import Trigger

LEASE_SECONDS = 1e9  # nobody renews it: it ends when the simulation says so
MOST_ROUNDS = 10_000  # at one moment
ZERO = timedelta(0)


class OrderError(ValueError):
    """What the test ordered cannot happen at that moment."""


@dataclass(frozen=True, slots=True)
class Order:
    """Something that the test lets happen."""

    at: datetime
    text: str  # what it is, for messages
    happen: Callable[[Course], None]
    may_be_late: bool = False  # it may lie beyond the end of the simulation


class Course:
    """One simulation, from `start` on; it begins with a leader that has settled everything up to then."""

    def __init__(
        self, config: Config, behaviour: Behaviour, start: datetime, make_caller: Callable[..., Caller] | None
    ) -> None:
        self.config = config
        self.clock = SimulatedClock(start)
        self.events = Events()
        self.database = SimulatedDatabase(self.clock)
        lock_id = config.election.lock_id
        self.ledger = ObservedLedger(self.database, lock_id)
        self.history = History(self.database, lock_id)
        self.requests = Requests(self.database, lock_id)
        self.given: dict[int, Given] = {}
        self._leases = SqliteLeaseStore(
            self.database, lock_id, LEASE_SECONDS, config.election.attempt_timeout.total_seconds()
        )
        self._behaviour = behaviour
        self._caller = make_caller(clock=self.clock, events=self.events) if make_caller is not None else None
        self._agenda: list[datetime] = []
        self._later: list[tuple[datetime, int, Callable[[], None]]] = []
        self._turns = itertools.count()
        self._replica_numbers = itertools.count(1)
        self._replicas: list[SimulatedReplica] = []  # those alive
        self._leader: SimulatedReplica | None = None
        self._lease: Lease | None = None  # the row, which outlives a leader that died
        self._vacant_count = 0  # stretches, now, in which nobody may lead
        self._away_count = 0  # outages, now
        self._outage = 0  # the number of the newest
        self._elect_from = start
        self._silent: set[str] = set()  # replicas that died with something open
        self._timers: dict[str, datetime] = {}

    def run(self, orders: Sequence[Order], end: datetime) -> None:
        """Let everything happen up to and including `end`."""
        waiting = sorted(orders, key=lambda order: order.at)  # stable: at one moment in the order of the test
        with self._caller.ready() if self._caller is not None else contextlib.nullcontext():
            self._follow()
            while (moment := self._next(waiting)) is not None and moment <= end:
                self.clock.move_to(moment)
                while waiting and waiting[0].at <= moment:
                    self._obey(waiting.pop(0))
                while self._later and self._later[0][0] <= moment:
                    heapq.heappop(self._later)[2]()
                self._follow()
        self.clock.move_to(end)
        self.database.away = False  # for the test, which asks now what came of it

    def close(self) -> None:
        """Give the memory back."""
        self.database.dispose()
        self._leases.close()  # after it: on the one connection it would end what the database has lent

    # --- what the test orders

    def crash(self, takeover_after: timedelta) -> None:
        """Let the leader's process die, with all that runs in it; another one leads after so long."""
        leader = self._require_leader()
        if leader.workers.busy:
            self._silent.add(leader.id)
        self._replicas.remove(leader)
        self._leader = None
        self._start()  # it stands by, and watches from now on how long the dead one is silent
        self._not_before(self.clock.now() + takeover_after)

    def hand_over(self) -> None:
        """Let the leader's process be stopped: another one leads at once, and what runs goes on to its end."""
        self._drain(self._require_leader())

    def vacate(self) -> None:
        """Let every process be stopped: what runs goes on to its end."""
        self._vacant_count += 1
        for replica in tuple(self._replicas):
            self._drain(replica)

    def fill(self) -> None:
        """Let processes be started again."""
        self._vacant_count -= 1

    def go_away(self) -> None:
        """Let the database not answer any more."""
        self._away_count += 1
        self.database.away = True
        if self._away_count == 1:
            self._outage += 1
            outage, election = self._outage, self.config.election
            lapse = self.clock.now() + election.lease_duration - election.safety_margin
            self._at(lapse, lambda: self._lapse(outage))
        for replica in self._replicas:
            replica.housekeeping.step()  # what it has seen of others does not count any more

    def come_back(self) -> None:
        """Let the database answer again."""
        self._away_count -= 1
        self.database.away = self._away_count > 0

    def reload(self, config: Config) -> None:
        """Let every replica take up another configuration."""
        self.config = config
        for replica in self._replicas:
            if not replica.draining:
                replica.configure(config.jobs)
        self._arm()

    def look_at(self, moment: datetime) -> None:
        """See to it that the leader looks at the ledger at `moment`."""
        heapq.heappush(self._agenda, up_to_millisecond(moment))

    def look_for_cancels(self) -> None:
        """See to it that runs which somebody cancelled are asked to stop."""
        for replica in self._replicas:
            replica.cancel_requested = True

    def require_database(self) -> None:
        """OrderError while the database is away."""
        if self.database.away:
            raise OrderError("the database is away then, so nobody can ask for anything")

    # --- moments

    def _next(self, orders: Sequence[Order]) -> datetime | None:
        moments = [order.at for order in orders[:1]]
        moments += [moment for moment, _, _ in self._later[:1]]
        while self._agenda and self._agenda[0] < self.clock.now():
            heapq.heappop(self._agenda)
        moments += self._agenda[:1]
        if self._leader is not None and not self.database.away and self._timers:
            moments.append(min(self._timers.values()))
        return max(self.clock.now(), min(moments)) if moments else None

    def _obey(self, order: Order) -> None:
        self._end_runs()
        try:
            order.happen(self)
        except OrderError as error:
            raise OrderError(f"{order.text} at {iso(order.at)}: {error}") from None

    def _at(self, moment: datetime, happen: Callable[[], None]) -> None:
        heapq.heappush(self._later, (up_to_millisecond(moment), next(self._turns), happen))

    def _follow(self) -> None:
        """Do all that follows at this moment."""
        now = self.clock.now()
        for _ in range(MOST_ROUNDS):
            self._end_runs()
            self._elect()
            self._fire()
            self._keep_house()
            self._dispatch()
            if not self._end_runs() and not any(replica.cancel_requested for replica in self._replicas):
                break
        else:
            raise AssertionError(f"the simulation does not come to rest at {iso(now)}: this is a mistake of its own")
        self._let_go()
        while self._agenda and self._agenda[0] <= now:
            heapq.heappop(self._agenda)

    def _end_runs(self) -> bool:
        """Write the results of what is over by now; return whether there were any."""
        if self.database.away:
            return False  # they wait in their workers
        some = False
        for replica in self._replicas:
            finished = replica.workers.ended()
            if not finished:
                continue
            some = True
            self.ledger.finish(finished)
            replica.workers.written(one.attempt for one in finished)
            for one in finished:
                if one.outcome.retry_seconds is not None:
                    over = one.attempt.started_at + timedelta(seconds=one.outcome.seconds)
                    self.look_at(over + timedelta(seconds=one.outcome.retry_seconds))
        return some

    # --- who leads

    def _elect(self) -> None:
        if self._leader is not None or self._vacant_count or self.database.away or self.clock.now() < self._elect_from:
            return
        if self._lease is not None:  # of a leader that died, or could not give it back
            self._leases.release(self._lease.term, self._lease.leader_id, "expired")
        leader = next((replica for replica in self._replicas if not replica.draining), None) or self._start()
        acquired = self._leases.acquire(leader.id)
        if acquired is None:
            raise AssertionError("the lease is taken: this is a mistake of the simulation")
        lease = Lease(self.config.election.lock_id, leader.id, acquired.term, acquired.acquired_at, float("inf"))
        self._leader, self._lease = leader, lease
        leader.lead(lease)
        self._arm()

    def _start(self) -> SimulatedReplica:
        workers = SimulatedWorkers(
            threads=self.config.workers.threads,
            processes=self.config.workers.processes,
            behaviour=self._behaviour,
            clock=self.clock,
            call=self._call if self._caller is not None else None,
            look_at=self.look_at,
            given=self.given,
        )
        replica = SimulatedReplica(
            next(self._replica_numbers),
            config=self.config,
            ledger=self.ledger,
            workers=workers,
            clock=self.clock,
            events=self.events,
            reachable=lambda: not self.database.away,
        )
        self._replicas.append(replica)
        replica.housekeeping.step()
        return replica

    def _drain(self, replica: SimulatedReplica) -> None:
        replica.retire()
        replica.draining = True
        if replica is self._leader:
            self._leader = None
            if not self.database.away and self._lease is not None:
                self._leases.release(self._lease.term, self._lease.leader_id, "released")
                self._lease = None

    def _lapse(self, outage: int) -> None:
        """The leader trusts its lease no more, if the outage in which it could not renew it still goes on."""
        if self.database.away and self._outage == outage and self._leader is not None:
            self._leader.lose_leadership()
            self._leader = None
            self._not_before(self.clock.now() + self.config.election.safety_margin)

    def _not_before(self, moment: datetime) -> None:
        self._elect_from = max(self._elect_from, moment)
        self.look_at(moment)

    def _require_leader(self) -> SimulatedReplica:
        if self._leader is None:
            raise OrderError("nobody leads then, so no leader can go")
        return self._leader

    # --- what the parts do

    def _arm(self) -> None:
        self._timers = {}
        for spec in self.config.jobs:
            self._arm_one(spec)

    def _arm_one(self, spec: JobSpec) -> None:
        due = Trigger(spec, ZERO).get_next_fire_time(None, self.clock.now()) if spec.enabled else None
        if due is None:
            self._timers.pop(spec.id, None)
        else:
            self._timers[spec.id] = due

    def _fire(self) -> None:
        if self._leader is None or self.database.away:
            return
        now = self.clock.now()
        for spec in self.config.jobs:
            due = self._timers.get(spec.id)
            if due is not None and due <= now:
                self._leader.dispatcher.due(spec.id, due)
                self._arm_one(spec)

    def _keep_house(self) -> None:
        if self.database.away:
            return
        self._silent -= self.ledger.closed
        others = [one for one in self._replicas if one is not self._leader and one.workers.busy]
        watching = bool(self._silent or others)
        # The leader last: those that are alive have just said so.
        for replica in (*others, *([self._leader] if self._leader is not None else [])):
            if replica.cancel_requested or watching:
                replica.cancel_requested = False
                replica.housekeeping.step()
        for replica in self._replicas:
            replica.cancel_requested = False  # those that run nothing
        if self._silent - self.ledger.closed and self._leader is not None:
            self.look_at(self.clock.now() + timedelta(seconds=WATCH_SECONDS))

    def _dispatch(self) -> None:
        if self._leader is None or self.database.away:
            return
        seconds = self._leader.dispatch()
        if seconds is not None:
            self.look_at(self.clock.now() + max(MILLISECOND, timedelta(seconds=seconds)))

    def _let_go(self) -> None:
        """Let replicas that were stopped, and run nothing any more, leave."""
        if self.database.away:
            return
        for replica in tuple(self._replicas):
            if replica.draining and not replica.workers.registry():
                replica.sign_out()
                self._replicas.remove(replica)

    def _call(self, attempt: Attempt, spec: JobSpec) -> Outcome:
        if self._caller is None:
            raise AssertionError("functions are not called in this simulation")
        return self._caller.call(attempt, spec, self.config.service.jobs_folder)
