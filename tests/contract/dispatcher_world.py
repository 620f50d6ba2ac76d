"""One replica's dispatcher and housekeeping on a real ledger, with a pool that ends runs when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from scheduler_service import schedule as schedules
from scheduler_service.clock import BootClock
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.dispatcher import Dispatcher
from scheduler_service.events import Event, Events
from scheduler_service.housekeeping import Housekeeping
from scheduler_service.ledger import Finished, Replica, open_ledger
from scheduler_service.model import Attempt, Isolation, JobSpec, Lease, Outcome, State
from scheduler_service.rush import Rush
from scheduler_service.tables import database_time, job_state, leader_lease, leader_term, run

LOCK, ME, OTHER = 7, "me-1", "other-2"
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


class Leadership:
    """Trusts what the test says."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.fenced: list[int] = []

    def current(self) -> Lease | None:
        return self.lease

    def deposed(self, term: int) -> None:
        self.fenced.append(term)
        self.lease = None


class Pool:
    """Takes attempts and ends them when the test says so."""

    def __init__(self, size: int = 20) -> None:
        self.size = size
        self.processes = 4
        self.specs: dict[int, JobSpec] = {}
        self.taken: dict[int, Attempt] = {}
        self.stopped: list[tuple[int, str]] = []
        self.given_up: list[Attempt] = []  # whose functions have not returned
        self.late: list[int] = []  # of what was taken, by attempt: to be given back

    @property
    def free_count(self) -> int:
        return self.size - len(self.taken)

    @property
    def room(self) -> int:
        return self.free_count

    @property
    def waiting_count(self) -> int:
        return len(self.late)

    def weight(self, _: JobSpec) -> int:
        return 1

    def give_back(self) -> list[Attempt]:
        late, self.late = self.late, []
        return [self.taken.pop(attempt_id) for attempt_id in late]

    @property
    def free_process_count(self) -> int:
        return self.processes - sum(self.specs[one].isolation is Isolation.PROCESS for one in self.taken)

    def submit(self, attempt: Attempt, spec: JobSpec, weight: int = 1) -> None:
        assert attempt.id not in self.taken, "an attempt is never begun twice"
        assert self.free_count > 0
        self.taken[attempt.id] = attempt
        self.specs[attempt.id] = spec

    def registry(self) -> dict[int, Attempt]:
        return dict(self.taken)

    def stuck(self) -> list[Attempt]:
        return self.given_up

    def stop_run(self, attempt_id: int, reason: str) -> None:
        self.stopped.append((attempt_id, reason))


class ManualClock(BootClock):
    """The boot clock, and what the test adds to it."""

    def __init__(self) -> None:
        super().__init__()
        self.added = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.added


class Cut:
    """A ledger whose next call of one verb is lost on the way: there, or back."""

    def __init__(self, ledger: Any) -> None:
        self.ledger = ledger
        self.cuts: dict[str, str] = {}
        self.before: dict[str, Callable[[], None]] = {}

    def __getattr__(self, verb: str) -> Any:
        def call(*arguments: Any) -> Any:
            if action := self.before.pop(verb, None):
                action()
            cut = self.cuts.pop(verb, None)
            if cut == "request":
                raise StoreUnavailable("the request was lost")
            answer = getattr(self.ledger, verb)(*arguments)
            if cut == "reply":
                raise StoreUnavailable("the reply was lost")
            return answer

        return call


