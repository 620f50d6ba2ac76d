"""A world of electors, one database and bad luck.

A question to the database takes time: meanwhile others act, hang and are cut off, and the statement may be
executed long after whoever asked has given up.  Chance comes from the seed alone.  Invariants are looked at
after every event at which one of them could break:

    I1  while terms change hands by expiry alone, no two replicas trust a lease at once
    I2  terms only grow, and each is given to one replica
    I6  whoever trusts a lease has its row, unexpired; after an error nobody trusts anything
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from scheduler_service.database import StoreUnavailable
from scheduler_service.elector import Elected, Lost, Observed, Timing
from scheduler_service.elector.machine import Machine
from scheduler_service.events import Events
from scheduler_service.leases import Acquired, Observation, Renewal
from tests.simulation.memory_store import MemoryElection, Session
from tests.simulation.timeline import Timeline

T = TypeVar("T")

SLOWEST_CLOCK, FASTEST_CLOCK = 0.98, 1.02  # a margin of a tenth of the lease is meant for more


class InvariantError(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Luck:
    """How bad a time the world has: chances of each question, and of each round of each replica."""

    request_lost: float = 0.0
    reply_lost: float = 0.0
    reply_slow: float = 0.0
    executed_late: float = 0.0
    hang: float = 0.0  # the elector's thread, for up to three leases
    partition: float = 0.0  # one replica, for up to two leases
    outage: float = 0.0  # the database, for up to two leases
    restart: float = 0.0  # the database, for a moment
    release: float = 0.0
    kill: float = 0.0  # the process; another one starts after a while
    row_deleted: float = 0.0
    clock_set_back: float = 0.0  # the database's


CALM = Luck()
BAD = Luck(
    request_lost=0.01,
    reply_lost=0.01,
    reply_slow=0.02,
    executed_late=0.01,
    hang=0.01,
    partition=0.003,
    outage=0.001,
    restart=0.002,
    release=0.003,
    kill=0.003,
)


class Drifting:
    """A replica's clock."""

    def __init__(self, timeline: Timeline, rng: random.Random) -> None:
        self._timeline = timeline
        self._offset = rng.uniform(0, 1e6)
        self.rate = rng.uniform(SLOWEST_CLOCK, FASTEST_CLOCK)

    def monotonic(self) -> float:
        return self._offset + self._timeline.now * self.rate


