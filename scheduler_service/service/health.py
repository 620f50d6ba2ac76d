"""Whether a replica lives and is ready, from what its threads left behind: no query, no lock, no wait.

    alive   conductor, elector, scheduler and dispatcher took a step lately, or are waiting for a connection
    ready   started, not draining, and the database answered when it was asked last
    leads   we may act under the lease right now

A replica that is not alive should be restarted; one that is not ready should get no traffic.  A standby is
ready: it could lead.

How long it takes to connect is the network's affair: a resolver that is away, or a host with many addresses none of
which answers, takes longer than any step, and on every replica at once.  To restart them all would mend nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler_service.config import Config
from scheduler_service.service.parts import Parts, Phase

CONNECTING_SECONDS = 300.0  # more than the C library's resolver takes with three servers and a list of domains


@dataclass(frozen=True, slots=True)
class Stuck:
    """A thread that took no step for longer than it may."""

    thread: str
    seconds: float


class Health:
    """The health of one replica.  Any thread may ask."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self._parts = parts
        lease_seconds = config.election.lease_duration.total_seconds()
        answer_seconds = parts.database.statement_seconds
        # The dispatcher alone may be waiting for an answer that takes as long as answers may.
        self._limits = {
            "elector": lease_seconds,
            "scheduler": lease_seconds,
            "dispatcher": lease_seconds + answer_seconds,
        }
        # The conductor waits for the database only at the start; at the end it waits for other threads' last words.
        self._conductor_limits = {
            Phase.STARTING: config.database.startup_timeout.total_seconds() + lease_seconds + answer_seconds,
            Phase.READY: lease_seconds,
            Phase.DRAINING: lease_seconds + answer_seconds,
        }

    def stuck(self) -> tuple[Stuck, ...]:
        """Return the threads that took no step for longer than they may."""
        parts, phase = self._parts, self._parts.progress.phase
        steps = {"conductor": (parts.progress.stepped_at, self._conductor_limits[phase])}
        if phase is Phase.READY:  # before that they do not run, after it they end
            steps |= {
                "elector": (parts.elector.stepped_at, self._limits["elector"]),
                "scheduler": (parts.timetable.stepped_at, self._limits["scheduler"]),
                "dispatcher": (parts.dispatcher.stepped_at, self._limits["dispatcher"]),
            }
        waits = {thread: self._wait(thread, *step) for thread, step in steps.items()}
        now = parts.clock.monotonic()
        return tuple(Stuck(thread, now - at) for thread, (at, limit) in waits.items() if now - at > limit)

    def _wait(self, thread: str, at: float, limit: float) -> tuple[float, float]:
        """Return since when a thread is waited for and how long that may take, given its last step."""
        connecting = self._parts.database.connecting(thread)
        if connecting is None:
            return at, limit
        return max(at, connecting.at), CONNECTING_SECONDS if connecting.going_on else limit

    def not_ready_because(self) -> tuple[str, ...]:
        """Return what keeps the replica from being ready, for a person; nothing if it is."""
        parts = self._parts
        reasons = [f"the {one.thread} thread took no step for {one.seconds:.1f}s" for one in self.stuck()]
        if parts.progress.phase is not Phase.READY:
            reasons.append(f"the replica is {parts.progress.phase}")
        elif parts.elector.problem is not None:
            reasons.append(f"the database does not answer: {parts.elector.problem}")
        return tuple(reasons)

    def term(self) -> int | None:
        """Return the term in which this replica leads; None if it does not."""
        lease = self._parts.elector.current()
        return None if lease is None else lease.term