class World:
    """One replica's dispatcher and housekeeping on a real ledger."""

    def __init__(self, database: Database, me: str = ME) -> None:
        self.database, self.me = database, me
        self.cut = Cut(open_ledger(database, LOCK))
        self.leadership, self.pool, self.clock, self.events = Leadership(), Pool(), ManualClock(), Events()
        self.rush = Rush()
        self.told: list[Event] = []
        self.events.subscribe(self.told.append)
        self.configure()

    def configure(self, *specs: JobSpec) -> None:
        self.dispatcher = Dispatcher(
            ledger=self.cut,  # type: ignore[arg-type]
            leadership=self.leadership,
            workers=self.pool,
            events=self.events,
            clock=self.clock,
            specs=specs,
            sign_in_seconds=3.0,
            rush=self.rush,
        )
        self.housekeeping = Housekeeping(
            ledger=self.cut,  # type: ignore[arg-type]
            replica=Replica(self.me, "host", 1, "1", "hash"),
            current=self.leadership.current,
            deposed=self.leadership.deposed,
            workers=self.pool,
            open_claims=self.dispatcher.open_claims,
            starts_limits=self.dispatcher.starts_limits,
            wake_dispatcher=self.dispatcher.wake,
            events=self.events,
            clock=self.clock,
            sign_in_seconds=3.0,
            lost_after_seconds=15.0,
            keep_for=timedelta(days=30),
            keep_runs=1000,
            job_ids=[spec.id for spec in specs],
        )

    def execute(self, statement: Any) -> Any:
        with self.database.connect() as connection:
            result = connection.execute(statement)
            return result.fetchall() if result.returns_rows else None

    def now(self) -> datetime:
        return self.execute(select(database_time()))[0][0]

    def elect(self, term: int = 1) -> Lease:
        now = self.now()
        self.execute(delete(leader_lease))
        self.execute(
            insert(leader_lease).values(
                id=LOCK, leader_id=self.me, term=term, created_at=now, expires_at=now + HOUR, lease_seconds=3600
            )
        )
        self.execute(insert(leader_term).values(lock_id=LOCK, term=term, leader_id=self.me, acquired_at=now))
        lease = Lease(LOCK, self.me, term, now, float("inf"))
        self.leadership.lease = lease
        self.dispatcher.lead(lease)
        return lease

    def adopt(self, *specs: JobSpec, back: timedelta) -> None:
        """Let jobs be known, and settled last `back` ago."""
        self.configure(*specs)
        self.elect(1)
        for _ in range(2):  # what is as it was, and then the rest
            self.dispatcher.step()
        since = self.now() - back
        self.execute(update(job_state).values(settled_until=since, accountable_from=since))
        self.configure(*specs)
        self.elect(2)

    def step_all(self) -> None:
        """Step until nothing is left to be done now."""
        for _ in range(50):
            seconds = self.dispatcher.step()
            if seconds > 0.1 and not self.dispatcher._ready() and not self.dispatcher._rest._signalled:
                return
            self.clock.added += seconds
        raise AssertionError("the dispatcher does not come to rest")

    def keep_house(self, *waits: float) -> None:
        """Step the housekeeping after each of these waits."""
        for seconds in waits:
            self.clock.added += seconds
            self.housekeeping.step()

    def leave_waiting(self, job_id: str, ago: timedelta = 3 * HOUR, kind: str = "scheduled") -> None:
        """Let a run wait that never began."""
        since = self.now() - ago
        self.execute(
            insert(run).values(
                lock_id=LOCK,
                job_id=job_id,
                scheduled_at=since,
                due_at=since,
                kind=kind,
                state="waiting",
                reason="requested" if kind == "manual" else "queued",
                decided_at=since,
                decided_by="former",
            )
        )

    def names(self) -> list[str]:
        return [event.name for event in self.told]

    def runs(self) -> list[tuple[str, str | None]]:
        rows = self.execute(select(run.c.state, run.c.reason).order_by(run.c.scheduled_at))
        return [(row.state, row.reason) for row in rows]

    def finish(self, state: State = State.SUCCEEDED) -> None:
        done = [Finished(attempt, Outcome(state, 0.1)) for attempt in self.pool.taken.values()]
        self.cut.ledger.finish(done)
        self.pool.taken.clear()
        self.dispatcher.wake()


def job(job_id: str = "a", every: timedelta = HOUR, **changes: Any) -> JobSpec:
    known = {"id": job_id, "run": "jobs:main", "schedule": schedules.every(every), **changes}
    return JobSpec(**known)


def a_successor(database: Database, *specs: JobSpec) -> World:
    """Let another replica lead the third term, with these jobs."""
    successor = World(database, OTHER)
    successor.configure(*specs)
    successor.elect(3)
    return successor
