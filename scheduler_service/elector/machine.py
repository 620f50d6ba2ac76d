"""The lease state machine: no thread, no sleep.

            won                            renewed
    STANDBY ------------------> LEADER ----------------+
     ^ ^ ^                       | | ^  ^              |
     | | |  deposed | fenced     | | |  +--------------+
     | | |  trust lapsed         | | |
     | | +-----------------------+ | | renewed, same term
     | |                     error | |
     | |                           v |
     | +------------------------ SUSPECT
     |   deposed | trust lapsed    |
     |                             | release (also from LEADER)
     +------------------------- RELEASING
         row deleted | it must have expired

`step` makes one attempt and says how long to wait before the next, so a test drives it through years of
bad luck in seconds.  Other threads only ask (`current`) or leave a word (`release`, `deposed`,
`session_gone`, `withdraw`), which the next step obeys; what a word must end at once, it ends at once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from scheduler_service.clock import Clock, DatabaseTime
from scheduler_service.database import StoreUnavailable
from scheduler_service.elector.announcements import Announcement, Elected, Lost, Observed
from scheduler_service.elector.pace import Pace
from scheduler_service.elector.standing import Revocation, Role, Standing
from scheduler_service.elector.timing import Timing
from scheduler_service.events import Events, Outage
from scheduler_service.leases import LeaseStore, Observation
from scheduler_service.model import Lease

_TRUSTED_RETRY_SECONDS = 1.0  # the longest pause while there is trust


class Machine:
    """One replica's part in one election.

    `announce` must not block.  `watch` hears whose session's end a standby would use, as a term, or None.
    `prepare` is called before the first question to the store, again until it succeeds.  `ready` says
    whether another term could be served.  `name` is what a person configured, if anything.
    """

    def __init__(
        self,
        store: LeaseStore,
        *,
        lock_id: int,
        instance_id: str,
        timing: Timing,
        clock: Clock,
        rng: random.Random,
        events: Events,
        announce: Callable[[Announcement], None],
        watch: Callable[[int | None], None] = lambda _: None,
        prepare: Callable[[], None] | None = None,
        ready: Callable[[], bool] = lambda: True,
        name: str | None = None,
    ) -> None:
        self.lock_id = lock_id
        self.timing = timing
        self.database_time = DatabaseTime(clock)
        self._store = store
        self._clock = clock
        self._pace = Pace(timing.jitter_seconds, rng)
        self._announce = announce
        self._watch = watch
        self._prepare = prepare
        self._ready = ready
        self._name = name
        self._withdrawn = False
        self.stepped_at = clock.monotonic()  # when the last step began, on the boot clock
        self.begin(instance_id, events)

    def begin(self, instance_id: str, events: Events) -> None:
        """Be a standby under this name that has heard nothing yet."""
        self.instance_id = instance_id
        self._events = events
        self._outage = Outage(events, "elector", self._clock)
        self.observation: Observation | None = None
        self.problem: str | None = None  # why the database gave no answer when it was asked last, for a person
        self._standing = Standing(Role.STANDBY)
        self._revoked = Revocation(0, "", give_back=False)
        self._word = threading.Lock()
        self._gone_term = 0
        self._pace.restart()
        self._not_before = 0.0
        self._cleanup_at = 0.0
        self._unguarded_reason: str | None = None
        self._namesake = ""

    # What any thread may ask

    def current(self) -> Lease | None:
        """Return the lease that we may act under right now, or None."""
        standing = self._standing
        lease = standing.lease
        if standing.role is not Role.LEADER or lease is None or lease.term <= self._revoked.term:
            return None
        return lease if lease.trusted(self._clock.monotonic()) else None

    def is_leader(self) -> bool:
        """Whether we may act as leader right now."""
        return self.current() is not None

    def observed(self) -> tuple[str, int] | None:
        """Return the name and term of another that leads; None if nobody does, as far as we were told."""
        leader = self.observation
        if leader is None or leader.leader_id == self.instance_id or self.database_time.now() >= _expiry(leader):
            return None
        return leader.leader_id, leader.term

    def holds(self, term: int) -> bool:
        """Whether `term` is ours still, be it that we may not act under it just now."""
        lease = self._standing.lease
        return lease is not None and lease.term == term > self._revoked.term

    # What any thread may say

    def release(self, reason: str = "released") -> None:
        """Give the term up, if there is one: trust ends now, the next step deletes the row."""
        with self._word:
            lease = self._standing.lease
            if lease is not None and lease.term > self._revoked.term:
                self._revoked = Revocation(lease.term, reason, give_back=True)

    def withdraw(self, reason: str = "released") -> None:
        """Give the term up and stand for no other."""
        with self._word:
            self._withdrawn = True
        self.release(reason)

    def deposed(self, term: int) -> None:
        """Take note that the database refused a statement of `term`."""
        with self._word:
            if term > self._revoked.term:
                self._revoked = Revocation(term, "fenced", give_back=False)

    def session_gone(self, term: int) -> None:
        """Take note that the session that led `term` has ended."""
        self._gone_term = term

    # What one thread does

    def step(self) -> float:
        """Make one attempt to win, keep or give back the lease; return the seconds until the next."""
        self.stepped_at = self._clock.monotonic()
        standing = self._standing
        lease = standing.lease
        if lease is None:
            return self._campaign()
        if standing.role is Role.RELEASING:
            return self._give_back(lease, standing.reason)
        revoked = self._revoked
        if lease.term <= revoked.term:
            return self._part(lease, revoked)
        if not lease.trusted(self._clock.monotonic()):
            return self._step_down(lease, "trust_lapsed")
        if standing.role is Role.SUSPECT:
            return self._reassure(lease, standing.since)
        return self._lead(lease)

    def abandon(self, reason: str) -> None:
        """Trust nothing any more and do nothing about it: the lease will expire."""
        lease = self._standing.lease
        if lease is None:
            return
        if self._standing.role is not Role.RELEASING:
            self._step_down(lease, reason)
        else:  # its end was announced when trust ended
            self._standing = Standing(Role.STANDBY)
            self._events.emit("leadership_lost", term=lease.term, reason=reason)

    def _campaign(self) -> float:
        try:
            if self._prepare is not None:
                self._prepare()
                self._prepare = None
            observation = self._observe()
            how = self._chance(observation)
            if how is None or self._stands_back():
                self._answered()
                return self._round(observation if how is None else None)
            return self._acquire(how)
        except StoreUnavailable as error:
            self.problem = str(error)
            self._outage.failed(error)
            return self._pace.retry_seconds(self.timing.renewal_seconds)

    def _observe(self) -> Observation | None:
        sent = self._clock.monotonic()
        observation = self._store.observe()
        if self._chance(observation) is None:
            # Else only the acquisition tells: who may read and not write must not say at each try that all is well.
            self._answered()
        self._tell_unguarded()
        if observation is not None:
            self._learn(sent, observation.database_time)  # before any thread can ask whether this leader still leads
            if observation.leader_id != self.instance_id:
                self._not_before = 0.0  # another had its turn
        former, self.observation = self.observation, observation
        if _token(observation) != _token(former):
            self._announce(Observed(observation))
            if observation is not None and observation.leader_id != self.instance_id:
                self._events.emit("leader_observed", leader=observation.leader_id, term=observation.term)
        elif former is not None and observation is not None:
            self._look_for_namesake(former, observation)
        return observation

    def _answered(self) -> None:
        self._outage.over()
        self.problem = None

    def _chance(self, observation: Observation | None) -> str | None:
        if observation is None:
            return "free"
        if observation.leader_id == self.instance_id:
            return "reply_lost"
        if observation.remaining_seconds <= 0:
            return "expired"
        if observation.armed and observation.term == self._gone_term:
            return "session_gone"
        return None

    def _stands_back(self) -> bool:
        return self._withdrawn or not self._ready() or self._clock.monotonic() < self._not_before

    def _acquire(self, how: str) -> float:
        self._gone_term = 0
        sent = self._clock.monotonic()
        acquired = self._store.acquire(self.instance_id)
        self._answered()
        if acquired is None:  # somebody else was faster; the next look tells who
            return self._pace.retry_seconds(self.timing.renewal_seconds)
        self._learn(sent, acquired.database_time)
        self._pace.restart()
        self._watch(None)
        lease = Lease(
            lock_id=self.lock_id,
            leader_id=self.instance_id,
            term=acquired.term,
            acquired_at=acquired.acquired_at,
            trusted_until=self._trust_from(sent),
            armed=acquired.armed,
        )
        with self._word:  # else a withdrawal could find no lease to give up, just before there is one
            withdrawn = self._withdrawn
            self._standing = Standing(Role.RELEASING if withdrawn else Role.LEADER, lease, reason="released")
        if withdrawn:  # while the answer was on its way: nobody hears of this term
            return 0.0
        self.observation = Observation(
            lease.leader_id, lease.term, lease.armed, self.timing.lease_seconds, acquired.database_time
        )
        self._cleanup_at = self._clock.monotonic() + self._pace.jittered(self.timing.cleanup_seconds)
        self._events.emit("leader_elected", term=lease.term, lock_id=self.lock_id, how=how, crash_detection=lease.armed)
        self._announce(Elected(lease))
        return self._pace.jittered(self.timing.renewal_seconds)

    def _lead(self, lease: Lease) -> float:
        try:
            if not self._renew(lease):
                return self._step_down(lease, "deposed")
            if self._clock.monotonic() >= self._cleanup_at:
                self._cleanup_at = self._clock.monotonic() + self._pace.jittered(self.timing.cleanup_seconds)
                self._events.emit("leases_cleaned", count=self._store.cleanup())
        except StoreUnavailable as error:
            return self._doubt(lease, error)
        return self._until_renewal(lease)

    def _renew(self, lease: Lease) -> bool:
        sent = self._clock.monotonic()
        renewal = self._store.renew(lease.term, lease.leader_id)
        self._tell_unguarded()
        if renewal is None:
            return False
        self._learn(sent, renewal.database_time)
        self._pace.restart()
        self.problem = None
        lease = replace(lease, trusted_until=self._trust_from(sent), armed=renewal.armed)
        self._standing = Standing(Role.LEADER, lease)
        trust = lease.trusted_until - self._clock.monotonic()
        self._events.emit("leadership_renewed", term=lease.term, trust_seconds=trust)
        if renewal.resign_requested:
            asked = {"by": renewal.resign_by} if renewal.resign_by is not None else {}
            self._events.emit("resign_requested", term=lease.term, **asked)
            self.release("resigned")
        return True

    def _doubt(self, lease: Lease, error: StoreUnavailable) -> float:
        # I6: nothing is begun from here on, though the lease may have seconds left.
        lease, now = self._standing.lease or lease, self._clock.monotonic()
        self._standing = Standing(Role.SUSPECT, lease, since=now)
        trust = lease.trusted_until - now
        self.problem = str(error)
        self._events.emit("leadership_suspect", term=lease.term, error=str(error), trust_seconds=trust)
        return 0.0

    def _reassure(self, lease: Lease, since: float) -> float:
        try:
            renewed = self._renew(lease)
        except StoreUnavailable as error:
            left = lease.trusted_until - self._clock.monotonic()
            self._events.emit("renewal_failed", term=lease.term, error=str(error), trust_seconds=left)
            return max(0.0, min(left, self._pace.retry_seconds(_TRUSTED_RETRY_SECONDS)))
        if not renewed:
            return self._step_down(lease, "deposed")
        self._events.emit("leadership_resumed", term=lease.term, suspect_seconds=self._clock.monotonic() - since)
        return self._until_renewal(lease)

    def _part(self, lease: Lease, revoked: Revocation) -> float:
        if not revoked.give_back:
            return self._step_down(lease, revoked.reason)
        self._standing = Standing(Role.RELEASING, lease, reason=revoked.reason)
        self._announce(Lost(lease, revoked.reason))
        return self._give_back(lease, revoked.reason)

    def _give_back(self, lease: Lease, reason: str) -> float:
        try:
            self._store.release(lease.term, lease.leader_id, reason)
        except StoreUnavailable:
            # It waits for the statement of ours that is still being executed, and may run out of time.
            if self._clock.monotonic() < lease.trusted_until + self.timing.margin_seconds:
                return self._pace.retry_seconds(_TRUSTED_RETRY_SECONDS)
            self._events.emit("leadership_lost", term=lease.term, reason="release_unanswered")
        else:
            self._events.emit("leadership_released", term=lease.term, reason=reason)
        # The others first.
        self._not_before = self._clock.monotonic() + self._pace.jittered(self.timing.renewal_seconds)
        self._pace.restart()
        self._standing = Standing(Role.STANDBY)
        return 0.0

    def _step_down(self, lease: Lease, reason: str) -> float:
        self._pace.restart()
        self._standing = Standing(Role.STANDBY)
        self._events.emit("leadership_lost", term=lease.term, reason=reason)
        self._announce(Lost(lease, reason))
        return 0.0

    def _trust_from(self, sent: float) -> float:
        # I6: counted from before the request went out.  From the reply, a slow round trip would stretch
        # our belief past the expiry that the database wrote down.
        return sent + self.timing.lease_seconds - self.timing.margin_seconds

    def _learn(self, sent: float, told: datetime) -> None:
        stepped = self.database_time.observe(sent, self._clock.monotonic(), told)
        if stepped:
            self._events.emit("database_clock_stepped", seconds=stepped)

    def _round(self, leader: Observation | None) -> float:
        self._pace.restart()
        wait = self._pace.jittered(self.timing.renewal_seconds)
        if leader is None:
            standing_back = self._not_before - self._clock.monotonic()
            return min(wait, standing_back) if standing_back > 0 else wait
        self._watch(leader.term if leader.armed and not self._withdrawn else None)
        return min(wait, leader.remaining_seconds)

    def _until_renewal(self, lease: Lease) -> float:
        return self._pace.jittered(self.timing.renewal_seconds) if self.holds(lease.term) else 0.0

    def _tell_unguarded(self) -> None:
        reason = self._store.unguarded_reason
        if reason != self._unguarded_reason:
            self._unguarded_reason = reason
            if reason is not None:
                self._events.emit("crash_detection_off", reason=reason)

    def _look_for_namesake(self, former: Observation, leader: Observation) -> None:
        # Only one that renews its lease is alive; another may be what this replica was before a restart.
        other, _, suffix = leader.leader_id.rpartition("-")
        alive = _expiry(leader) > _expiry(former)
        if alive and other == self._name and leader.leader_id not in (self.instance_id, self._namesake) and suffix:
            self._namesake = leader.leader_id
            self._events.emit("instance_id_shared", other=leader.leader_id)


def _token(observation: Observation | None) -> tuple[int, str] | None:
    return None if observation is None else (observation.term, observation.leader_id)


def _expiry(observation: Observation) -> datetime:
    return observation.database_time + timedelta(seconds=observation.remaining_seconds)
