"""What must go on whoever leads: signs of life, and the leader's cleaning up.

Each replica signs in every few seconds, also while it drains, and compares what the ledger holds
open under its name with what it runs.  The leader watches the others: a replica whose sign of life
did not change for `lost_after`, on the leader's own boot clock and with the database answering all
the while, is gone, and what it left open is closed as lost.  A lost session is no proof of a dead
process; only this silence is taken for one.  A wait in which the leader itself heard nothing, because a
statement stalled or its host stood still, proves little, and counts for little.

The leader prunes a few jobs at a time, each in its turn; one that has more to remove than a visit can is
visited again a second later, until it has not.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from scheduler_service.clock import Clock
from scheduler_service.database import StoreUnavailable
from scheduler_service.events import Events, Outage
from scheduler_service.ledger import Ledger, Peer, Replica, SignedIn, StartsLimits
from scheduler_service.ledger.sampling import LIVE_SECONDS
from scheduler_service.model import Attempt, Lease
from scheduler_service.workers.tasks import MARKED_LOST

WATCH_SECONDS = 1.0  # how often we look while we run something, or lead and another replica does
LEAST_SECONDS = 0.05
PRUNE_SECONDS = 20.0
PRUNE_SOON_SECONDS = 1.0  # while there is more
PRUNE_ROWS = 500
PRUNE_JOBS = 25  # visited at once,
LIST_SECONDS = 300.0  # how old the list of the jobs to visit may be
BUSY_JOBS = 5  # and so many of them because their last visit left rows: others have their turn beside them
RETRY_SECONDS = 1.0
SAMPLE_JOBS = 100  # so many of our jobs are looked for where another replica has another configuration
DRIFT_SECONDS = 5.0  # an edit reaches all in less: a look every 2 s, another after 0.5 s, a second or so to load it


class Pool(Protocol):
    """Who runs attempts."""

    def registry(self) -> Mapping[int, Attempt]:
        """Return the attempts that were taken and are not yet recorded as ended."""

    def stuck(self) -> Sequence[Attempt]:
        """Return the attempts, recorded or not, whose functions were given up and have not returned."""

    def stop_run(self, attempt_id: int, reason: str) -> None:
        """Ask an attempt to stop."""


@dataclass(frozen=True, slots=True)
class _Watched:
    """A replica's sign of life, and for how long we have looked and saw it unchanged."""

    seen_at: datetime | None
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class _Differing:
    """A replica's configuration that is not ours; a sign of life from then on tells of drift (the database's time)."""

    config_hash: str
    drift_from: datetime


