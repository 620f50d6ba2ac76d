"""The ledger's statements on PostgreSQL, each of which commits itself.

What a leader writes as leader begins with the fence of `leases.postgresql`: it locks the lease row while it
writes, so nothing of a term commits after its takeover, whatever any clock says (I4).  `{p}` is the schema.
"""

from __future__ import annotations

from scheduler_service.leases.postgresql import FENCE

_FENCE = "with fence as materialized (" + FENCE.format(prefix="{p}").replace(":id", ":lock_id") + ")"

ADOPT = (
    _FENCE
    + """, j as (
  select * from fence, unnest(:jobs, :schedules, :timezones, :enabled, :limits)
         as j (job_id, schedule, timezone, enabled, max_running)),
newest as (select max(present_at) as present_at from {p}job_state where lock_id = :lock_id),
t as materialized (
  -- One moment for all jobs, later than any before, whatever the clock did: who has it is configured.
  select clock_timestamp() as now, greatest(clock_timestamp(), newest.present_at + interval '1 microsecond') as noted_at
    from fence, newest),
known as materialized (
  -- By one snapshot: a statement before this one may still go on, its answer lost, and change what is looked at here.
  -- A job that was settled was there, though that was noted longer ago.
  select s.job_id, away.absent, j.job_id is not null as configured,
         j.enabled and (not s.enabled or away.absent) as returns
    from {p}job_state s left join j using (job_id) cross join newest
    cross join lateral (
      select greatest(s.present_at, s.settled_until) < newest.present_at - :absent as absent) away
   where s.lock_id = :lock_id),
added as (
  insert into {p}job_state (lock_id, job_id, schedule, timezone, enabled, accountable_from, settled_until, present_at,
                            max_running)
  select :lock_id, j.job_id, j.schedule, j.timezone, j.enabled, t.now, t.now, t.noted_at, j.max_running
    from j cross join t where not exists (select 1 from known k where k.job_id = j.job_id)
  -- Such a statement may have added it after the snapshot.
  on conflict (lock_id, job_id) do update set present_at = excluded.present_at, max_running = excluded.max_running
  returning job_id),
returned as (
  update {p}job_state s
     set enabled = true, schedule = j.schedule, timezone = j.timezone, present_at = t.noted_at,
         max_running = j.max_running,
         accountable_from = greatest(s.settled_until, t.now), settled_until = greatest(s.settled_until, t.now)
    from j join known k using (job_id) cross join t
   where s.lock_id = :lock_id and s.job_id = j.job_id and k.returns returning s.job_id),
present as (
  update {p}job_state s set present_at = t.noted_at, max_running = j.max_running
    from j join known k using (job_id) cross join t
   where s.lock_id = :lock_id and s.job_id = j.job_id and not k.returns),
cancelled as (
  update {p}run r
     set state = 'cancelled', reason = null, cancel_requested_at = coalesce(r.cancel_requested_at, t.now),
         cancel_requested_by = case when r.cancel_requested_at is not null then r.cancel_requested_by
                                    when r.job_id = any (:jobs) then :disables else :drops end
    from t
   where r.lock_id = :lock_id and r.state = 'waiting'
     and not exists (select 1 from j where j.job_id = r.job_id and (j.enabled or r.kind = 'manual'))
     -- One that has only just left may be in the file of the next leader; so may one that nobody noted, for nobody led.
     and not exists (select 1 from known k where k.job_id = r.job_id and not k.configured
                        and not (k.absent and :led_since <= t.now - :absent))
  returning r.job_id)
select (select count(*) from fence), (select coalesce(json_agg(job_id), '[]') from added),
       (select coalesce(json_agg(job_id), '[]') from returned),
       (select coalesce(json_object_agg(job_id, count), '{}')
          from (select job_id, count(*) as count from cancelled group by job_id) counted)"""
)

