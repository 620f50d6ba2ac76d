"""The ledger's writes on SQLite: one short transaction each, begun as a writer.

SQLite has one writer at a time, so a predicate that was read under BEGIN IMMEDIATE still holds at
COMMIT: there the lease's row, read first, is the fence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from scheduler_service.ledger import (
    ABSENT_AFTER,
    BUSY_ROWS,
    DISABLES,
    DROPS,
    Adoption,
    LostAttempt,
    Pruned,
    Settlement,
    StartsLimits,
)
from scheduler_service.ledger.reading import asker
from scheduler_service.ledger.sqlite_endings import MICROSECONDS, SqliteEndings
from scheduler_service.model import Attempt, Decision, JobSpec, Kind, Lease, Reason, Run


class SqliteLedger(SqliteEndings):
    """The ledger of one election in an SQLite file."""

    def rehearse(self) -> None:
        """Do nothing: there is no server to get ready, and one writer at a time."""

    def adopt(self, lease: Lease, specs: Sequence[JobSpec]) -> Adoption | None:
        """Make the job table agree with `specs`; see Ledger."""
        with self._fenced(lease) as (connection, now):
            if now is None:
                return None
            newest = self._on(connection, "select max(present_at) from {p}job_state where lock_id = :lock_id")[0][0]
            known = {state.job_id: state for state in self._every_state(connection)}
            present = dict(  # a job that was settled was there, though that was noted longer ago
                tuple(row)
                for row in self._on(
                    connection,
                    "select job_id, max(present_at, settled_until) from {p}job_state where lock_id = :lock_id",
                )
            )
            absent_after = int(ABSENT_AFTER.total_seconds() * MICROSECONDS)
            absent_before = (newest or 0) - absent_after
            led_long = self.stamp(lease.acquired_at) <= now - absent_after
            # One moment for all jobs, later than any before, whatever the clock did: who has it is configured.
            noted_at = now if newest is None else max(now, newest + 1)
            added, returned = [], []
            for spec in specs:
                values = {
                    "job": spec.id,
                    "schedule": spec.schedule.canonical,
                    "timezone": spec.schedule.timezone,
                    "now": now,
                    "noted_at": noted_at,
                    "max_running": spec.running_limit,
                }
                state = known.get(spec.id)
                if state is None:
                    added.append(spec.id)
                    self._on(
                        connection,
                        """insert into {p}job_state (lock_id, job_id, schedule, timezone, enabled, accountable_from,
                             settled_until, present_at, max_running)
                           values (:lock_id, :job, :schedule, :timezone, :enabled, :now, :now, :noted_at,
                             :max_running)""",
                        **values,
                        enabled=spec.enabled,
                    )
                elif spec.enabled and (not state.enabled or present[spec.id] < absent_before):
                    returned.append(spec.id)
                    self._on(
                        connection,
                        """update {p}job_state set enabled = 1, schedule = :schedule, timezone = :timezone,
                             present_at = :noted_at, accountable_from = max(settled_until, :now),
                             settled_until = max(settled_until, :now), max_running = :max_running
                            where lock_id = :lock_id and job_id = :job""",
                        **values,
                    )
                else:
                    self._on(
                        connection,
                        """update {p}job_state set present_at = :noted_at, max_running = :max_running
                            where lock_id = :lock_id and job_id = :job""",
                        job=spec.id,
                        noted_at=noted_at,
                        max_running=spec.running_limit,
                    )
            wanted = {spec.id: spec for spec in specs}
            cancelled: Counter[str] = Counter()
            for run_id, job_id, kind in self._on(
                connection, "select id, job_id, kind from {p}run where lock_id = :lock_id and state = 'waiting'"
            ):
                spec_of_run = wanted.get(job_id)
                if spec_of_run is None:
                    # One that has only just left may be in the file of the next leader; so may one that nobody noted,
                    # for nobody led.
                    goes_on = job_id in present and not (led_long and present[job_id] < absent_before)
                else:
                    goes_on = spec_of_run.enabled or kind == Kind.MANUAL
                if not goes_on:
                    cancelled[job_id] += 1
                    self._on(
                        connection,
                        """update {p}run
                              set state = 'cancelled', reason = null,
                                  cancel_requested_at = coalesce(cancel_requested_at, :now),
                                  cancel_requested_by = case when cancel_requested_at is null then :by
                                                             else cancel_requested_by end
                            where id = :run""",
                        run=run_id,
                        now=now,
                        by=DROPS if spec_of_run is None else DISABLES,
                    )
            states = tuple(state for state in self._every_state(connection) if state.job_id in wanted)
            return Adoption(states, tuple(added), tuple(returned), cancelled)

    def settle(self, lease: Lease, settlements: Sequence[Settlement]) -> frozenset[str] | None:
        """Write decisions for a batch of jobs; see Ledger."""
        with self._fenced(lease) as (connection, now):
            if now is None:
                return None
            return frozenset(
                one.state.job_id for one in settlements if self._settle_one(connection, lease.leader_id, one, now)
            )

    def start(
        self, lease: Lease, claim_id: str, runs: Sequence[tuple[Run, int | None]], sent: float
    ) -> list[Attempt] | None:
        """Make attempts of waiting runs; see Ledger."""
        with self._fenced(lease) as (connection, now):
            if now is None:
                return None
            begun = []
            for run, limit in sorted(runs, key=lambda pair: (pair[0].scheduled_at, pair[0].id)):
                # One after another: the slot that one takes is seen by the next.
                slot = self._free_slot(connection, run.job_id, limit)
                if slot is None and limit is not None:
                    continue
                picked = self._on(
                    connection,
                    """update {p}run set state = 'running', reason = null, attempt = attempt + 1,
                         exclusive = :exclusive, slot = :slot, slot_held = 1
                        where id = :run and state = 'waiting' and cancel_requested_at is null and due_at <= :now
                          and not (slot_held and :limited)
                          and not exists (select 1 from {p}job_state s
                            where s.lock_id = :lock_id and s.job_id = :job and s.paused_at <= :now
                              and (s.paused_until is null or s.paused_until > :now))
                        returning attempt""",
                    run=run.id,
                    job=run.job_id,
                    limited=limit is not None,
                    exclusive=limit == 1,
                    slot=slot,
                    now=now,
                )
                for (number,) in picked:
                    row = self._on(
                        connection,
                        """insert into {p}run_attempt (run_id, attempt, term, instance_id, claim_id, state, started_at)
                           values (:run, :attempt, :term, :me, :claim, 'running', :now) returning id""",
                        run=run.id,
                        attempt=number,
                        claim=claim_id,
                        now=now,
                        **self._fence_values(lease),
                    )[0]
                    begun.append((row[0], run.id, number, lease.term, lease.leader_id, now))
            return self._attempts(begun, [run for run, _ in runs], sent)

    def mark_lost(
        self, lease: Lease, instance_id: str, seen_at: datetime | None, starts_limits: StartsLimits
    ) -> list[LostAttempt] | None:
        """Close what a replica left open; see Ledger."""
        with self._fenced(lease) as (connection, now):
            if now is None:
                return None
            rows = self._on(connection, "select seen_at from {p}replica where instance_id = :gone", gone=instance_id)
            if rows and rows[0][0] != self.stamp(seen_at):
                return []
            return self.close_left_open(connection, instance_id, starts_limits)

    def prune(
        self, lease: Lease, job_ids: Sequence[str], keep_for: timedelta, keep_runs: int, limit: int
    ) -> Pruned | None:
        """Remove closed rows of some jobs that are too old or too many; see Ledger."""
        with self._fenced(lease) as (connection, now):
            if now is None:
                return None
            before = now - int(keep_for.total_seconds() * MICROSECONDS)
            pruned, busy = 0, []
            chosen = self._on(
                connection,
                "select job_id, settled_until from {p}job_state where lock_id = :lock_id and job_id in :jobs",
                jobs=list(job_ids),
            )
            for job_id, settled_until in sorted(chosen, key=lambda row: job_ids.index(row[0])):
                count = len(
                    self._on(
                        connection,
                        """delete from {p}run where id in (
                             select id from (select * from {p}run where lock_id = :lock_id and job_id = :job
                                              order by id limit 50)
                              where state not in ('waiting', 'running') and not slot_held
                                and (kind = 'manual' or coalesce(until, scheduled_at) <= :settled_until)
                                and (decided_at < :before or id <= (
                                  select id from {p}run where lock_id = :lock_id and job_id = :job
                                   order by id desc limit 1 offset :keep_runs))
                              order by id limit :most) returning id""",
                        job=job_id,
                        settled_until=settled_until,
                        before=before,
                        keep_runs=keep_runs,
                        most=limit - pruned,
                    )
                )
                pruned += count
                if count >= BUSY_ROWS:
                    busy.append(job_id)
            self._on(
                connection,
                """delete from {p}replica where lock_id = :lock_id and seen_at < :old and not exists (
                     select 1 from {p}run_attempt a
                      where a.instance_id = replica.instance_id and a.state = 'running')""",
                old=now - 3600 * MICROSECONDS,
            )
            self._on(
                connection,
                "delete from {p}leader_term where lock_id = :lock_id and term < :term and acquired_at < :before",
                term=lease.term,
                before=before,
            )
            return Pruned(pruned, tuple(busy))

    @contextmanager
    def _fenced(self, lease: Lease) -> Iterator[tuple[Connection, int | None]]:
        """Begin to write; the time in microseconds, or None when the term is over."""
        with self._database.transaction() as connection:
            rows = self._on(
                connection,
                """select {now} from {p}leader_lease
                    where id = :lock_id and term = :term and leader_id = :me and expires_at > {now}""",
                **self._fence_values(lease),
            )
            yield connection, rows[0][0] if rows else None

    def _settle_one(self, connection: Connection, leader_id: str, one: Settlement, now: int) -> bool:
        state = one.state
        if self.stamp(one.until) > now:
            return False
        swapped = self._on(
            connection,
            """update {p}job_state
                  set settled_until = :until, schedule = :schedule, timezone = :timezone, enabled = :enabled,
                      paused_at = case when :resumed then null else paused_at end,
                      paused_until = case when :resumed then null else paused_until end,
                      paused_by = case when :resumed then null else paused_by end,
                      pause_reason = case when :resumed then null else pause_reason end,
                      resumed_by = case when :resumed then null else resumed_by end
                where lock_id = :lock_id and job_id = :job and settled_until = :since and paused_at is :paused_at
                  and paused_until is :paused_until and settled_until <= :until returning job_id""",
            until=self.stamp(one.until),
            schedule=one.schedule,
            timezone=one.timezone,
            enabled=one.enabled,
            resumed=one.resumed,
            job=state.job_id,
            since=self.stamp(state.settled_until),
            paused_at=self.stamp(state.paused_at),
            paused_until=self.stamp(state.paused_until),
        )
        if not swapped:
            return False
        decisions = one.decisions
        if decisions and self._extended(connection, state.job_id, decisions[0], now, leader_id):
            decisions = decisions[1:]
        for decision in decisions:
            self._on(
                connection,
                """insert into {p}run (lock_id, job_id, scheduled_at, until, due_at, kind, state, reason, decided_at,
                     decided_by, requested_by)
                   values (:lock_id, :job, :tick, :until, :due, :kind, :state, :reason, :now, :me, :asker)
                   on conflict (lock_id, job_id, scheduled_at) where kind in ('scheduled', 'catch_up', 'range')
                   do nothing""",
                job=state.job_id,
                tick=self.stamp(decision.scheduled_at),
                until=self.stamp(decision.until),
                due=self.stamp(decision.due_at),
                kind=str(decision.kind),
                state=str(decision.state),
                reason=str(decision.reason),
                asker=asker(one, decision),
                now=now,
                me=leader_id,
            )
        for run_id, reason in one.withdrawn:
            self._on(
                connection,
                """update {p}run set state = 'missed', reason = :reason, decided_at = :now, decided_by = :me
                    where id = :run and state = 'waiting' and attempt = 0""",
                run=run_id,
                reason=str(reason),
                now=now,
                me=leader_id,
            )
        for run_id, by in one.replaced:
            self._on(
                connection,
                """update {p}run set state = case when state = 'waiting' then 'cancelled' else state end, reason = null,
                     cancel_requested_at = :now, cancel_requested_by = :by
                    where id = :run and state in ('waiting', 'running') and cancel_requested_at is null""",
                run=run_id,
                now=now,
                by=by,
            )
        return True

    def _extended(self, connection: Connection, job_id: str, decision: Decision, now: int, leader_id: str) -> bool:
        """Let the row of a pause that goes on cover `decision` too; return whether there was one to extend."""
        if decision.reason is not Reason.PAUSED:
            return False
        rows = self._on(
            connection,
            """update {p}run set until = :until, decided_at = :now
                where reason = 'paused' and decided_by = :me and id = (
                  select id from {p}run where lock_id = :lock_id and job_id = :job
                     and kind in ('scheduled', 'catch_up', 'range') order by scheduled_at desc limit 1)
                returning id""",
            job=job_id,
            until=self.stamp(decision.until),
            now=now,
            me=leader_id,
        )
        return bool(rows)

    def _free_slot(self, connection: Connection, job_id: str, limit: int | None) -> int | None:
        """Return the lowest free slot of a job, None if it has none or needs none."""
        if limit is None:
            return None
        rows = self._on(
            connection,
            "select slot from {p}run where lock_id = :lock_id and job_id = :job and slot_held",
            job=job_id,
        )
        held = {row[0] for row in rows}
        return next((slot for slot in range(limit) if slot not in held), None) if len(rows) < limit else None

    def _every_state(self, connection: Connection) -> Any:
        ids = [row[0] for row in self._on(connection, "select job_id from {p}job_state where lock_id = :lock_id")]
        return [
            state
            for start in range(0, len(ids), 500)
            for state in self._job_states(connection, ids[start : start + 500])
        ]
