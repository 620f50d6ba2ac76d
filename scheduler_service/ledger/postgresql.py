"""The ledger's writes on PostgreSQL: each is one autocommit statement and one round trip.

What a leader writes as leader begins with the fence of `leases.postgresql`: it locks the lease row
while it writes, so nothing of a term commits after its takeover, whatever any clock says (I4).

A client that freezes between two round trips holds nothing, because there are no two.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger, Boolean, DateTime, Float, Integer, Interval, Text

from scheduler_service.leases.postgresql import FENCE
from scheduler_service.ledger import ABSENT_AFTER, Adoption, Finished, JobState, LostAttempt, Settlement
from scheduler_service.ledger.reading import PEERS, SIGN_IN, LedgerReads
from scheduler_service.model import Attempt, JobSpec, Lease, Run

_FENCE = "with fence as materialized (" + FENCE.format(prefix="{p}").replace(":id", ":lock_id") + ")"

_TEXTS, _TIMES, _BOOLS, _IDS = ARRAY(Text), ARRAY(DateTime(timezone=True)), ARRAY(Boolean), ARRAY(BigInteger)
_INTS, _FLOATS = ARRAY(Integer), ARRAY(Float)

_ADOPT = (
    _FENCE
    + """, j as (
  select * from fence, unnest(:jobs, :schedules, :timezones, :enabled, :exclusive)
         as j (job_id, schedule, timezone, enabled, exclusive)),
newest as (select max(present_at) as present_at from {p}job_state where lock_id = :lock_id),
added as (
  insert into {p}job_state (lock_id, job_id, schedule, timezone, enabled, accountable_from, settled_until, present_at)
  select :lock_id, j.job_id, j.schedule, j.timezone, j.enabled, t.now, t.now, t.now
    from j, (select clock_timestamp() as now) t
  on conflict do nothing returning job_id),
returned as (
  update {p}job_state s
     set enabled = true, schedule = j.schedule, timezone = j.timezone, present_at = t.now,
         accountable_from = greatest(s.settled_until, t.now), settled_until = greatest(s.settled_until, t.now)
    from j, newest, (select clock_timestamp() as now) t
   where s.lock_id = :lock_id and s.job_id = j.job_id and j.enabled
     and (not s.enabled or s.present_at < newest.present_at - :absent)
  returning s.job_id),
present as (
  -- All at once: jobs that were settled at different times would seem absent to the next leader.
  update {p}job_state s set present_at = clock_timestamp()
    from j, newest
   where s.lock_id = :lock_id and s.job_id = j.job_id
     and not (j.enabled and (not s.enabled or s.present_at < newest.present_at - :absent))),
adjusted as (
  update {p}run r set exclusive = j.exclusive from j
   where r.lock_id = :lock_id and r.state = 'waiting' and r.job_id = j.job_id and j.enabled
     and r.exclusive <> j.exclusive),
cancelled as (
  update {p}run r set state = 'cancelled', reason = null from fence
   where r.lock_id = :lock_id and r.state = 'waiting'
     and not exists (select 1 from j where j.job_id = r.job_id and (j.enabled or r.kind = 'manual')) returning r.id)
select (select count(*) from fence), (select coalesce(json_agg(job_id), '[]') from added),
       (select coalesce(json_agg(job_id), '[]') from returned), (select count(*) from cancelled)"""
)

_SETTLE = (
    _FENCE
    + """, swapped as (
  update {p}job_state s
     set settled_until = j.until, schedule = j.schedule, timezone = j.timezone, enabled = j.enabled,
         paused_at = case when j.resumed then null else s.paused_at end,
         paused_until = case when j.resumed then null else s.paused_until end,
         paused_by = case when j.resumed then null else s.paused_by end,
         pause_reason = case when j.resumed then null else s.pause_reason end
    from fence, unnest(:jobs, :since, :until, :paused_at, :paused_until, :schedules, :timezones, :enabled, :resumed)
         as j (job_id, since, until, paused_at, paused_until, schedule, timezone, enabled, resumed)
   where s.lock_id = :lock_id and s.job_id = j.job_id and s.settled_until = j.since
     and s.paused_at is not distinct from j.paused_at and s.paused_until is not distinct from j.paused_until
     and j.until >= s.settled_until and j.until <= clock_timestamp()
  returning s.job_id),
