"""The state machine's model: what the statements that have committed add up to, compared with what is there.

Nothing here asks the code under test but to send statements; rows are read with the plain driver.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant
from psycopg.rows import namedtuple_row

from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.leases import LeaseStore, open_store
from scheduler_service.ledger import Finished, JobState, Ledger, open_ledger
from scheduler_service.ledger.requests import Requests
from scheduler_service.model import Attempt, Lease, Run
from tests.contract.parking import PATIENCE_SECONDS, End, Parked, Traffic

LIMITS = {"solo": 1, "pair": 2, "free": None}  # how many runs of a job may go on at once
LEASE_SECONDS = 3600.0
CLOSED = {"succeeded", "failed", "timed_out", "cancelled", "lost", "missed", "skipped"}

election_numbers = itertools.count(100)  # an election of its own for each example


@dataclass
class One:
    """A replica, and what it knows."""

    name: str
    store: LeaseStore
    ledger: Ledger
    lease: Lease | None = None
    states: dict[str, JobState] = field(default_factory=dict)
    waiting: tuple[Run, ...] = ()
    peers: dict[str, datetime | None] = field(default_factory=dict)
    claims: dict[str, tuple[Run, ...]] = field(default_factory=dict)
    hand: dict[int, Attempt] = field(default_factory=dict)  # attempts whose code goes on
    recorded: set[int] = field(default_factory=set)  # of them, those that were recorded as timed out
    ended: list[Finished] = field(default_factory=list)  # whose result may be sent again


@dataclass
class Row:
    """The lease's row."""

    leader: str
    term: int
    expired: bool = False
    session_gone: bool = False


@dataclass
class Waiting:
    """A statement that is parked."""

    parked: Parked
    end: End
    commit: Callable[[], None]
    term: int | None  # under which it writes


def has_leaders(machine: Modelled) -> bool:
    return any(one.lease is not None for one in machine.replicas)


class Collided(Exception):  # noqa: N818  # an outcome
    """A statement came across a parked one, and was refused by a unique key."""