SETTLE = (
    _FENCE
    + """, swapped as (
  update {p}job_state s
     set settled_until = j.until, schedule = j.schedule, timezone = j.timezone, enabled = j.enabled,
         paused_at = case when j.resumed then null else s.paused_at end,
         paused_until = case when j.resumed then null else s.paused_until end,
         paused_by = case when j.resumed then null else s.paused_by end,
         pause_reason = case when j.resumed then null else s.pause_reason end,
         resumed_by = case when j.resumed then null else s.resumed_by end
    from fence, json_to_recordset(cast(:spans as json))
         as j (job_id text, since timestamptz, until timestamptz, paused_at timestamptz, paused_until timestamptz,
               schedule text, timezone text, enabled boolean, resumed boolean)
   where s.lock_id = :lock_id and s.job_id = j.job_id and s.settled_until = j.since
     and s.paused_at is not distinct from j.paused_at and s.paused_until is not distinct from j.paused_until
     and j.until >= s.settled_until and j.until <= clock_timestamp()
  returning s.job_id),
d as (
  select * from swapped join json_to_recordset(cast(:decisions as json))
         as d (job_id text, scheduled_at timestamptz, until timestamptz, due_at timestamptz, kind text, state text,
               reason text, pausing boolean, requested_by text) using (job_id)),
extended as (
  -- A pause that goes on is one row for each leader, not one for each tick.
  update {p}run r set until = d.until, decided_at = clock_timestamp()
    from d cross join lateral (
      select l.id, l.reason, l.decided_by from {p}run l
       where l.lock_id = :lock_id and l.job_id = d.job_id and l.kind in ('scheduled', 'catch_up', 'range')
       order by l.scheduled_at desc limit 1) newest
   where d.pausing and newest.reason = 'paused' and newest.decided_by = :me and r.id = newest.id
  returning r.job_id),
decided as (
  insert into {p}run (lock_id, job_id, scheduled_at, until, due_at, kind, state, reason, decided_at, decided_by,
                      requested_by)
  select :lock_id, d.job_id, d.scheduled_at, d.until, d.due_at, d.kind, d.state, d.reason, clock_timestamp(), :me,
         d.requested_by
    from d where d.pausing is not true or not exists (select 1 from extended e where e.job_id = d.job_id)
  on conflict (lock_id, job_id, scheduled_at) where kind in ('scheduled', 'catch_up', 'range') do nothing
  returning id),
withdrawn as (
  update {p}run r set state = 'missed', reason = w.reason, decided_at = clock_timestamp(), decided_by = :me
    from swapped join unnest(:withdrawn_jobs, :withdrawn, :withdrawn_reasons) as w (job_id, id, reason) using (job_id)
   where r.id = w.id and r.state = 'waiting' and r.attempt = 0 returning r.id),
replaced as (
  update {p}run r
     set state = case when r.state = 'waiting' then 'cancelled' else r.state end, reason = null,
         cancel_requested_at = clock_timestamp(), cancel_requested_by = x.by
    from swapped join unnest(:replaced_jobs, :replaced, :replaced_by) as x (job_id, id, by) using (job_id)
   where r.id = x.id and r.state in ('waiting', 'running') and r.cancel_requested_at is null returning r.id)
select (select count(*) from fence), (select coalesce(json_agg(job_id), '[]') from swapped)"""
)

