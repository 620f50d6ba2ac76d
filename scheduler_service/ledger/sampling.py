"""How the whole service stands, read every few seconds by each replica, leader or not.

One statement a time, whose work does not grow with the history: some jobs, the runs that are open, and the
attempts that have begun or ended since the last time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause

from scheduler_service.database import Database
from scheduler_service.ledger.reading import with_lists
from scheduler_service.model import State
from scheduler_service.tables import DATABASE_TIME, from_microseconds
from scheduler_service.tables.definitions import UNUSUAL

LIVE_SECONDS = 30  # a replica seen within this counts as there
MOST_ATTEMPTS = 2000

# In columns of the same types: what, job, two numbers, two moments, two more numbers, two words.
_SAMPLE = """
select 'totals', cast(null as text),
       (select count(*) from {p}run where lock_id = :lock_id and state = 'waiting'),
       (select count(*) from {p}run where lock_id = :lock_id and state = 'waiting' and due_at <= {now}),
       {now}, {now},
       (select count(*) from {p}run where lock_id = :lock_id and state = 'running'),
       (select count(*) from {p}replica where lock_id = :lock_id and seen_at > {live}),
       cast(null as text), cast(null as text)
union all
select 'job', job_id, case when enabled then 1 else 0 end,
       -- A leader notes all jobs of its configuration with one moment.
       case when present_at = (select max(present_at) from {p}job_state where lock_id = :lock_id) then 1 else 0 end,
       settled_until, settled_until, 0, 0, schedule, timezone
  from {p}job_state where lock_id = :lock_id and job_id in :jobs
union all
select 'paused', job_id, 0, 0, paused_at, paused_until, 0, 0, null, null
  from {p}job_state where lock_id = :lock_id and paused_at is not null
union all
select * from (
  select 'attempt', r.job_id, a.id, case when r.attempt = a.attempt then 1 else 0 end, a.finished_at, a.started_at,
         0, 0, r.state, a.state
    from {p}run_attempt a join {p}run r on r.id = a.run_id and r.lock_id = :lock_id
   where a.id > :since or a.id in :open order by a.id limit :most) began"""

_RECORDS = """
with succeeded as (
  select s.job_id, s.accountable_from,
         (select max(r.id) from {p}run r
           where r.lock_id = :lock_id and r.job_id = s.job_id and r.state = 'succeeded') as run_id
    from {p}job_state s where s.lock_id = :lock_id and s.job_id in :jobs)
select o.job_id, o.accountable_from,
       (select max(a.finished_at) from {p}run_attempt a where a.run_id = o.run_id and a.state = 'succeeded'),
       (select count(*) from {p}run f
         where f.lock_id = :lock_id and f.job_id = o.job_id and f.id > coalesce(o.run_id, 0)
           and f.state in ('failed', 'timed_out', 'lost')),
       (select coalesce(p.until, p.scheduled_at) from {p}run p
         where p.lock_id = :lock_id and p.job_id = o.job_id and p.state = 'skipped' and p.reason = 'paused'
           and p.{unusual}  -- for SQLite to see that an index fits
         order by p.scheduled_at desc limit 1)
  from succeeded o"""

_ATTEMPTS = """
select 'newest', coalesce(max(id), 0) from {p}run_attempt
union all
select 'open', id from {p}run_attempt where state = 'running'"""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is settled, and whether it is among those of the leader's configuration."""

    job_id: str
    enabled: bool
    configured: bool
    settled_until: datetime
    schedule: str
    timezone: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that is over."""

    job_id: str
    state: State
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment of the database."""

    now: datetime
    waiting_count: int  # runs
    due_count: int  # of them, those that could start
    running_count: int
    replica_count: int  # seen lately
    jobs: tuple[JobProgress, ...]  # of those that were asked for
    paused: frozenset[str]  # jobs
    ended: tuple[Ended, ...]  # in the order in which they began
    newest_attempt: int
    open_attempts: frozenset[int]
    more: bool  # more attempts have begun than fit


@dataclass(frozen=True, slots=True)
class Record:
    """How a job has done so far."""

    job_id: str
    accountable_from: datetime
    succeeded_at: datetime | None
    failed_count: int  # runs that failed since
    paused_at: datetime | None  # its last tick that a pause skipped