class Modelled(RuleBasedStateMachine):
    """Three replicas, three jobs, and what must be so whatever is done to them."""

    def __init__(self, url: str, databases: Sequence[Database], traffic: Traffic) -> None:
        super().__init__()
        self.url, self.traffic = url, traffic
        self.lock_id = next(election_numbers)
        self.replicas = [
            One(f"replica-{number}-{self.lock_id}", self._store(database), open_ledger(database, self.lock_id))
            for number, database in enumerate(databases)
        ]
        self.database = databases[0]
        self.row: Row | None = None
        self.terms: list[tuple[int, str]] = []
        self.settled: dict[str, datetime] = {}
        self.pauses: dict[str, tuple[datetime | None, datetime | None]] = dict.fromkeys(LIMITS, (None, None))
        self.decided: dict[str, set[datetime]] = {job: set() for job in LIMITS}
        self.keys: dict[str, tuple[str, int]] = {}
        self.given_up: set[int] = set()  # attempts whose replica was taken for gone
        self.may_vanish = False
        self.rows: dict[int, Any] = {}
        self.attempts: dict[int, Any] = {}
        self.parked: list[Waiting] = []
        self.claim_numbers = itertools.count(1)

    def teardown(self) -> None:
        while self.parked:
            self._end(self.parked[0])
        for one in self.replicas:
            one.store.close()

    # --- the invariants

    @invariant()
    def every_invariant_holds(self) -> None:
        if not self.terms:
            return
        self._look()
        self._i1_i2_terms()
        self._i3_attempts()
        self._i5_ticks()
        self._i7_slots()

    def _i1_i2_terms(self) -> None:
        rows = self._rows(
            "select term, leader_id from scheduler.leader_term where lock_id = %s order by term", self.lock_id
        )
        assert [(row.term, row.leader_id) for row in rows] == self.terms
        assert [term for term, _ in self.terms] == sorted({term for term, _ in self.terms})
        lease = self._rows(
            "select term, leader_id, expires_at <= clock_timestamp() as expired "
            "from scheduler.leader_lease where id = %s",
            self.lock_id,
        )
        known = [] if self.row is None else [(self.row.term, self.row.leader, self.row.expired)]
        assert [(row.term, row.leader_id, row.expired) for row in lease] == known

    def _i3_attempts(self) -> None:
        by_run: dict[int, list[Any]] = {}
        for attempt in self.attempts.values():
            by_run.setdefault(attempt.run_id, []).append(attempt)
            assert (attempt.term, attempt.instance_id) in self.terms
        for run_id, row in self.rows.items():
            attempts = by_run.get(run_id, [])
            numbers = sorted(attempt.attempt for attempt in attempts)
            running = [attempt.attempt for attempt in attempts if attempt.state == "running"]
            assert numbers == list(range(1, row.attempt + 1)), f"{row} has the attempts {attempts}"
            assert running == ([row.attempt] if row.state == "running" else []), f"{row} has the attempts {attempts}"
            assert not (row.state == "waiting" and row.cancel_requested_at), f"{row} waits and shall never start"
        begun = [attempt for one in self.replicas for attempt in one.hand]
        assert len(begun) == len(set(begun)), "an attempt is in two hands"
        # Whoever runs an attempt that is open holds it alone.
        going = Counter(
            self.attempts[attempt].run_id
            for one in self.replicas
            for attempt in one.hand.keys() - self.given_up - one.recorded
            if attempt in self.attempts
        )
        assert all(count == 1 for count in going.values()), f"two attempts of one run go on: {going}"

    def _i5_ticks(self) -> None:
        states = self._rows("select job_id, settled_until from scheduler.job_state where lock_id = %s", self.lock_id)
        assert {row.job_id: row.settled_until for row in states} == self.settled
        found: dict[str, list[datetime]] = {job: [] for job in LIMITS}
        for row in self.rows.values():
            if row.kind != "manual":
                last = row.until or row.scheduled_at
                found[row.job_id] += [tick for tick in self.decided[row.job_id] if row.scheduled_at <= tick <= last]
                assert {row.scheduled_at, last} <= self.decided[row.job_id], f"{row} is no tick that was decided"
        for job, ticks in found.items():
            assert len(ticks) == len(set(ticks)), f"{job} has a tick in two rows"
            assert set(ticks) == self.decided[job], f"{job} has no row of {self.decided[job] - set(ticks)}"

    def _i7_slots(self) -> None:
        for job, limit in LIMITS.items():
            if limit is None:
                continue
            held = [row for row in self.rows.values() if row.job_id == job and row.slot_held]
            assert len(held) <= limit, f"{held} hold slots"
            going = [
                attempt.id
                for one in self.replicas
                for attempt in one.hand.values()
                if attempt.job_id == job and attempt.id not in self.given_up
            ]
            assert len(going) <= limit, f"the attempts {going} of {job} go on at once"

    # --- how statements are sent

    def _write(
        self,
        way: str,
        one: One,
        statement: Callable[[Any], Any],
        commit: Callable[[Any], None] = lambda _: None,
        check: Callable[[Any], None] = lambda _: None,
    ) -> None:
        """Send what only a leader may: fenced, under the lease that the replica has."""
        lease = one.lease
        assert lease is not None

        def fenced(answer: Any) -> None:
            assert (answer is not None) == self._leads(lease), f"{lease} got {answer}; {self.row}"
            check(answer)

        self._do(way, one.ledger, statement, fenced, commit, term=lease.term)

    def _ask(
        self,
        way: str,
        statement: Callable[[Requests], Any],
        commit: Callable[[Any], None] = lambda _: None,
        check: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._do(way, Requests(self.database, self.lock_id), statement, check, commit)

    def _do(
        self,
        way: str,
        usual: Any,
        statement: Callable[[Any], Any],
        check: Callable[[Any], None] = lambda _: None,
        commit: Callable[[Any], None] = lambda _: None,
        *,
        term: int | None = None,
        passes: frozenset[int] | set[int | None] = frozenset(),
    ) -> None:
        """Send a statement in one of the ways; `check` its answer, and `commit` it to the model when it commits."""
        if not way.startswith("parked"):
            with suppress(Collided):
                answer, _ = self._send(lambda: statement(usual), passes)
                check(answer)
                commit(answer)
            return
        parked = Parked(self.url)
        end = End(way.removeprefix("parked, "))
        try:
            answer, _ = self._send(lambda: statement(self._in(parked, usual)), passes)
        except Collided:
            parked.close()
            return
        check(answer)
        wrote = term is not None and answer is not None
        waiting = Waiting(parked, end, lambda: commit(answer), term if wrote else None)
        self.parked.append(waiting)
        self.traffic.park(parked, lambda: self._end(waiting))

    def _in(self, parked: Parked, usual: Any) -> Any:
        if isinstance(usual, Requests):
            return Requests(parked, self.lock_id)
        if hasattr(usual, "settle"):
            return open_ledger(parked, self.lock_id)
        return self._store(parked, guarded=False)

    def _send(self, statement: Callable[[], Any], passes: Any = frozenset()) -> tuple[Any, bool]:
        standing = {waiting.parked.pid for waiting in self.parked}
        try:
            answer, waited = self.traffic.send(statement)
        except StoreUnavailable:
            # The unique keys are the second line of defence, for statements that came across each other.
            if standing == {waiting.parked.pid for waiting in self.parked}:
                raise
            raise Collided from None
        ended = standing - {waiting.parked.pid for waiting in self.parked}
        assert not ended & passes, "it waited for what it should pass by"
        return answer, waited

    def _end(self, waiting: Waiting) -> None:
        """End a parked statement as was decided when it was parked."""
        self.parked.remove(waiting)
        self.traffic.ended(waiting.parked)
        if waiting.end is End.KILL:
            self.traffic.kill(waiting.parked.pid)
            waiting.parked.close()
            return
        waiting.parked.end(waiting.end)
        if waiting.end is End.COMMIT:
            # I4: no other term has begun meanwhile, though this one may have run out.
            assert waiting.term is None or (self.row is not None and self.row.term == waiting.term), (
                f"term {waiting.term} wrote in the time of {self.row}"
            )
            waiting.commit()

    # --- the model

    def _leads(self, lease: Lease) -> bool:
        row = self.row
        return row is not None and (row.term, row.leader) == (lease.term, lease.leader_id) and not row.expired

    def _leader(self, number: int) -> One:
        """Return one of those who believe that they lead: more often than not the one who does."""
        believers = [one for one in self.replicas if one.lease is not None]
        leaders = [one for one in believers if self._leads(one.lease)]
        return (leaders * 5 + believers)[number % (len(leaders) * 5 + len(believers))]

    def _acquired(self, one: One, acquired: Any, *, known: bool = True) -> None:
        assert acquired is not None
        assert all(term < acquired.term for term, _ in self.terms), "I2: terms only grow"
        self.terms.append((acquired.term, one.name))
        self.row = Row(one.name, acquired.term)
        if known:
            one.lease = Lease(self.lock_id, one.name, acquired.term, acquired.acquired_at, float("inf"))

    def _take(self, one: One, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            assert attempt.id not in one.hand, "an attempt is handed over twice"
            one.hand[attempt.id] = attempt

    def _read_states(self, one: One) -> None:
        one.states = {state.job_id: state for state in one.ledger.job_states(list(LIMITS))}

    def _store(self, database: Database, *, guarded: bool = True) -> LeaseStore:
        return open_store(
            database,
            lock_id=self.lock_id,
            lease_seconds=LEASE_SECONDS,
            attempt_seconds=PATIENCE_SECONDS,
            guarded=guarded,
        )

    # --- what is there

    def _look(self) -> None:
        """Read the ledger anew, and compare it with what it was: what is closed stays closed."""
        rows = {row.id: row for row in self._rows("select * from scheduler.run where lock_id = %s", self.lock_id)}
        attempts = {
            row.id: row
            for row in self._rows(
                "select a.* from scheduler.run_attempt a join scheduler.run r on r.id = a.run_id where r.lock_id = %s",
                self.lock_id,
            )
        }
        for run_id, former in self.rows.items():
            if run_id in rows:
                continue
            assert self.may_vanish, f"{former} vanished"
            assert former.state in CLOSED, f"{former} was pruned"
            if former.kind != "manual":
                last = former.until or former.scheduled_at
                self.decided[former.job_id] -= {
                    tick for tick in self.decided[former.job_id] if former.scheduled_at <= tick <= last
                }
        for attempt_id, former in self.attempts.items():
            now = attempts.get(attempt_id)
            if now is not None and former.state in CLOSED - {"lost"}:
                assert now.state == former.state, f"{former} became {now}"
        self.rows, self.attempts, self.may_vanish = rows, attempts, False

    def _run(self, run_id: int) -> Any:
        found = self._rows("select * from scheduler.run where id = %s", run_id)
        return found[0] if found else None

    def _run_ids(self) -> set[int]:
        return {row.id for row in self._rows("select id from scheduler.run where lock_id = %s", self.lock_id)}

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self.traffic.director.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(statement, values).fetchall()

    def _sql(self, statement: str, *values: Any) -> int:
        return self.traffic.administrator.execute(statement, values).rowcount
