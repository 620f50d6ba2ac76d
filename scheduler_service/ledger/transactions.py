"""A job's own rows and its run's success, committed together.

    begin -> the job's statements -> close the attempt and the run, if both are still ours -> commit
                  |                          |  lost, cancelled, timed out meanwhile
                  `--raises--> roll back <---'

The last statement locks the job's own attempt and run, and nothing before it locks any row of ours: a job
that takes its time holds nobody up.  One that goes silent inside the block is ended by the server.

What is lost with the reply to COMMIT is not known to the job, but to the ledger: either both are there or
neither.  On PostgreSQL alone: an SQLite file has one writer, and a job must not keep the election from it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Connection, text

from scheduler_service.database import Database, StoreRefused

SECONDS = 30.0  # for each answer, unless the job asks for more
IDLE_SECONDS = 10.0  # for so long the job may be silent between two statements

_CLOSE = """
with closed as (
  update {p}run_attempt set state = 'succeeded', finished_at = clock_timestamp()
   where id = :attempt_id and state = 'running'
     -- A database that has forgotten a start (a promoted standby) may have given its number to another tick.
     and exists (select 1 from {p}run o where o.id = run_id and o.job_id = :job_id and o.scheduled_at = :scheduled_at)
  returning run_id, attempt)
update {p}run r set state = 'succeeded', reason = null from closed
 where r.id = closed.run_id and r.attempt = closed.attempt and r.state = 'running' and r.cancel_requested_at is null
returning r.id"""


__all__ = ["Connection", "RunOverError", "job_transaction", "jobs_database"]

MOST_CONNECTIONS = 1000  # as many as there can be workers, of whom each has one at the most


class RunOverError(Exception):
    """The run is not open any more: cancelled, timed out, marked lost, or committed before.  Nothing was kept."""


class _UndoneError(Exception):
    """Takes the job's own exception past the place where the database's are translated."""


@functools.lru_cache(maxsize=4)
def jobs_database(url: str, schema: str) -> Database:
    """Return the connections of jobs, which are others than the service's: a job must not use those up."""
    return Database(url, schema=schema, name="scheduler-service job", most_connections=MOST_CONNECTIONS)


@contextlib.contextmanager
def job_transaction(
    database: Database, attempt_id: int, job_id: str, scheduled_at: datetime, *, seconds: float = SECONDS
) -> Iterator[Connection]:
    """Lend a connection in a transaction that ends with the success of an attempt at a tick of a job.

    Each answer may take `seconds`.  Raises RunOverError when the attempt or its run is over, StoreRefused on
    SQLite, StoreUnavailable when the database does not answer; what the job raises comes out as it is.
    """
    if database.dialect != "postgresql":
        raise StoreRefused(
            "a job can share a transaction with its run on PostgreSQL only: SQLite has one writer at a time"
        )
    raised: BaseException | None = None
    try:
        with database.transaction(seconds=seconds) as connection:
            connection.exec_driver_sql(f"set local idle_in_transaction_session_timeout = '{IDLE_SECONDS:g}s'")
            began = _identity(connection)
            try:
                # A table of the job's own is looked for where its session looks, not among ours.
                yield connection.execution_options(schema_translate_map={})
            except BaseException as error:
                raised = error
                raise _UndoneError from None
            if _identity(connection) != began:
                raise RuntimeError(
                    "the job committed or rolled back by itself, so its run cannot succeed with what it wrote: leave "
                    "the end of the transaction to the end of the block"
                )
            closed = connection.execute(
                text(_CLOSE.replace("{p}", database.prefix)),
                {"attempt_id": attempt_id, "job_id": job_id, "scheduled_at": scheduled_at},
            ).fetchall()
            if not closed:
                raise RunOverError(
                    "the run is over (cancelled, timed out, marked lost, or committed before): nothing was kept"
                )
    except _UndoneError:
        if raised is not None:
            raise raised from raised.__cause__
        raise


def _identity(connection: Connection) -> object:
    """Return what tells this transaction from another on the same session."""
    return connection.exec_driver_sql("select pg_backend_pid(), transaction_timestamp()").one()
