"""One simulated replica: the service's own dispatcher and housekeeping, with workers on a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

from scheduler_service import __version__
from scheduler_service.config import Config
from scheduler_service.dispatcher import Dispatcher
from scheduler_service.events import Events
from scheduler_service.forfeits import Forfeits
from scheduler_service.housekeeping import Housekeeping
from scheduler_service.ledger import Ledger, Replica
from scheduler_service.model import JobSpec, Lease
from scheduler_service.testing.moments import SimulatedClock, WakingClock
from scheduler_service.testing.workers import SimulatedWorkers

FOR_EVER = timedelta(days=36_500)
HASH = "simulated"  # of every configuration: replicas do not differ
MOST_ROWS = 10**9
MOST_STEPS = 10_000  # of a dispatcher at one moment; each settles up to a thousand ticks


class SimulatedReplica:
    """A replica that is stepped.

    `reachable` tells whether the database answers; while it does not, the lease is suspect.
    """

    def __init__(
        self,
        number: int,
        *,
        config: Config,
        ledger: Ledger,
        workers: SimulatedWorkers,
        clock: SimulatedClock,
        events: Events,
        reachable: Callable[[], bool],
    ) -> None:
        self.id = f"replica-{number}"
        self.workers = workers
        self.lease: Lease | None = None
        self.draining = False
        self.cancel_requested = False  # a run of ours was asked to make room
        self._ledger = ledger
        self._reachable = reachable
        events = events.bind(instance=self.id)
        sign_in_seconds = config.election.renewal_interval.total_seconds()
        self.dispatcher = Dispatcher(
            ledger=ledger,
            leadership=self,
            workers=workers,
            events=events,
            clock=WakingClock(clock),
            specs=config.jobs,
            sign_in_seconds=sign_in_seconds,
        )
        self.dispatcher.on_replaced = self._replaced
        self._forfeits = Forfeits(workers, self.dispatcher.open_claims)
        self.housekeeping = Housekeeping(
            ledger=ledger,
            replica=Replica(self.id, "simulated", number, __version__, HASH),
            current=self.current,
            deposed=self.deposed,
            workers=workers,
            open_claims=self.dispatcher.open_claims,
            starts_limits=self.dispatcher.starts_limits,
            wake_dispatcher=self.dispatcher.wake,
            events=events,
            clock=clock,
            sign_in_seconds=sign_in_seconds,
            lost_after_seconds=config.election.lost_after.total_seconds(),
            keep_for=FOR_EVER,  # what a test asks for must still be there at the end
            keep_runs=MOST_ROWS,
            job_ids=[spec.id for spec in config.jobs],
        )

    # --- asked by the dispatcher and by housekeeping

    def current(self) -> Lease | None:
        """Return the lease, unless the database is away."""
        return self.lease if self._reachable() else None

    def deposed(self, term: int) -> None:
        """Learn that a statement was fenced, which cannot be: terms end only when the simulation says so."""
        raise AssertionError(f"a statement of term {term} of {self.id} was fenced: this is a mistake of the simulation")

    # --- told by the simulation

    def lead(self, lease: Lease) -> None:
        """Begin to lead."""
        self.lease = lease
        self.dispatcher.lead(lease)

    def retire(self) -> None:
        """Lead no more; what runs goes on."""
        if self.lease is not None:
            self.dispatcher.retire(self.lease.term)
            self.lease = None

    def lose_leadership(self) -> None:
        """Lead no more, against our will: jobs that want it stop."""
        lease = self.lease
        self.retire()
        if lease is not None:
            self._forfeits.lost(lease.term, "trust_lapsed")
            self._forfeits.step()

    def configure(self, specs: Iterable[JobSpec]) -> None:
        """Take a new set of jobs."""
        specs = tuple(specs)
        self.dispatcher.configure(specs)
        self.housekeeping.configure(HASH, [spec.id for spec in specs])

    def dispatch(self) -> float | None:
        """Do what the leader has to do now; return the seconds until it has more to do by itself, if it has."""
        self.dispatcher.wake()
        for _ in range(MOST_STEPS):
            seconds = self.dispatcher.step()
            if self.dispatcher.at_rest:
                return None
            if seconds > 0:
                return seconds
        raise AssertionError(f"{self.id} settles and settles at one moment: this is a mistake of the simulation")

    def sign_out(self) -> None:
        """Leave, with nothing running any more."""
        self._ledger.sign_out(self.id, self.dispatcher.starts_limits())

    def _replaced(self) -> None:
        self.cancel_requested = True