decided as (
  insert into {p}run (lock_id, job_id, scheduled_at, until, due_at, kind, state, reason, exclusive, decided_at,
                      decided_by)
  select :lock_id, d.job_id, d.scheduled_at, d.until, d.due_at, d.kind, d.state, d.reason, d.exclusive,
         clock_timestamp(), :me
    from swapped join unnest(:run_jobs, :ticks, :untils, :dues, :kinds, :states, :reasons, :exclusive)
         as d (job_id, scheduled_at, until, due_at, kind, state, reason, exclusive) using (job_id)
  on conflict (lock_id, job_id, scheduled_at) where kind in ('scheduled', 'catch_up', 'range') do nothing
  returning id),
withdrawn as (
  update {p}run r set state = 'missed', reason = w.reason, decided_at = clock_timestamp(), decided_by = :me
    from swapped join unnest(:withdrawn_jobs, :withdrawn, :withdrawn_reasons) as w (job_id, id, reason) using (job_id)
   where r.id = w.id and r.state = 'waiting' and r.attempt = 0 returning r.id)
select (select count(*) from fence), (select coalesce(json_agg(job_id), '[]') from swapped),
       (select count(*) from decided), (select count(*) from withdrawn)"""
)

_START = (
    _FENCE
    + """, wanted as (
  select r.id, w.exclusive,
         row_number() over (partition by case when w.exclusive then r.job_id else r.id::text end
                            order by r.due_at, r.id) as turn
    from {p}run r join unnest(:runs, :exclusive) as w (id, exclusive) on w.id = r.id
   where r.state = 'waiting' and r.due_at <= clock_timestamp()
     and not (w.exclusive and exists (
       select 1 from {p}run o where o.lock_id = r.lock_id and o.job_id = r.job_id and o.slot_held))),
picked as (
  update {p}run r
     set state = 'running', reason = null, attempt = r.attempt + 1, exclusive = w.exclusive, slot_held = true
    from fence, wanted w
   where r.id = w.id and w.turn = 1 and r.state = 'waiting' and r.cancel_requested_at is null
  returning r.id, r.attempt),
begun as (
  insert into {p}run_attempt (run_id, attempt, term, instance_id, claim_id, state, started_at)
  select p.id, p.attempt, fence.term, :me, :claim, 'running', clock_timestamp() from picked p, fence
  returning id, run_id, attempt, started_at)
select (select count(*) from fence), b.id, b.run_id, b.attempt, b.started_at
  from (select 1) one left join begun b on true order by b.id"""
)

_FINISH = """with f as (
  select * from unnest(:attempts, :states, :errors, :exit_codes, :results, :seconds, :returned)
         as f (id, state, error, exit_code, result, seconds, returned)),
done as (
  update {p}run_attempt a
     set state = f.state, error = f.error, exit_code = f.exit_code, result = f.result,
         finished_at = a.started_at + make_interval(secs => f.seconds)
    from f where a.id = f.id and a.state in ('running', 'lost')
  returning a.id, a.run_id, a.attempt, a.state, f.returned),
kept as (
  insert into {p}run_output (attempt_id, text, truncated)
  select o.id, o.text, o.truncated from unnest(:output_ids, :outputs, :truncated) as o (id, text, truncated)
    join done on done.id = o.id
  on conflict (attempt_id) do update set text = excluded.text, truncated = excluded.truncated)