START = (
    _FENCE
    + """, held as materialized (
  -- Once: asked for each run, the index would be walked each time, with all that was held since the last vacuum.
  select job_id, slot from {p}run where lock_id = :lock_id and slot_held),
candidates as materialized (
  -- By their numbers alone: were it known here that they wait, all that waits would be walked for each of them,
  -- because there was hardly any of it when the planner last looked.
  select r.id, r.lock_id, r.job_id, r.scheduled_at, r.due_at, r.state, r.slot_held, r.cancel_requested_at, w.max_running
    from {p}run r join unnest(:runs, :limits) as w (id, max_running) on w.id = r.id),
wanted as (
  select r.id, r.job_id, r.max_running,
         row_number() over (partition by r.job_id order by r.scheduled_at, r.id) as turn,
         coalesce(h.count, 0) as held
    from candidates r
    left join (select job_id, count(*) as count from held group by job_id) h on h.job_id = r.job_id
    left join {p}job_state s on s.lock_id = r.lock_id and s.job_id = r.job_id
   where r.state = 'waiting' and r.due_at <= clock_timestamp() and r.cancel_requested_at is null
     and (s.paused_at is null or s.paused_at > clock_timestamp() or s.paused_until <= clock_timestamp())
     and not (r.slot_held and r.max_running is not null)),
free as (
  select j.job_id, s.slot, row_number() over (partition by j.job_id order by s.slot) as turn
    from (select distinct job_id, max_running from wanted where max_running is not null) j
    cross join lateral generate_series(0, j.max_running - 1) as s (slot)
   where not exists (select 1 from held where held.job_id = j.job_id and held.slot = s.slot)),
picked as (
  -- The indexes on held slots are the second line of defence.
  update {p}run r
     set state = 'running', reason = null, attempt = r.attempt + 1, exclusive = w.max_running is not distinct from 1,
         slot = free.slot, slot_held = true
    from fence, wanted w left join free on free.job_id = w.job_id and free.turn = w.turn
   where r.id = w.id and coalesce(r.state) = 'waiting' and r.cancel_requested_at is null  -- coalesce: as above
     and (w.max_running is null or (free.slot is not null and w.turn <= w.max_running - w.held))
  returning r.id, r.attempt),
begun as (
  insert into {p}run_attempt (run_id, attempt, term, instance_id, claim_id, state, started_at)
  select p.id, p.attempt, fence.term, :me, :claim, 'running', clock_timestamp() from picked p, fence
  returning id, run_id, attempt, started_at)
select (select count(*) from fence), b.id, b.run_id, b.attempt, b.started_at
  from (select 1) one left join begun b on true order by b.id"""
)

# Written, not read: where commits wait for a standby, a start that waited in vain is seen and yet may be forgotten with
# this server.  What is written after it cannot be committed without it.
CLAIMED = """with mine as (
  update {p}run_attempt set claim_id = claim_id where claim_id = :claim and state = 'running'
  returning id, run_id, attempt, term, instance_id, started_at)
select * from mine order by id"""

# A database that has forgotten a start (a promoted standby) gives its number again; the moment tells them apart.
FINISH = """with f as (
  select t.* from unnest(:attempts, :began, :runs, :numbers, :states, :errors, :exit_codes, :results, :seconds,
                         :returned, :retries, :memories)
         as t (id, started_at, run_id, attempt, state, error, exit_code, result, seconds, returned, retry, memory)
    join {p}run_attempt a on a.id = t.id and a.started_at = t.started_at),
done as (
  update {p}run_attempt a
     set state = f.state, error = f.error, exit_code = f.exit_code, result = f.result, peak_memory_bytes = f.memory,
         finished_at = a.started_at + make_interval(secs => f.seconds)
    from f where a.id = f.id and a.state in ('running', 'lost')
  returning a.id),
kept as (
  insert into {p}run_output (attempt_id, text, truncated)
  select o.id, o.text, o.truncated from unnest(:output_ids, :outputs, :truncated) as o (id, text, truncated)
    join f on f.id = o.id
  on conflict (attempt_id) do update set text = excluded.text, truncated = excluded.truncated),
ended as (
  -- Looked up in an array, because the planner takes `done` for one row and would walk it for each.
  select f.*, f.id = any (array(select id from done)) as closes,
         f.started_at + make_interval(secs => f.seconds) + make_interval(secs => f.retry) as again_at
    from f)
update {p}run r
   set state = case when not e.closes then r.state
                    when e.again_at is not null and r.cancel_requested_at is null then 'waiting' else e.state end,
       reason = case when not e.closes then r.reason
                     when e.again_at is not null and r.cancel_requested_at is null then 'retry' end,
       due_at = case when e.closes and e.again_at is not null and r.cancel_requested_at is null then e.again_at
                     else r.due_at end,
       slot_held = r.slot_held and not e.returned
  from ended e
 where r.id = e.run_id and r.attempt = e.attempt
   and case when e.closes then r.state in ('running', 'lost', 'waiting') else r.slot_held and e.returned end"""

# Why the run waits is told as it was before.
UNSTART = """with gone as (
  delete from {p}run_attempt
   where id = any (:attempts) and instance_id = :me and state = 'running' returning run_id, attempt)
update {p}run r
   set state = case when r.cancel_requested_at is null then 'waiting' else 'cancelled' end,
       reason = case when r.cancel_requested_at is not null then null
                     when gone.attempt = 1 then case r.kind when 'manual' then 'requested' else 'queued' end
                     when exists (select 1 from {p}run_attempt a where a.run_id = r.id
                                     and a.attempt = gone.attempt - 1 and a.state = 'lost') then 'rerun'
                     else 'retry' end,
       attempt = r.attempt - 1, slot_held = false
  from gone where r.id = gone.run_id and r.attempt = gone.attempt and r.state = 'running' returning r.id"""