class Replica:
    """A process with an elector: its store, its clock, and when it steps next."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.clock = Drifting(world.timeline, world.rng)
        self.store = Distant(world, self)
        self.alive = True
        self.cut_off_until = 0.0
        self.stepping = False
        self.woken = False
        self.plan = 0  # the number of the step that is planned; others are stale
        self.terms: list[tuple[str, int]] = []
        self.machine = Machine(
            self.store,
            lock_id=1,
            instance_id=name,
            timing=world.timing,
            clock=self.clock,
            rng=random.Random(world.rng.random()),
            events=world.events,
            announce=self._announced,
            watch=self._watch,
        )
        self.watched: int | None = None

    def plan_step(self, when: float) -> None:
        self.plan += 1
        plan = self.plan
        self.world.timeline.at(when, lambda: self._step(plan), blocking=True)

    def wake(self) -> None:
        if self.stepping:
            self.woken = True
        else:
            self.plan_step(self.world.timeline.now)

    def _step(self, plan: int) -> None:
        if plan != self.plan or not self.alive:
            return
        self.stepping, self.woken = True, False
        pause = self.machine.step()
        self.stepping = False
        if not self.alive:
            return
        self.world.step_count += 1
        self.world.look()
        self.world.round_of(self)
        wait = 0.0 if self.woken else pause / self.clock.rate
        self.plan_step(self.world.timeline.now + wait + self.world.hang())

    def _announced(self, message: Elected | Lost | Observed) -> None:
        match message:
            case Elected(lease):
                if self.terms and (self.terms[-1][0] != "lost" or self.terms[-1][1] >= lease.term):
                    raise InvariantError(f"{lease.leader_id} is told of term {lease.term} after {self.terms[-1]}")
                self.terms.append(("elected", lease.term))
            case Lost(lease, _):
                if self.terms[-1] != ("elected", lease.term):
                    raise InvariantError(
                        f"{lease.leader_id} is told that term {lease.term} ended after {self.terms[-1]}"
                    )
                self.terms.append(("lost", lease.term))

    def _watch(self, term: int | None) -> None:
        self.watched = term
        self.world.look_for_ended_session()


class Distant:
    """The lease store of one replica: the database is some way off."""

    unguarded_reason: str | None = None

    def __init__(self, world: World, replica: Replica) -> None:
        self._world = world
        self._replica = replica
        self._session: Session | None = None
        self.failed = False  # the last question was not answered

    def observe(self) -> Observation | None:
        return self._ask(lambda _: self._world.election.observe())

    def acquire(self, leader_id: str) -> Acquired | None:
        return self._ask(lambda session: self._world.acquire(leader_id, session))

    def renew(self, term: int, leader_id: str) -> Renewal | None:
        return self._ask(lambda session: self._world.election.renew(term, leader_id, self._world.arm(session)))

    def release(self, term: int, leader_id: str, reason: str) -> bool:
        return self._ask(lambda _: self._world.election.release(term, leader_id, reason))

    def cleanup(self) -> int:
        return self._ask(lambda _: self._world.election.cleanup())

    def close(self) -> None:
        if self._session is not None:
            self._session.ended = True
            self._session = None
            self._world.look_for_ended_session()

    def fileno(self) -> int | None:
        return None

    def _ask(self, verb: Callable[[Session], T]) -> T:
        world, timeline, rng, luck = self._world, self._world.timeline, self._world.rng, self._world.luck
        sent = timeline.now
        limit = sent + world.timing.attempt_seconds / self._replica.clock.rate
        if self._session is None or self._session.ended:
            self._session = Session(world.election.boot)
        session = self._session
        answer: list[T] = []

        def execute() -> None:
            if world.up and session.boot == world.election.boot:
                answer.append(verb(session))
                world.look()
                world.look_for_ended_session()

        cut_off = sent < self._replica.cut_off_until
        executed = sent + rng.uniform(0.0005, 0.005)
        if rng.random() < luck.executed_late:
            executed = sent + rng.uniform(0, 3 * world.timing.lease_seconds)
        if not cut_off and rng.random() >= luck.request_lost:
            timeline.at(executed, execute)
        replied = executed + rng.uniform(0.0005, 0.005)
        if rng.random() < luck.reply_slow:
            replied = executed + rng.uniform(0, world.timing.attempt_seconds)
        if rng.random() < luck.reply_lost:
            replied = limit
        timeline.sleep(min(replied, limit) + world.hang())
        if not self._replica.alive:
            raise StoreUnavailable("nobody waits for this answer any more")
        if not answer or replied >= limit or replied < self._replica.cut_off_until:
            self.failed = True
            self.close()
            raise StoreUnavailable("no answer")
        self.failed = False
        return answer[0]


class World:
    """Everything; `live` it, and it raises InvariantError when an invariant does not hold.

    `guarded`: leaders hold a lock that shows the end of their session (I1 is weaker then, and not looked at).
    """

    def __init__(
        self,
        seed: int,
        *,
        timing: Timing | None = None,
        luck: Luck = BAD,
        replica_count: int = 3,
        guarded: bool = False,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.timing = timing or Timing()
        self.luck = luck
        self.guarded = guarded
        self.timeline = Timeline()
        self.clock_step = 0.0
        self.election = MemoryElection(lambda: self.timeline.now + self.clock_step, self.timing.lease_seconds)
        self.events = Events()
        self.up = True
        self.step_count = 0
        self.term_count = 0
        self.last_term = 0
        self._named = 0
        self.replicas: list[Replica] = []
        for _ in range(replica_count):
            self._start_replica()

    def live(self, hours: float) -> None:
        """Let `hours` pass under `luck`, then an hour's calm, after which somebody must lead."""
        calm = self.timeline.now + hours * 3600
        self.timeline.at(calm, self._clear_up)
        try:
            self.timeline.run(calm + 20 * self.timing.lease_seconds)
            leaders = [replica for replica in self.replicas if replica.machine.is_leader()]
            if len(leaders) != 1:
                raise InvariantError(f"{len(leaders)} lead after all is well again")
        except AssertionError as error:
            raise InvariantError(f"seed {self.seed}, at {self.timeline.now:.3f} s: {error}") from error

    def acquire(self, leader_id: str, session: Session) -> Acquired | None:
        acquired = self.election.acquire(leader_id, self.arm(session))
        if acquired is not None:
            if acquired.term <= self.last_term:
                raise InvariantError(f"I2: term {acquired.term} is given to {leader_id} after {self.last_term}")
            self.last_term = acquired.term
            self.term_count += 1
        return acquired

    def arm(self, session: Session) -> Session | None:
        return session if self.guarded else None

    def look(self) -> None:
        """Look whether I1 and I6 hold right now."""
        for replica in self.replicas:
            if replica.store.failed and replica.machine.current() is not None:
                raise InvariantError(f"I6: {replica.machine.current()} is trusted after an error")
        if self.guarded or self.luck.row_deleted or self.luck.clock_set_back:
            return
        believed = [(replica, lease) for replica in self.replicas if (lease := replica.machine.current())]
        if len(believed) > 1:
            raise InvariantError(f"I1: {[lease for _, lease in believed]} are trusted at once")
        row = self.election.row
        for _, lease in believed:
            # An acquire of ours that was executed late may have begun another term of ours.
            if row is None or row.leader_id != lease.leader_id or row.term < lease.term:
                raise InvariantError(f"I6: {lease} is trusted, and the row is {row}")
            if row.expires_at <= self.election.now():
                raise InvariantError(f"I6: {lease} is trusted, and {row} has expired")

    def look_for_ended_session(self) -> None:
        row = self.election.row
        if row is None or row.guard is None or not row.guard.ended or row.guard.boot != self.election.boot:
            return
        for replica in self.replicas:
            if replica.alive and replica.watched == row.term:
                replica.watched = None
                replica.machine.session_gone(row.term)
                replica.wake()

    def hang(self) -> float:
        if self.rng.random() < self.luck.hang:
            return self.rng.uniform(0, 3 * self.timing.lease_seconds)
        return 0.0

    def round_of(self, replica: Replica) -> None:
        """Let chance strike, once for each round of each replica."""
        rng, luck, now, lease = self.rng, self.luck, self.timeline.now, self.timing.lease_seconds
        if rng.random() < luck.partition:
            replica.cut_off_until = now + rng.uniform(0, 2 * lease)
        if rng.random() < luck.outage:
            self._stop_database(rng.uniform(0, 2 * lease))
        if rng.random() < luck.restart:
            self._stop_database(rng.uniform(0.1, 0.2 * lease))
        if rng.random() < luck.release:
            replica.machine.release()
            replica.wake()
        if rng.random() < luck.kill:
            self._kill(replica)
        if rng.random() < luck.row_deleted:
            self.election.row = None
        if rng.random() < luck.clock_set_back:
            self.clock_step -= rng.uniform(0, 3600)

    def _stop_database(self, seconds: float) -> None:
        self.up = False
        self.election.boot += 1
        self.timeline.at(self.timeline.now + seconds, self._start_database)
        for replica in self.replicas:
            if replica.machine.current() is not None:
                replica.wake()  # its socket tells

    def _start_database(self) -> None:
        self.up = True

    def _start_replica(self) -> None:
        self._named += 1
        replica = Replica(self, f"replica-{self._named}")
        self.replicas.append(replica)
        replica.plan_step(self.timeline.now + self.rng.uniform(0, 1))

    def _kill(self, replica: Replica) -> None:
        replica.alive = False
        self.replicas.remove(replica)
        replica.store.close()
        self.timeline.at(self.timeline.now + self.rng.uniform(0, 2 * self.timing.lease_seconds), self._start_replica)

    def _clear_up(self) -> None:
        self.luck = CALM
        for replica in self.replicas:
            replica.cut_off_until = 0.0