class Housekeeping:
    """Sign in, find what was lost, prune.  `wake` and `configure` may be called by any thread."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        replica: Replica,
        current: Callable[[], Lease | None],
        deposed: Callable[[int], None],
        workers: Pool,
        open_claims: Callable[[], frozenset[str]],
        starts_limits: Callable[[], StartsLimits],
        wake_dispatcher: Callable[[], None],
        events: Events,
        clock: Clock,
        sign_in_seconds: float,
        lost_after_seconds: float,
        keep_for: timedelta,
        keep_runs: int,
        job_ids: Sequence[str],
    ) -> None:
        self._ledger = ledger
        self._replica = replica
        self._current = current
        self._deposed = deposed
        self._workers = workers
        self._open_claims = open_claims
        self._starts_limits = starts_limits
        self._wake_dispatcher = wake_dispatcher
        self._events = events
        self._clock = clock
        self._sign_in_seconds = sign_in_seconds
        self._lost_after_seconds = lost_after_seconds
        self._keep_for = keep_for
        self._keep_runs = keep_runs
        self._job_ids = job_ids[:SAMPLE_JOBS]
        self._watched: dict[str, _Watched] = {}
        self._heard_at = clock.monotonic()  # when the database last showed us the others
        self._live: set[str] = set()  # the replicas that were compared with ours last
        self._differing: dict[str, _Differing] = {}
        self._drifting: dict[str, str] = {}  # those among them that were told
        self._prune_at = clock.monotonic() + PRUNE_SECONDS
        self._pruned_term = 0
        self._jobs: list[str] = []  # those that have a history
        self._list_at = clock.monotonic()
        self._to_prune: list[str] = []  # the jobs to be visited next
        self._put_back: list[str] = []  # those among them whose last visit failed
        self._behind = False  # there is more to prune
        self._outage = Outage(events, "housekeeping", clock)
        self._pruning = Outage(events, "pruning", clock)
        self._woken = threading.Event()
        self._stopping = False

    def wake(self) -> None:
        """Look now: leadership changed."""
        self._woken.set()

    def configure(self, config_hash: str, job_ids: Sequence[str]) -> None:
        """Sign in with this configuration from now on."""
        self._replica = replace(self._replica, config_hash=config_hash)
        self._job_ids = job_ids[:SAMPLE_JOBS]
        self._woken.set()

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping = True
        self._woken.set()

    def run(self) -> None:
        """Step until `stop`."""
        while not self._stopping:
            seconds = self.step()
            self._woken.wait(seconds)
            self._woken.clear()

    def step(self) -> float:
        """Sign in and do what is to be done; return the seconds until the next step."""
        try:
            seconds = self._act()
        except StoreUnavailable as error:
            self._watched.clear()  # while the database is away nobody can sign in: the count begins anew
            self._outage.failed(error)
            return min(RETRY_SECONDS, self._sign_in_seconds)
        self._outage.over()
        return seconds

    def _act(self) -> float:
        signed_in = self.reconcile()
        self._compare(signed_in)
        lease = self._current()
        watching = self._watch(signed_in.peers)
        if lease is not None:
            self._close_lost(lease)
            if self._current() is not None:
                self._prune(lease)
        # Soon again while something runs here: somebody may want to cancel it.
        busy = bool(self._workers.registry()) or (lease is not None and (watching or self._behind))
        seconds = min(WATCH_SECONDS, self._sign_in_seconds) if busy else self._sign_in_seconds
        return seconds if lease is None else min(seconds, self._next_loss_seconds())

    # --- ourselves

    def reconcile(self, *, begins: bool = True) -> SignedIn:
        """Sign in, and let what is open under our name and will not begin here wait again.  Any thread may.

        `begins`: what is started without an answer yet may still begin here; not so once the workers are closed.
        """
        before = self._workers.registry().keys()
        signed_in = self._ledger.sign_in(self._replica)  # before our own register is read again
        held = {one.attempt_id: one for one in signed_in.held}
        claims, known = self._open_claims() if begins else (), self._workers.registry()
        # A database that forgot how they ended (a promoted standby) has stuck ones open, and their code goes on.  One
        # that forgot starts gives their numbers again, while they go on here: the moment tells them apart.
        ours = {(one.id, one.started_at) for one in (*known.values(), *self._workers.stuck())}
        never_began = [
            one.attempt_id
            for one in held.values()
            if (one.attempt_id, one.started_at) not in ours and one.claim_id not in claims
        ]
        if never_began and self._ledger.unstart(self._replica.instance_id, never_began):
            self._wake_dispatcher()
        for one in held.values():
            if one.cancelled_by is not None and (one.attempt_id, one.started_at) in ours:
                self._workers.stop_run(one.attempt_id, f"cancelled by {one.cancelled_by}")
        missing = [attempt_id for attempt_id in before - held.keys() if attempt_id in known]
        if missing:
            for attempt_id in self._ledger.lost_among(missing):
                self._workers.stop_run(attempt_id, MARKED_LOST)
        return signed_in

    def _compare(self, signed_in: SignedIn) -> None:
        """Tell once of each live replica that has another configuration.

        Not at once of one that went on with ours until now: an edit reaches one after another.
        """
        live_after = signed_in.now - timedelta(seconds=LIVE_SECONDS)
        live: set[str] = set()
        differing: dict[str, _Differing] = {}
        drifting: dict[str, str] = {}
        for peer in signed_in.peers:
            if peer.seen_at is None or peer.seen_at <= live_after:
                continue
            live.add(peer.instance_id)
            if peer.config_hash is None or peer.config_hash == self._replica.config_hash:
                continue
            known = self._differing.get(peer.instance_id)
            if known is None or known.config_hash != peer.config_hash:
                soon = signed_in.now + timedelta(seconds=DRIFT_SECONDS)
                known = _Differing(peer.config_hash, soon if peer.instance_id in self._live else peer.seen_at)
            differing[peer.instance_id] = known
            # By its sign of life, not by our clock: one that is dead, or had no database meanwhile, tells nothing new.
            if peer.seen_at >= known.drift_from:
                drifting[peer.instance_id] = peer.config_hash
            elif peer.instance_id in self._drifting:  # told, and has yet another one now
                drifting[peer.instance_id] = self._drifting[peer.instance_id]
        # Asked before anything is told: what gets no answer is looked at anew, and would be told again.
        new = drifting.keys() - self._drifting.keys()
        strange = new and self._job_ids and not self._ledger.job_states(self._job_ids)
        for instance_id, config_hash in drifting.items():
            if self._drifting.get(instance_id) != config_hash:
                self._events.emit(
                    "config_drift", other=instance_id, other_hash=config_hash, hash=self._replica.config_hash
                )
        if strange:
            # No leader ever knew one of our jobs: two services seem to share a lock id.
            others = ", ".join(sorted(drifting))
            self._events.emit("lock_id_shared", others=others, job_count=len(self._job_ids))
        if self._drifting and not drifting:
            self._events.emit("drift_ended", hash=self._replica.config_hash)
        self._live, self._differing, self._drifting = live, differing, drifting

    # --- the others

    def _watch(self, peers: Iterable[Peer]) -> bool:
        # Whatever kept us from looking may have kept others from signing in: however long the wait between two looks,
        # a third of `lost_after` is all that it adds.
        now = self._clock.monotonic()
        seconds = min(now - self._heard_at, self._lost_after_seconds / 3)
        self._heard_at = now
        watched = {}
        for peer in peers:
            if peer.open_count:
                known = self._watched.get(peer.instance_id)
                same = known is not None and known.seen_at == peer.seen_at
                silent_seconds = known.silent_seconds + seconds if known is not None and same else 0.0
                watched[peer.instance_id] = _Watched(peer.seen_at, silent_seconds)
        self._watched = watched
        return bool(watched)

    def _next_loss_seconds(self) -> float:
        """Return how long until the first of the watched replicas counts as gone, if it stays silent."""
        longest = max((watched.silent_seconds for watched in self._watched.values()), default=float("-inf"))
        return max(LEAST_SECONDS, self._heard_at + self._lost_after_seconds - longest - self._clock.monotonic())

    def _close_lost(self, lease: Lease) -> None:
        for instance_id, watched in tuple(self._watched.items()):
            if watched.silent_seconds < self._lost_after_seconds:
                continue
            lost = self._ledger.mark_lost(lease, instance_id, watched.seen_at, self._starts_limits())
            if lost is None:
                self._fenced("mark_lost", lease)
                return
            del self._watched[instance_id]
            for one in lost:
                self._events.emit(
                    "attempt_lost",
                    job=one.job_id,
                    run=one.run_id,
                    scheduled_at=one.scheduled_at,
                    attempt=one.attempt,
                    holder=instance_id,
                    **({"rerun": True} if one.rerun else {}),
                )
            self._wake_dispatcher()

    def _prune(self, lease: Lease) -> None:
        now = self._clock.monotonic()
        if now < self._prune_at:
            return
        self._prune_at, self._behind = now + PRUNE_SECONDS, False
        if lease.term != self._pruned_term:
            self._pruned_term, self._to_prune, self._put_back = lease.term, [], []
            self._list_at = now
        jobs: list[str] = []
        try:
            jobs = self._next_to_prune()
            pruned = self._ledger.prune(lease, jobs, self._keep_for, self._keep_runs, PRUNE_ROWS)
        except StoreUnavailable as error:
            self._pruning.failed(error)  # however long it took, little of that counts as silence
            # Once: a visit that always fails must not keep all others from their turn.
            self._put_back = [job_id for job_id in jobs if job_id not in self._put_back]
            self._to_prune[:0] = self._put_back
            return
        self._pruning.over()
        self._put_back = []
        if pruned is None:
            self._fenced("prune", lease)
            return
        if pruned.count:
            self._events.emit("history_pruned", count=pruned.count)
        self._to_prune[:0] = pruned.busy[:BUSY_JOBS]
        self._behind = bool(pruned.busy) or pruned.count == PRUNE_ROWS
        if self._behind:
            self._prune_at = now + PRUNE_SOON_SECONDS

    def _next_to_prune(self) -> list[str]:
        """Take the jobs to visit now; each has its turn before any has another, but those with more to remove."""
        if len(self._to_prune) < PRUNE_JOBS:
            # In another order each time: who comes first, when leaders change often, and who last, when there is
            # more to remove than one statement may.
            now = self._clock.monotonic()
            if now >= self._list_at:
                self._jobs, self._list_at = self._ledger.job_ids(), now + LIST_SECONDS
            others = [job_id for job_id in self._jobs if job_id not in self._to_prune]
            random.shuffle(others)
            self._to_prune += others
        jobs, self._to_prune = self._to_prune[:PRUNE_JOBS], self._to_prune[PRUNE_JOBS:]
        return jobs

    # --- what went wrong

    def _fenced(self, statement: str, lease: Lease) -> None:
        self._events.emit("statement_fenced", statement=statement, term=lease.term)
        self._deposed(lease.term)
