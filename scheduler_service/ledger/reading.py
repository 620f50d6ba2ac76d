"""What both databases answer to the same words: reads, and writes that need no fence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, TextClause, bindparam, text

from scheduler_service.database import Database
from scheduler_service.ledger import (
    ABSENT_AFTER,
    Held,
    JobState,
    OpenRun,
    Peer,
    Poll,
    Replica,
    Settlement,
    SignedIn,
    Survey,
)
from scheduler_service.model import Attempt, Decision, Kind, Lease, Reason, Run, State
from scheduler_service.tables import DATABASE_TIME, from_microseconds, to_microseconds

STATE_COLUMNS = """job_id, schedule, timezone, enabled, accountable_from, settled_until, paused_at, paused_until,
  paused_by, pause_reason, resumed_by, max_running"""
_STATE_WIDTH = STATE_COLUMNS.count(",") + 1
_RUN_COLUMNS = "r.id, r.job_id, r.scheduled_at, r.due_at, r.kind, r.state, r.attempt"
_OPEN_COLUMNS = f"{_RUN_COLUMNS}, r.instance_id, r.seen_at, r.cancelled"
_NO_STATE, _NO_OPEN_RUN = (", ".join(["null"] * (columns.count(",") + 1)) for columns in (STATE_COLUMNS, _OPEN_COLUMNS))
_NEWEST_NOTE = "(select max(present_at) from {p}job_state where lock_id = :lock_id)"
YIELDING_SECONDS = 600  # for so long what is caught up on lets what is on time pass
PAUSE_SHOWN_SECONDS = 5  # for so long a poll tells of a new pause
ABSENT_SECONDS = int(ABSENT_AFTER.total_seconds())

SIGN_IN = """insert into {p}replica as r
    (instance_id, lock_id, host, pid, version, config_hash, config_loaded_at, started_at, seen_at)
  values (:me, :lock_id, :host, :pid, :version, :hash, {now}, {now}, {now})
  on conflict (instance_id) do update set seen_at = excluded.seen_at, config_hash = excluded.config_hash,
    config_loaded_at = case when r.config_hash = excluded.config_hash
                            then r.config_loaded_at else excluded.config_loaded_at end
  returning seen_at"""

# A slot outlives its attempt where a thread went on after its time-out: its holder is watched too.  Each of
# the first two parts has an index of its own, so that the answer does not grow with the history.
PEERS = """select a.instance_id, a.id, a.started_at, a.claim_id, p.seen_at, a.state, p.config_hash,
         case when r.cancel_requested_at is not null then coalesce(r.cancel_requested_by, 'somebody') end as stopped_by
    from {p}run_attempt a join {p}run r on r.id = a.run_id and r.lock_id = :lock_id
    left join {p}replica p on p.instance_id = a.instance_id
   where a.state = 'running'
  union all
  select a.instance_id, a.id, a.started_at, a.claim_id, p.seen_at, a.state, p.config_hash, null
    from {p}run r join {p}run_attempt a on a.run_id = r.id and a.attempt = r.attempt and a.state <> 'running'
    left join {p}replica p on p.instance_id = a.instance_id
   where r.lock_id = :lock_id and r.slot_held
  union all
  select p.instance_id, null, null, null, p.seen_at, null, p.config_hash, null
    from {p}replica p where p.lock_id = :lock_id"""


def asker(settlement: Settlement, decision: Decision) -> str | None:
    """Return who asked for what is decided: whoever paused the job, for the ticks of its pause."""
    return settlement.state.paused_by if decision.reason is Reason.PAUSED else None


class LedgerReads:
    """The part of the ledger that does not depend on how a write is made atomic."""

    def __init__(self, database: Database, lock_id: int) -> None:
        self._database = database
        self._lock_id = lock_id
        self._now = DATABASE_TIME[database.dialect]
        self._texts: dict[str, TextClause] = {}

    def recall(self, limit: int) -> tuple[tuple[JobState, ...], Survey]:
        """Read jobs that an adoption would leave as they are, those settled last first, and survey them."""
        # Adoptions say whom they call absent: who was neither noted nor settled for so long before the newest note.
        # Of a new table the server knows too little to join: it would compare each job with each run, or with each.
        among = "in (select job_id from recalled)"
        if self._database.dialect == "postgresql":
            among = "= any (array(select job_id from recalled))"
        rows = self._rows(
            f"""with recalled as (
                  select {STATE_COLUMNS} from {{p}}job_state
                   where lock_id = :lock_id and enabled
                     and (present_at >= {self._ago(ABSENT_SECONDS, _NEWEST_NOTE)}
                          or settled_until >= {self._ago(ABSENT_SECONDS, _NEWEST_NOTE)})
                   order by settled_until desc, job_id limit :most)
                select t.now, s.*, {_NO_OPEN_RUN} from (select {{now}} as now) t left join recalled s on true
                union all
                select null, {_NO_STATE}, {_OPEN_COLUMNS} from {self._open_runs(among)}""",
            most=limit,
        )
        told = [row for row in rows if row[0] is not None]
        states = [self.job_state(row[1 : 1 + _STATE_WIDTH]) for row in told if row[1] is not None]
        states.sort(key=lambda one: one.job_id)
        states.sort(key=lambda one: one.settled_until, reverse=True)
        runs = [row[1 + _STATE_WIDTH :] for row in rows if row[0] is None]
        return tuple(states), self._survey(told[0][0], sorted(runs, key=lambda row: (row[2], row[0])))

    def job_states(self, job_ids: Sequence[str]) -> tuple[JobState, ...]:
        """Read the state of some jobs."""
        with self._database.connect() as connection:
            return self._job_states(connection, job_ids)

    def job_ids(self) -> list[str]:
        """Read the ids of all jobs that the ledger knows."""
        return [row[0] for row in self._rows("select job_id from {p}job_state where lock_id = :lock_id")]

    def survey(self, job_ids: Sequence[str]) -> Survey:
        """Read the time and the open runs of some jobs, oldest tick first; with those whose code goes on."""
        # One statement, so that the time and the runs belong together: the row of the time is always there.
        rows = self._rows(
            f"""select t.now, {_OPEN_COLUMNS} from (select {{now}} as now) t
                  left join {self._open_runs("in :jobs")} on true order by r.scheduled_at, r.id""",
            jobs=list(job_ids),
        )
        return self._survey(rows[0][0], [row[1:] for row in rows if row[1] is not None])

    def _open_runs(self, jobs: str) -> str:
        """Return what to select _OPEN_COLUMNS from, of those jobs: with their holders."""
        return f"""(
          select o.*, o.cancel_requested_at is not null as cancelled, a.instance_id, p.seen_at from (
            select * from {{p}}run where lock_id = :lock_id and job_id {jobs} and state in ('waiting', 'running')
            union all
            select * from {{p}}run
             where lock_id = :lock_id and job_id {jobs} and slot_held and state not in ('waiting', 'running')) o
          left join {{p}}run_attempt a on o.state <> 'waiting' and a.run_id = o.id and a.attempt = o.attempt
          left join {{p}}replica p on p.instance_id = a.instance_id) r"""

    def _survey(self, now: Any, rows: Sequence[Any]) -> Survey:
        """Return what the rows of open runs say."""
        runs = (OpenRun(self._run(row, instance_id=row[7]), self.moment(row[8]), bool(row[9])) for row in rows)
        return Survey(self.known_moment(now), tuple(runs))

    def poll(self, limit: int, without: Sequence[str] = (), among: Sequence[str] | None = None) -> Poll:
        """Read what there is to do; see Ledger."""
        # One statement, because an idle leader sends it every second.  Of a job with slots as many runs may start
        # as slots are free, oldest tick first; of one that runs alone none while an older one waits for its next
        # attempt, lest a queue loses its order.  What a person asked for passes by.  Nor may one that still holds
        # the slot of its last attempt, whose thread has not returned.  Turns are counted among the others.  What is
        # caught up on lets what is on time pass, for a while: after an outage of a week it may be tens of thousands.
        chosen = "" if among is None else "and job_id in :among"
        excluded = "and w.job_id not in :without" if without else ""
        rows = self._rows(
            f"""with later as (
                  select job_id, min(scheduled_at) as first from {{p}}run
                   where lock_id = :lock_id and state = 'waiting' and due_at > {{now}} and kind <> 'manual'
                     {chosen}
                   group by job_id),
                due as (
                  select w.*, s.max_running,
                         row_number() over (partition by w.job_id order by w.scheduled_at, w.id) as turn
                    from {{p}}run w
                    left join {{p}}job_state s on s.lock_id = :lock_id and s.job_id = w.job_id
                    left join later on later.job_id = w.job_id
                   where w.lock_id = :lock_id and w.state = 'waiting' and w.due_at <= {{now}}
                     and w.cancel_requested_at is null {chosen.replace("job_id", "w.job_id")} {excluded}
                     and not (w.slot_held and s.max_running is not null)
                     and (coalesce(s.max_running, 0) <> 1 or w.kind = 'manual' or later.first is null
                          or w.scheduled_at <= later.first)
                     and (s.paused_at is null or s.paused_at > {{now}} or s.paused_until <= {{now}})),
                held as (
                  select job_id, count(*) as count from {{p}}run
                   where lock_id = :lock_id and slot_held group by job_id)
                select * from (
                  select {_RUN_COLUMNS}, r.arguments,
                         row_number() over (order by
                           case when r.kind = 'catch_up' and r.decided_at > {self._ago(YIELDING_SECONDS)}
                                then 1 else 0 end, r.due_at, r.id) as place
                    from due r left join held on held.job_id = r.job_id
                   where r.max_running is null or r.turn <= r.max_running - coalesce(held.count, 0)
                   order by place limit :most) ready
                union all
                select null, s.job_id, s.paused_at, s.paused_at, null, null,
                       case when s.paused_until <= {{now}} then 1 else 0 end, null, 0
                  from {{p}}job_state s
                 where s.lock_id = :lock_id and s.paused_at is not null
                   and (s.paused_until <= {{now}} or s.paused_at > {self._ago(PAUSE_SHOWN_SECONDS)})""",
            most=limit,
            **({"without": list(without)} if without else {}),
            **({} if among is None else {"among": list(among)}),
        )
        ready = sorted((row for row in rows if row[0] is not None), key=lambda row: int(row[8]))
        pauses = [(row[1], bool(row[6])) for row in rows if row[0] is None]
        return Poll(
            tuple(self._run(row, arguments=row[7]) for row in ready),
            tuple(job_id for job_id, over in pauses if not over),
            tuple(job_id for job_id, over in pauses if over),
        )

    def _ago(self, seconds: int, moment: str = "{now}") -> str:
        if self._database.dialect == "postgresql":
            return f"{moment} - interval '{seconds} seconds'"
        return f"{moment} - {seconds * 1_000_000}"

    def claimed(self, claim_id: str, runs: Sequence[Run], sent: float) -> list[Attempt]:
        """Read the open attempts that carry `claim_id`."""
        rows = self._rows(
            """select id, run_id, attempt, term, instance_id, started_at from {p}run_attempt
                where claim_id = :claim and state = 'running' order by id""",
            claim=claim_id,
        )
        return self._attempts(rows, runs, sent)

    def still_open(self, attempt_id: int) -> bool:
        """Return whether the attempt is open."""
        return bool(
            self._rows("select 1 from {p}run_attempt where id = :attempt and state = 'running'", attempt=attempt_id)
        )

    def lost_among(self, attempt_ids: Sequence[int]) -> frozenset[int]:
        """Return those of the attempts that were marked lost."""
        rows = self._rows(
            "select id from {p}run_attempt where id in :attempts and state = 'lost'", attempts=list(attempt_ids)
        )
        return frozenset(row[0] for row in rows)

    def sign_in(self, replica: Replica) -> SignedIn:
        """Write the sign of life; read our open attempts and the other replicas."""
        now, rows = self._sign_in_rows(
            {
                "me": replica.instance_id,
                "host": replica.host,
                "pid": replica.pid,
                "version": replica.version,
                "hash": replica.config_hash,
            }
        )
        held: list[Held] = []
        peers: dict[str, Peer] = {}
        for instance_id, attempt_id, started_at, claim_id, seen_at, state, config_hash, cancelled_by in rows:
            if instance_id == replica.instance_id:
                if state == State.RUNNING:
                    held.append(Held(attempt_id, self.known_moment(started_at), claim_id or "", cancelled_by))
                continue
            known = peers.get(instance_id)
            count = (known.open_count if known else 0) + (attempt_id is not None)
            peers[instance_id] = Peer(instance_id, self.moment(seen_at), count, config_hash)
        return SignedIn(self.known_moment(now), tuple(held), tuple(peers.values()))

    def moment(self, value: Any) -> datetime | None:
        """Return a time as the driver gives it as a datetime."""
        return from_microseconds(value) if isinstance(value, int) else value

    def known_moment(self, value: Any) -> datetime:
        """Return a time that is never null."""
        moment = self.moment(value)
        if moment is None:
            raise TypeError("a time that is never null was null")
        return moment

    def stamp(self, moment: datetime | None) -> Any:
        """Return a datetime as the driver wants it."""
        if moment is None or self._database.dialect == "postgresql":
            return moment
        return to_microseconds(moment)

    def _sign_in_rows(self, values: dict[str, Any]) -> tuple[Any, Any]:
        with self._signing_in() as connection:
            return self._on(connection, SIGN_IN, **values)[0][0], self._on(connection, PEERS)

    def _signing_in(self) -> AbstractContextManager[Connection]:
        # As short as `lost_after` counts on: a sign of life that hangs must not take the time of those after it.
        return self._database.connect(seconds=self._database.attempt_seconds)

    def _job_states(self, connection: Connection, job_ids: Sequence[str]) -> tuple[JobState, ...]:
        rows = self._on(
            connection,
            f"select {STATE_COLUMNS} from {{p}}job_state where lock_id = :lock_id and job_id in :jobs",
            jobs=list(job_ids),
        )
        return tuple(self.job_state(row) for row in rows)

    def job_state(self, row: Sequence[Any]) -> JobState:
        """Return the values of STATE_COLUMNS as a JobState."""
        job_id, schedule, timezone, enabled, accountable_from, settled_until, paused_at, paused_until, *words = row
        return JobState(
            job_id,
            schedule,
            timezone,
            bool(enabled),
            self.known_moment(accountable_from),
            self.known_moment(settled_until),
            self.moment(paused_at),
            self.moment(paused_until),
            *words,
        )

    def _run(self, row: Sequence[Any], instance_id: str | None = None, arguments: str | None = None) -> Run:
        run_id, job_id, scheduled_at, due_at, kind, state, attempt = row[:7]
        return Run(
            run_id,
            job_id,
            self.known_moment(scheduled_at),
            self.known_moment(due_at),
            Kind(kind),
            State(state),
            attempt,
            instance_id,
            arguments,
        )

    def _attempts(self, rows: Sequence[Sequence[Any]], runs: Sequence[Run], sent: float) -> list[Attempt]:
        by_id = {run.id: run for run in runs}
        attempts = []
        for attempt_id, run_id, number, term, instance_id, started_at in rows:
            run = by_id[run_id]
            started = self.known_moment(started_at)
            attempts.append(
                Attempt(
                    attempt_id,
                    run_id,
                    number,
                    run.job_id,
                    run.scheduled_at,
                    run.due_at,
                    run.kind,
                    term,
                    instance_id,
                    started,
                    sent,
                    run.arguments,
                )
            )
        return attempts

    def _fence_values(self, lease: Lease) -> Mapping[str, Any]:
        return {"me": lease.leader_id, "term": lease.term}

    def _rows(self, statement: str, **values: Any) -> Sequence[Any]:
        with self._database.connect() as connection:
            return self._on(connection, statement, **values)

    def _on(self, connection: Connection, statement: str, **values: Any) -> Sequence[Any]:
        result = connection.execute(self._text(statement, values), self._values(statement, values))
        return result.fetchall() if result.returns_rows else []

    def _values(self, statement: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, "lock_id": self._lock_id} if ":lock_id" in statement else dict(values)

    def _text(self, statement: str, values: Mapping[str, Any]) -> TextClause:
        clause = self._texts.get(statement)
        if clause is None:
            words = statement.replace("{p}", self._database.prefix).replace("{now}", self._now)
            clause = with_lists(words, values, self._database.dialect)
            self._texts[statement] = clause
        return clause


def with_lists(statement: str, values: Mapping[str, Any], dialect: str) -> TextClause:
    """Return a statement that asks for `… in :name` where the value of that name is a list.

    On PostgreSQL the list is one parameter: with one for each of its elements the statement would be another, to
    be put together and planned anew, for each length.
    """
    names = [name for name, value in values.items() if isinstance(value, list)]
    if dialect == "postgresql":
        for name in names:
            statement = statement.replace(f" not in :{name}", f" <> all(:{name})")
            statement = statement.replace(f" in :{name}", f" = any(:{name})")
        return text(statement)
    return text(statement).bindparams(*(bindparam(name, expanding=True) for name in names))