# A running attempt and a stuck thread both hold the slot of their run, and few slots are held at a time.
# Whether somebody asked the run to stop is read from the row as it is when it is locked, not from `w`: a run
# that waits again although it shall stop is never started and never ends.
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
     set state = case when o.attempt_id is null then r.state
                      when o.again and r.cancel_requested_at is null then 'waiting' else 'lost' end,
         reason = case when o.attempt_id is null then r.reason
                       when o.again and r.cancel_requested_at is null then 'rerun' end,
         due_at = case when o.again and r.cancel_requested_at is null then clock_timestamp() else r.due_at end,
         slot_held = false
    from (select left_open.*, left_open.attempt_id is not null and exists (
                   select 1 from unnest(:limited, :limits) as l (job_id, starts)
                    where l.job_id = w.job_id and w.attempt < l.starts) as again
            from left_open join {p}run w on w.id = left_open.run_id) o
   where r.id = o.run_id and r.attempt = o.attempt and r.lock_id = :lock_id
     and (o.attempt_id is null or r.state <> 'waiting')
  returning r.id, r.job_id, r.scheduled_at, o.attempt_id, r.attempt,
            o.again and r.cancel_requested_at is null as again)"""

MARK_LOST = (
    _FENCE
    + """, gone as (
  select :gone as instance_id from fence
   where not exists (select 1 from {p}replica p where p.instance_id = :gone and p.seen_at is distinct from :seen)),
"""
    + _CLOSE
    + """
select (select count(*) from fence), c.attempt_id, c.id, c.attempt, c.job_id, c.scheduled_at, c.again
  from (select 1) one left join closed c on c.attempt_id is not null order by c.attempt_id"""
)

SIGN_OUT = (
    "with gone as (select :gone as instance_id), removed as (delete from {p}replica where instance_id = :gone), "
    + _CLOSE
    + " select count(*) from closed"
)

PRUNE = (
    _FENCE
    + """, chosen as (
  select s.* from unnest(:jobs) with ordinality as j (job_id, place)
    join {p}job_state s on s.lock_id = :lock_id and s.job_id = j.job_id order by j.place),
old as (
  -- A range of one job, and ordered by it: so no index will do but that of a job's runs.  In the order of `id` alone,
  -- the whole history may be walked through in search of a job that has few.
  select r.id from fence, chosen s
    left join lateral (
      select id from {p}run where lock_id = s.lock_id and job_id between s.job_id and s.job_id
       order by job_id desc, id desc offset :keep_runs limit 1
    ) surplus on true
    cross join lateral (
      select * from {p}run where lock_id = s.lock_id and job_id between s.job_id and s.job_id
       order by job_id, id limit 50) r
   where r.state not in ('waiting', 'running') and not r.slot_held
     and (r.kind = 'manual' or coalesce(r.until, r.scheduled_at) <= s.settled_until)
     and (r.decided_at < clock_timestamp() - :keep_for or r.id <= surplus.id)
   limit :most),
pruned as (
  -- Asked again of the row as it is when it is locked: a late result may let a lost run wait again.
  delete from {p}run r using old
   where r.id = old.id and r.state not in ('waiting', 'running') and not r.slot_held returning r.job_id),
replicas as (
  delete from {p}replica p using fence where p.lock_id = :lock_id and p.seen_at < clock_timestamp() - interval '1 hour'
     and not exists (select 1 from {p}run_attempt a where a.instance_id = p.instance_id and a.state = 'running')),
terms as (
  delete from {p}leader_term t using fence where t.lock_id = :lock_id and t.term < fence.term
     and t.acquired_at < clock_timestamp() - :keep_for)
select (select count(*) from fence), (select count(*) from pruned),
       (select coalesce(json_agg(job_id), '[]') from (
          select job_id from pruned group by job_id having count(*) >= :busy) busy)"""
)