update {p}run r set state = done.state, reason = null, slot_held = r.slot_held and not done.returned
  from done
 where r.id = done.run_id and r.attempt = done.attempt and r.state in ('running', 'lost', 'waiting')"""

_UNSTART = """with gone as (
  delete from {p}run_attempt
   where id = any (:attempts) and instance_id = :me and state = 'running' returning run_id, attempt)
update {p}run r
   set state = case when r.cancel_requested_at is null then 'waiting' else 'cancelled' end,
       reason = case when r.cancel_requested_at is null then 'queued' end,
       attempt = r.attempt - 1, slot_held = false
  from gone where r.id = gone.run_id and r.attempt = gone.attempt and r.state = 'running' returning r.id"""

# A running attempt and a stuck thread both hold the slot of their run, and few slots are held at a time.
_CLOSE = """lost as (
  update {p}run_attempt a set state = 'lost', finished_at = clock_timestamp()
    from gone where a.instance_id = gone.instance_id and a.state = 'running' returning a.id, a.run_id, a.attempt),
left_open as (
  select id as attempt_id, run_id, attempt from lost
  union all
  select null, r.id, r.attempt from gone, {p}run r join {p}run_attempt a on a.run_id = r.id and a.attempt = r.attempt
   where r.lock_id = :lock_id and r.slot_held and a.instance_id = gone.instance_id and a.state <> 'running'),
closed as (
  update {p}run r
     set state = case when o.attempt_id is null then r.state else 'lost' end, slot_held = false
    from left_open o
   where r.id = o.run_id and r.attempt = o.attempt and r.state <> 'waiting' and r.lock_id = :lock_id
  returning r.id, r.job_id, r.scheduled_at, o.attempt_id, r.attempt)"""

_MARK_LOST = (
    _FENCE
    + """, gone as (
  select :gone as instance_id from fence
   where not exists (select 1 from {p}replica p where p.instance_id = :gone and p.seen_at is distinct from :seen)),
"""
    + _CLOSE
    + """
select (select count(*) from fence), c.attempt_id, c.id, c.attempt, c.job_id, c.scheduled_at
  from (select 1) one left join closed c on c.attempt_id is not null order by c.attempt_id"""
)

_SIGN_OUT = (
    "with gone as (select :gone as instance_id), removed as (delete from {p}replica where instance_id = :gone), "
    + _CLOSE
    + " select count(*) from closed"
)

_PRUNE = (
    _FENCE
    + """, chosen as (select * from {p}job_state where lock_id = :lock_id order by random() limit 100),
old as (
  select r.id from fence, chosen s
    left join lateral (
      select id from {p}run where lock_id = s.lock_id and job_id = s.job_id order by id desc offset :keep_runs limit 1
    ) surplus on true
    cross join lateral (
      select * from {p}run where lock_id = s.lock_id and job_id = s.job_id order by id limit 50) r
   where r.state not in ('waiting', 'running') and not r.slot_held
     and coalesce(r.until, r.scheduled_at) <= s.settled_until
     and (r.decided_at < clock_timestamp() - :keep_for or r.id <= surplus.id)
   limit :most),
pruned as (delete from {p}run r using old where r.id = old.id returning r.id),
replicas as (
  delete from {p}replica p using fence where p.lock_id = :lock_id and p.seen_at < clock_timestamp() - interval '1 hour'
     and not exists (select 1 from {p}run_attempt a where a.instance_id = p.instance_id and a.state = 'running')),
terms as (
  delete from {p}leader_term t using fence where t.lock_id = :lock_id and t.term < fence.term
     and t.acquired_at < clock_timestamp() - :keep_for)