class Sampler:
    """The reads of one election; each answer may take `seconds`."""

    def __init__(self, database: Database, lock_id: int, seconds: float) -> None:
        self._database = database
        self._lock_id = lock_id
        self._seconds = seconds
        self._clauses: dict[str, TextClause] = {}
        now = DATABASE_TIME[database.dialect]
        ago = f"interval '{LIVE_SECONDS} seconds'" if database.dialect == "postgresql" else str(LIVE_SECONDS * 10**6)
        self._words = {"{p}": database.prefix, "{now}": now, "{live}": f"{now} - {ago}", "{unusual}": UNUSUAL}

    def attempts(self) -> tuple[int, frozenset[int]]:
        """Read the newest attempt, from which on `sample` tells of others, and those that are open."""
        rows = self._rows(_ATTEMPTS)
        return rows[0][1], frozenset(attempt_id for part, attempt_id in rows if part == "open")

    def records(self, job_ids: Collection[str]) -> tuple[Record, ...]:
        """Read how some jobs have done so far."""
        return tuple(
            Record(job_id, _known(accountable_from), _moment(succeeded_at), failed_count, _moment(paused_at))
            for job_id, accountable_from, succeeded_at, failed_count, paused_at in self._rows(
                _RECORDS, jobs=list(job_ids)
            )
        )

    def sample(self, job_ids: Collection[str], newest_attempt: int, open_attempts: Collection[int]) -> Sample:
        """Read how the service stands, with some jobs and what became of attempts.

        `newest_attempt` and `open_attempts` are those of the last sample.
        """
        rows = self._rows(
            _SAMPLE,
            jobs=list(job_ids),
            open=sorted(open_attempts),
            since=newest_attempt,
            most=MOST_ATTEMPTS + len(open_attempts),
        )
        by_part: dict[str, list[Any]] = {"totals": [], "job": [], "paused": [], "attempt": []}
        for part, *columns in rows:
            by_part[part].append(columns)
        _, waiting_count, due_count, moment, _, running_count, replica_count, *_ = by_part["totals"][0]
        now = _known(moment)
        attempts = by_part["attempt"]
        return Sample(
            now=now,
            waiting_count=waiting_count,
            due_count=due_count,
            running_count=running_count,
            replica_count=replica_count,
            jobs=tuple(_progress(columns) for columns in by_part["job"]),
            paused=frozenset(
                job_id
                for job_id, _, _, paused_at, paused_until, *_ in by_part["paused"]
                if _known(paused_at) <= now and (paused_until is None or _known(paused_until) > now)
            ),
            ended=tuple(_ended(attempts)),
            newest_attempt=max([newest_attempt, *(columns[1] for columns in attempts)]),
            open_attempts=frozenset(columns[1] for columns in attempts if columns[-1] == State.RUNNING),
            more=len(attempts) >= MOST_ATTEMPTS + len(open_attempts),
        )

    def _rows(self, statement: str, **values: Any) -> list[Any]:
        clause = self._clauses.get(statement)
        if clause is None:
            words = statement
            for word, meaning in self._words.items():
                words = words.replace(word, meaning)
            clause = self._clauses[statement] = with_lists(words, values, self._database.dialect)
        known = {"lock_id": self._lock_id, **values} if ":lock_id" in statement else values
        with self._database.connect(seconds=self._seconds) as connection:
            return list(connection.execute(clause, known).fetchall())


def _progress(columns: list[Any]) -> JobProgress:
    job_id, enabled, configured, settled_until, _, _, _, schedule, timezone = columns
    return JobProgress(job_id, bool(enabled), bool(configured), _known(settled_until), schedule, timezone)


def _ended(attempts: list[Any]) -> list[Ended]:
    """Return the runs whose newest attempt has ended and that are not to be started again."""
    ended = []
    for job_id, _, is_newest, finished_at, _, _, _, run_state, attempt_state in attempts:
        over = is_newest and attempt_state != State.RUNNING and run_state not in (State.WAITING, State.RUNNING)
        if over and finished_at is not None:
            ended.append(Ended(job_id, State(run_state), _known(finished_at)))
    return ended


def _moment(value: Any) -> datetime | None:
    return from_microseconds(value) if isinstance(value, int) else value


def _known(value: Any) -> datetime:
    moment = _moment(value)
    if moment is None:
        raise TypeError("a time that is never null was null")
    return moment
