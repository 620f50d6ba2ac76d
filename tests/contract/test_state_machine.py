"""Lease store and ledger as one state machine, on a real PostgreSQL: every order of statements keeps the invariants.

Replicas observe, acquire, renew and release; settle, start, finish, mark each other lost and prune; people trigger,
pause, resume and cancel.  A replica acts on what it read last, however old that is, and under the lease that it was
given last, however long that is over.  Each statement either

    is answered        the replica knows what became of it
    loses its answer   it has committed, and the replica does not know
    is parked          it has been executed and not committed; it is committed, rolled back or killed later, at the
                       latest when another statement waits for it

The model is what the answers add up to: who leads, which ticks are decided, whose code goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from scheduler_service import schedule as schedules
from scheduler_service.database import Database
from scheduler_service.ledger import Finished, Replica, Settlement
from scheduler_service.ledger.requests import (
    CancelledRun,
    KeyTaken,
    NotPaused,
    NotSettled,
    Paused,
    Resumed,
    StopRequested,
    Triggered,
)
from scheduler_service.model import Decision, JobSpec, Kind, Outcome, Reason, Run, State
from tests.contract.parking import PATIENCE_SECONDS, End, Traffic
from tests.contract.replicas_model import LIMITS, Modelled, One, has_leaders

SECOND = timedelta(seconds=1)
RERUNS = {"pair": 3}  # starts of a run whose replica is lost
BASE = datetime(2026, 1, 1, tzinfo=UTC)  # from when on ticks are accounted for: past, so that all of them are due
KEEP_RUNS = 3

replicas = st.integers(0, 2)
believers = st.integers(0, 7)  # see Replicas._leader
jobs = st.sampled_from(sorted(LIMITS))
ways = st.sampled_from(["answered"] * 4 + ["answer lost"] + [f"parked, {end.value}" for end in End for _ in range(2)])
endings = st.sampled_from(["succeeded", "failed", "timed_out", "timed_out and goes on", "timed_out and goes on"])


def specs() -> list[JobSpec]:
    return [JobSpec(id=job, run="jobs:main", schedule=schedules.every(SECOND), max_running=limit, overlap="skip")
            if limit else JobSpec(id=job, run="jobs:main", schedule=schedules.every(SECOND), overlap="allow")
            for job, limit in LIMITS.items()]  # fmt: skip


class Replicas(Modelled):
    """What can be done to them, in any order."""

    # --- the election

    @initialize()
    def begin(self) -> None:
        """The first replica leads and is at work: of each job runs go on, and others wait."""
        one = self.replicas[0]
        self._acquired(one, one.store.acquire(one.name))
        assert one.ledger.adopt(one.lease, specs()) is not None
        self._sql("update scheduler.job_state set accountable_from = %s, settled_until = %s where lock_id = %s",
                  BASE, BASE, self.lock_id)  # fmt: skip
        self.settled = dict.fromkeys(LIMITS, BASE)
        for other in self.replicas:
            self._read_states(other)
        for job in LIMITS:
            self.work(0, job, "answered")

    @rule(number=replicas, way=ways)
    def acquire(self, number: int, way: str) -> None:
        one = self.replicas[number]

        def check(acquired: Any) -> None:
            row = self.row
            allowed = row is None or row.leader == one.name or row.expired or row.session_gone
            assert (acquired is not None) == allowed, f"{one.name} got {acquired} over {row}"
            # I4: what a leader has sent and not committed holds the takeover up.
            writing = [waiting.term for waiting in self.parked if waiting.term is not None]
            assert acquired is None or not writing, f"{acquired} began while {writing} were writing"

        def commit(acquired: Any) -> None:
            if acquired is not None:
                self._acquired(one, acquired, known=way == "answered")

        self._do(way, one.store, lambda store: store.acquire(one.name), check, commit)

    @precondition(has_leaders)
    @rule(number=believers, way=ways)
    def renew(self, number: int, way: str) -> None:
        one = self._leader(number)
        lease, held = one.lease, self._guarded_term(one, way)

        def check(renewal: Any) -> None:
            assert (renewal is not None) == self._leads(lease), f"{lease} was renewed: {renewal}; {self.row}"

        def commit(renewal: Any) -> None:
            if renewal is not None and not way.startswith("parked"):
                self.row.session_gone = False  # the session that renewed holds the lock now
            elif renewal is None:
                self._lets_go(one, held)
                one.lease = None

        # What a leader writes must not hold up that it renews, and renewing is no reason to wait.
        fenced = {waiting.parked.pid for waiting in self.parked if waiting.term is not None}
        self._do(way, one.store, lambda store: store.renew(lease.term, lease.leader_id), check, commit, passes=fenced)

    @precondition(has_leaders)
    @rule(number=believers, way=ways)
    def release(self, number: int, way: str) -> None:
        one = self._leader(number)
        lease, held = one.lease, self._guarded_term(one, way)

        def mine() -> bool:
            return self.row is not None and (self.row.term, self.row.leader) == (lease.term, lease.leader_id)

        def check(released: bool) -> None:
            assert released == mine()

        def commit(released: bool) -> None:
            one.lease = None if way == "answered" else one.lease
            if released:
                self.row = None
            self._lets_go(one, held)

        self._do(way, one.store, lambda store: store.release(lease.term, lease.leader_id, "released"), check, commit)

    @rule(number=replicas, what=st.sampled_from(["observe", "clean up", "expire", "lose the session"]))
    def suffer(self, number: int, what: str) -> None:
        one = self.replicas[number]
        if what == "observe":
            self._observe(one)
        elif what == "clean up":
            self._clean_up(one)
        elif what == "expire":
            self._expire()
        else:
            self._lose_session(one)

    def _observe(self, one: One) -> None:
        seen, _ = self._send(one.store.observe)
        told = None if seen is None else (seen.leader_id, seen.term, seen.remaining_seconds <= 0)
        assert told == (None if self.row is None else (self.row.leader, self.row.term, self.row.expired))

    def _clean_up(self, one: One) -> None:
        count, _ = self._send(one.store.cleanup)
        assert count == int(self.row is not None and self.row.expired)
        if count:
            self.row = None

    def _expire(self) -> None:
        def change() -> int:
            return self._sql(
                "update scheduler.leader_lease set created_at = created_at - interval '2 hours', "
                "expires_at = clock_timestamp() - interval '1 hour' where id = %s",
                self.lock_id,
            )

        count, _ = self._send(change)
        if count and self.row is not None:
            self.row.expired = True

    def _lose_session(self, one: One) -> None:
        session = one.store._session
        if session is None:
            return
        held = session.armed_term
        self.traffic.kill(session.connection.backend_pid)
        one.store.close()
        self._lets_go(one, held)

    def _guarded_term(self, one: One, way: str) -> int | None:
        """Return the term whose lock the replica's session holds, where a statement is sent on that session."""
        session = one.store._session
        return None if session is None or way.startswith("parked") else session.armed_term

    def _lets_go(self, one: One, held: int | None) -> None:
        """Take note that the lock of a term is free, which permits to take it over early."""
        if self.row is not None and (self.row.term, self.row.leader) == (held, one.name):
            self.row.session_gone = True

    # --- what leaders write

    @precondition(has_leaders)
    @rule(number=believers, way=ways)
    def adopt(self, number: int, way: str) -> None:
        one = self._leader(number)

        def commit(adoption: Any) -> None:
            if way == "answered" and adoption is not None:
                one.states = {state.job_id: state for state in adoption.states}

        self._write(way, one, lambda ledger: ledger.adopt(one.lease, specs()), commit)

    @precondition(has_leaders)
    @rule(
        number=believers,
        job=jobs,
        way=ways,
        fresh=st.booleans(),
        seconds=st.integers(0, 5),
        chosen=st.lists(st.sampled_from([State.WAITING, State.WAITING, State.MISSED]), min_size=5, max_size=5),
        edit=st.sampled_from([None, None, None, 1, 2]),
        withdraw=st.booleans(),
    )
    def settle(
        self,
        number: int,
        job: str,
        way: str,
        fresh: bool,
        seconds: int,
        chosen: list[State],
        edit: int | None,
        withdraw: bool,
    ) -> None:
        one = self._leader(number)
        if fresh:
            self._read_states(one)
        state = one.states[job]
        until = state.settled_until + seconds * SECOND
        schedule = schedules.parse(state.schedule, state.timezone)
        ticks = schedule.between(state.settled_until, until, 100)
        decisions = _decisions(ticks, chosen)
        gone = [run for run in one.waiting if run.job_id == job and run.attempt == 0 and run.kind is not Kind.MANUAL]
        settlement = Settlement(
            state,
            until,
            state.schedule if edit is None else schedules.every(edit * SECOND).canonical,
            state.timezone,
            state.enabled,
            decisions,
            withdrawn=((gone[0].id, Reason.WINDOW),) if withdraw and gone else (),
            resumed=state.paused_until is not None,
        )

        def check(settled: Any) -> None:
            if settled is not None:
                current = (state.settled_until, (state.paused_at, state.paused_until))
                unchanged = current == (self.settled[job], self.pauses[job])
                assert settled == ({job} if unchanged else set()), f"{settlement} gave {settled}, {unchanged=}"

        def commit(settled: Any) -> None:
            if settled:
                assert self.settled[job] <= until
                assert not self.decided[job] & set(ticks), "a tick is decided twice"
                self.decided[job] |= set(ticks)
                self.settled[job] = until
                if settlement.resumed:
                    self.pauses[job] = (None, None)
                if way == "answered":
                    one.states[job] = settlement.applied()

        self._write(way, one, lambda ledger: ledger.settle(one.lease, [settlement]), commit, check)

    @precondition(has_leaders)
    @rule(number=believers, way=ways, fresh=st.booleans(), count=st.integers(1, 4))
    def start(self, number: int, way: str, fresh: bool, count: int) -> None:
        one = self._leader(number)
        if fresh:
            one.waiting = one.ledger.poll(100).runs
        self._start(one, way, one.waiting[:count])

    @precondition(has_leaders)
    @rule(number=believers, job=jobs, way=ways)
    def work(self, number: int, job: str, way: str) -> None:
        """Settle and start as an undisturbed leader does, so that there is something to disturb."""
        self.settle(number, job, "answered", True, 3, [State.WAITING] * 3, None, False)
        self.start(number, way, True, 4)

    def _start(self, one: One, way: str, runs: Sequence[Run]) -> None:
        claim = f"{self.lock_id}-{next(self.claim_numbers)}"
        one.claims[claim] = tuple(runs)

        def commit(attempts: Any) -> None:
            if way == "answered":
                one.claims.pop(claim, None)
                self._take(one, attempts or [])

        wanted = [(run, LIMITS[run.job_id]) for run in runs]
        self._write(way, one, lambda ledger: ledger.start(one.lease, claim, wanted, 0.0), commit)

    @precondition(lambda self: any(one.claims for one in self.replicas))
    @rule()
    def ask_for_claims(self) -> None:
        """Find out what became of starts without an answer: nothing, as long as one is not committed."""
        one = next(one for one in self.replicas if one.claims)
        for claim, runs in tuple(one.claims.items()):
            attempts, _ = self._send(lambda claim=claim, runs=runs: one.ledger.claimed(claim, runs, 0.0))
            self._take(one, attempts)
            del one.claims[claim]

    @precondition(has_leaders)
    @rule(number=believers, other=replicas, fresh=st.booleans(), way=ways)
    def mark_lost(self, number: int, other: int, fresh: bool, way: str) -> None:
        one = self._leader(number)
        # More often than not the one who has more to lose.
        others = sorted((other for other in self.replicas if other is not one), key=lambda other: -len(other.hand))
        gone = others[other % 2]
        if fresh:
            self.sign_in(self.replicas.index(one), "answered")
        seen_at = one.peers.get(gone.name)
        held = {attempt_id for attempt_id, row in self.attempts.items() if row.instance_id == gone.name}

        def check(lost: Any) -> None:
            if lost:
                now = self._rows("select seen_at from scheduler.replica where instance_id = %s", gone.name)
                assert not now or now[0].seen_at == seen_at, "a replica was given up that has signed in"

        def commit(lost: Any) -> None:
            # It was silent for so long: what it still runs, it runs without the ledger's leave.
            if lost is not None:
                self.given_up |= held | gone.hand.keys()

        self._write(way, one, lambda ledger: ledger.mark_lost(one.lease, gone.name, seen_at, RERUNS), commit, check)

    @precondition(has_leaders)
    @rule(number=believers, way=ways)
    def prune(self, number: int, way: str) -> None:
        one = self._leader(number)

        def commit(pruned: Any) -> None:
            if pruned is not None:  # another that was parked may have committed just before
                self.may_vanish |= bool(pruned.count)

        self._write(
            way, one, lambda ledger: ledger.prune(one.lease, list(LIMITS), timedelta(days=1000), KEEP_RUNS, 100), commit
        )

    # --- what anybody writes

    @rule(number=replicas, way=ways)
    def sign_in(self, number: int, way: str) -> None:
        one = self.replicas[number]

        def commit(signed_in: Any) -> None:
            if way == "answered":
                one.peers = {peer.instance_id: peer.seen_at for peer in signed_in.peers}

        replica = Replica(one.name, "host", 1, "1", "hash")
        self._do(way, one.ledger, lambda ledger: ledger.sign_in(replica), commit=commit)

    @rule(number=replicas)
    def unstart(self, number: int) -> None:
        """Give back what was started in our name and never came to our hands."""
        one = self.replicas[number]
        signed_in, _ = self._send(lambda: one.ledger.sign_in(Replica(one.name, "host", 1, "1", "hash")))
        never_began = [
            held.attempt_id
            for held in signed_in.held
            if held.attempt_id not in one.hand and held.claim_id not in one.claims
        ]
        count, waited = self._send(lambda: one.ledger.unstart(one.name, never_began))
        assert count <= len(never_began)
        assert waited or count == len(never_began)

    @precondition(lambda self: any(one.hand for one in self.replicas))
    @rule(
        way=ways,
        place=st.integers(0, 9),
        ending=endings,
        retry=st.sampled_from([None, None, 0.0]),
    )
    def finish(self, way: str, place: int, ending: str, retry: float | None) -> None:
        going = sorted((attempt, one.name, one) for one in self.replicas for attempt in one.hand)
        attempt_id, _, one = going[place % len(going)]
        attempt = one.hand[attempt_id]
        state = State(ending.partition(" ")[0])
        goes_on = ending.endswith("goes on") and attempt.id not in one.recorded
        if goes_on:
            one.recorded.add(attempt.id)
        else:
            del one.hand[attempt.id]  # the code has returned, whether or not that can be written
        outcome = Outcome(state, 1.0, returned=not goes_on, retry_seconds=None if state is State.SUCCEEDED else retry)
        finished = Finished(attempt, outcome)
        one.ended.append(finished)
        self._finish(one, finished, way)

    @rule(
        what=st.sampled_from(["work", "finish", "finish and work"]),
        number=believers,
        job=jobs,
        place=st.integers(0, 9),
        ending=endings,
        way=ways,
    )
    def go_on(self, what: str, number: int, job: str, place: int, ending: str, way: str) -> None:
        """Let what replicas do all day long be done more often than what disturbs it."""
        if what.startswith("finish") and any(one.hand for one in self.replicas):
            self.finish("answered", place, ending, None)
        if what.endswith("work") and has_leaders(self):
            self.work(number, job, way)

    @precondition(lambda self: any(one.ended for one in self.replicas))
    @rule(way=ways, place=st.integers(0, 99))
    def finish_again(self, way: str, place: int) -> None:
        """Send a result once more, as if its answer had been lost."""
        ended = [(one, finished) for one in self.replicas for finished in one.ended]
        self._finish(*ended[place % len(ended)], way)

    def _finish(self, one: One, finished: Finished, way: str) -> None:
        self._do(way, one.ledger, lambda ledger: ledger.finish([finished]))
        if way == "answered":
            found = self._rows("select state from scheduler.run_attempt where id = %s", finished.attempt.id)
            assert not found or found[0].state != "running", "its result is durable"

    # --- what people ask

    @rule(job=jobs, key=st.sampled_from(["one", "two", "three"]), way=ways)
    def trigger(self, job: str, key: str, way: str) -> None:
        def check(answer: Any) -> None:
            known = self.keys.get(key)
            if known is not None and known[1] in self._run_ids():
                told = (answer.job_id, answer.run_id) if isinstance(answer, KeyTaken) else (job, answer.run_id)
                assert told == known

        def commit(answer: Any) -> None:
            if isinstance(answer, Triggered) and answer.new:
                self.keys[key] = (job, answer.run_id)

        self._ask(way, lambda requests: requests.trigger(job, by="me", key=key), commit, check)

    @rule(job=jobs, way=ways, what=st.sampled_from(["pause", "resume", "resume"]))
    def pause_or_resume(self, job: str, way: str, what: str) -> None:
        (self._pause if what == "pause" else self._resume)(job, way)

    def _pause(self, job: str, way: str) -> None:
        def check(answer: Any) -> None:
            at, until = self.pauses[job]
            assert isinstance(answer, Paused if at is None or until is None else NotSettled), answer
            assert at is None or not isinstance(answer, Paused) or answer.at == at

        def commit(answer: Any) -> None:
            if isinstance(answer, Paused):
                self.pauses[job] = (answer.at, None)

        self._ask(way, lambda requests: requests.pause(job, by="me"), commit, check)

    def _resume(self, job: str, way: str) -> None:
        def check(answer: Any) -> None:
            at, until = self.pauses[job]
            assert isinstance(answer, Resumed if at is not None and until is None else NotPaused), answer

        def commit(answer: Any) -> None:
            if isinstance(answer, Resumed):
                self.pauses[job] = (answer.since, answer.at)

        self._ask(way, lambda requests: requests.resume(job, by="me"), commit, check)

    @precondition(lambda self: self.rows)
    @rule(place=st.integers(0, 50), way=ways)
    def cancel(self, place: int, way: str) -> None:
        run_id = sorted(self.rows)[place % len(self.rows)]

        def check(answer: Any) -> None:
            row = self._run(run_id)
            if row is not None and row.state in ("waiting", "running"):
                assert isinstance(answer, CancelledRun if row.state == "waiting" else StopRequested), answer

        before = self._run(run_id)
        self._ask(way, lambda requests: requests.cancel(run_id, by="me"))
        after = self._run(run_id)
        if way == "answered" and before is not None and after is not None:
            assert after.state not in ("waiting", "running") or after.cancel_requested_at is not None

    # --- the end of what is parked

    @precondition(lambda self: self.parked)
    @rule(place=st.integers(0, 5))
    def end_parked(self, place: int) -> None:
        self._end(self.parked[place % len(self.parked)])