select (select count(*) from fence), (select count(*) from pruned)"""
)


class PostgresLedger(LedgerReads):
    """The ledger of one election on PostgreSQL."""

    def adopt(self, lease: Lease, specs: Sequence[JobSpec]) -> Adoption | None:
        """Make the job table agree with `specs`; see Ledger."""
        row = self._one(
            _ADOPT,
            {
                "absent": Interval,
                "jobs": _TEXTS,
                "schedules": _TEXTS,
                "timezones": _TEXTS,
                "enabled": _BOOLS,
                "exclusive": _BOOLS,
            },
            **self._fence_values(lease),
            jobs=[spec.id for spec in specs],
            exclusive=[spec.exclusive for spec in specs],
            schedules=[spec.schedule.canonical for spec in specs],
            timezones=[spec.schedule.timezone for spec in specs],
            enabled=[spec.enabled for spec in specs],
            absent=ABSENT_AFTER,
        )
        if not row[0]:
            return None
        now, states = self._all_states({spec.id for spec in specs})
        return Adoption(now, states, tuple(row[1]), tuple(row[2]), row[3])

    def settle(self, lease: Lease, settlements: Sequence[Settlement]) -> frozenset[str] | None:
        """Write decisions for a batch of jobs; see Ledger."""
        batch = sorted(settlements, key=lambda one: one.state.job_id)
        rows = [(one, decision) for one in batch for decision in one.decisions]
        gone = [(one.state.job_id, run_id, str(reason)) for one in batch for run_id, reason in one.withdrawn]
        row = self._one(
            _SETTLE,
            {
                **dict.fromkeys(("jobs", "schedules", "timezones", "run_jobs", "kinds", "states", "reasons"), _TEXTS),
                **dict.fromkeys(("since", "until", "paused_at", "paused_until", "ticks", "untils", "dues"), _TIMES),
                **dict.fromkeys(("enabled", "resumed", "exclusive"), _BOOLS),
                "withdrawn_jobs": _TEXTS,
                "withdrawn": _IDS,
                "withdrawn_reasons": _TEXTS,
            },
            **self._fence_values(lease),
            jobs=[one.state.job_id for one in batch],
            since=[one.state.settled_until for one in batch],
            until=[one.until for one in batch],
            paused_at=[one.state.paused_at for one in batch],
            paused_until=[one.state.paused_until for one in batch],
            schedules=[one.schedule for one in batch],
            timezones=[one.timezone for one in batch],
            enabled=[one.enabled for one in batch],
            resumed=[one.resumed for one in batch],
            run_jobs=[one.state.job_id for one, _ in rows],
            ticks=[decision.scheduled_at for _, decision in rows],
            untils=[decision.until for _, decision in rows],
            dues=[decision.due_at for _, decision in rows],
            kinds=[str(decision.kind) for _, decision in rows],
            states=[str(decision.state) for _, decision in rows],
            reasons=[str(decision.reason) for _, decision in rows],
            exclusive=[one.exclusive for one, _ in rows],
            withdrawn_jobs=[job_id for job_id, _, _ in gone],
            withdrawn=[run_id for _, run_id, _ in gone],
            withdrawn_reasons=[reason for _, _, reason in gone],
        )
        return frozenset(row[1]) if row[0] else None

    def start(self, lease: Lease, claim_id: str, runs: Sequence[tuple[Run, bool]], sent: float) -> list[Attempt] | None:
        """Make attempts of waiting runs; see Ledger."""
        rows = self._all(
            _START,
            {"runs": _IDS, "exclusive": _BOOLS},
            **self._fence_values(lease),
            claim=claim_id,
            runs=[run.id for run, _ in runs],
            exclusive=[exclusive for _, exclusive in runs],
        )
        if not rows[0][0]:
            return None
        begun = [(row[1], row[2], row[3], lease.term, lease.leader_id, row[4]) for row in rows if row[1] is not None]
        return self._attempts(begun, [run for run, _ in runs], sent)

    def unstart(self, instance_id: str, attempt_ids: Sequence[int]) -> int:
        """Delete attempts that certainly never began; their runs wait again."""
        return len(self._all(_UNSTART, {"attempts": _IDS}, attempts=list(attempt_ids), me=instance_id))

    def finish(self, finished: Sequence[Finished]) -> None:
        """Close attempts, and their runs where the attempt is the newest."""
        batch = sorted(finished, key=lambda one: one.attempt.id)
        spoken = [one for one in batch if one.outcome.output]
        self._all(
            _FINISH,
            {
                "attempts": _IDS,
                **dict.fromkeys(("states", "errors", "results", "outputs"), _TEXTS),
                "exit_codes": _INTS,
                "seconds": _FLOATS,
                "returned": _BOOLS,
                "output_ids": _IDS,
                "truncated": _BOOLS,
            },
            attempts=[one.attempt.id for one in batch],
            states=[str(one.outcome.state) for one in batch],
            errors=[_storable(one.outcome.error) for one in batch],
            exit_codes=[one.outcome.exit_code for one in batch],
            results=[_storable(one.outcome.result) for one in batch],
            seconds=[one.outcome.seconds for one in batch],
            returned=[one.outcome.returned for one in batch],
            output_ids=[one.attempt.id for one in spoken],
            outputs=[_storable(one.outcome.output) for one in spoken],
            truncated=[one.outcome.truncated for one in spoken],
        )

    def sign_out(self, instance_id: str) -> None:
        """Close what is still open under this name as lost, free its slots and remove its row."""
        self._all(_SIGN_OUT, {"gone": Text()}, gone=instance_id)

    def _sign_in_rows(self, values: dict[str, Any]) -> tuple[Any, Any]:
        rows = self._rows(
            f"""with me as ({SIGN_IN})
                select (select seen_at from me), q.* from (select 1) one left join ({PEERS}) q on true""",
            **values,
        )
        return rows[0][0], [row[1:] for row in rows if row[1] is not None]

    def mark_lost(self, lease: Lease, instance_id: str, seen_at: Any) -> list[LostAttempt] | None:
        """Close what a replica left open; see Ledger."""
        rows = self._all(
            _MARK_LOST,
            {"gone": Text(), "seen": DateTime(timezone=True)},
            **self._fence_values(lease),
            gone=instance_id,
            seen=seen_at,
        )
        if not rows[0][0]:
            return None
        return [
            LostAttempt(row[1], row[2], row[3], row[4], self.known_moment(row[5])) for row in rows if row[1] is not None
        ]

    def prune(self, lease: Lease, keep_for: timedelta, keep_runs: int, limit: int) -> int | None:
        """Remove closed rows that are too old or too many, at most `limit`."""
        row = self._one(
            _PRUNE,
            {"keep_for": Interval},
            **self._fence_values(lease),
            keep_for=keep_for,
            keep_runs=keep_runs,
            most=limit,
        )
        return int(row[1]) if row[0] else None

    def _all_states(self, wanted: set[str]) -> tuple[Any, tuple[JobState, ...]]:
        rows = self._rows(
            """select {now}, job_id, schedule, timezone, enabled, accountable_from, settled_until, paused_at,
                      paused_until from (select 1) one left join {p}job_state on lock_id = :lock_id"""
        )
        states = tuple(JobState(*row[1:]) for row in rows if row[1] in wanted)
        return rows[0][0], states

    def _one(self, statement: str, types: dict[str, Any], **values: Any) -> Any:
        return self._all(statement, types, **values)[0]

    def _all(self, statement: str, types: dict[str, Any], **values: Any) -> Any:
        clause = self._texts.get(statement)
        if clause is None:
            clause = text(statement.replace("{p}", self._database.prefix))
            clause = clause.bindparams(*(bindparam(name, type_=type_) for name, type_ in types.items()))
            self._texts[statement] = clause
        with self._database.connect() as connection:
            result = connection.execute(clause, self._values(statement, values))
            return result.fetchall() if result.returns_rows else []


def _storable(value: str | None) -> str | None:
    """PostgreSQL has no NUL in text."""
    return None if value is None else value.replace("\x00", "\N{REPLACEMENT CHARACTER}")