def _decisions(ticks: Sequence[datetime], chosen: Sequence[State]) -> tuple[Decision, ...]:
    """Decide each tick as was chosen; where all are missed, as one range."""
    if len(ticks) > 1 and all(state is State.MISSED for state in chosen[: len(ticks)]):
        return (Decision(ticks[0], ticks[0], Kind.RANGE, State.MISSED, Reason.COALESCED, until=ticks[-1]),)
    return tuple(
        Decision(tick, tick, Kind.SCHEDULED, state, Reason.QUEUED if state is State.WAITING else Reason.COALESCED)
        for tick, state in zip(ticks, chosen, strict=False)
    )


@pytest.fixture
def machine(migrated_postgres_url: str) -> Iterator[Callable[[], Replicas]]:
    databases = [
        Database(migrated_postgres_url, attempt_seconds=PATIENCE_SECONDS, statement_seconds=PATIENCE_SECONDS)
        for _ in range(3)
    ]
    traffic = Traffic(migrated_postgres_url)
    yield lambda: Replicas(migrated_postgres_url, databases, traffic)
    traffic.close()
    for database in databases:
        database.dispose()


REPEATED = settings(
    max_examples=30,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_whatever_the_order_of_statements_the_invariants_hold(machine: Callable[[], Replicas]) -> None:
    run_state_machine_as_test(machine, settings=REPEATED)


@pytest.mark.long
def test_they_hold_in_many_more_orders(machine: Callable[[], Replicas]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(REPEATED, max_examples=300, stateful_step_count=60, derandomize=False)
    )
