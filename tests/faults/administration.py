"""What an administrator can do to the database of a service at work, and what everybody waits for afterwards.

Each function does one thing, waits until the replicas have felt it, undoes it, and waits until every job is
settled past that moment.  None of them may cost a process.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from scheduler_service import tables
from scheduler_service.events import Outage
from tests.faults.stories import Fault, World
from tests.servers import PostgresServer

ROLE = "scheduler_runtime"
OTHER_ROLE = "somebody"
MOST_CONNECTIONS = 60  # of the server
LEASE_ROW = b"select * from scheduler.leader_lease for update"
LOCK_TABLES = b"""lock table scheduler.leader_lease, scheduler.leader_term, scheduler.job_state, scheduler.replica,
scheduler.run, scheduler.run_attempt in access exclusive mode"""
LEFT = f"""select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
  - (select count(*) from pg_stat_activity where backend_type = 'client backend' and usename <> '{ROLE}')"""
END_SESSIONS = f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{ROLE}'"


def world_with_few_rights(folder: Path, server: PostgresServer) -> World:
    """Return a world whose replicas have the least rights that they need, in tables that another role owns."""
    with server.connect() as owner:
        for role in (ROLE, OTHER_ROLE):
            owner.execute(f"create role {role} login".encode())
        owner.execute(tables.upgrade_sql("postgresql", role=ROLE).encode())
    return World.at_work(folder, server.url, server, replicas_url=_url(server, ROLE))


def delete_the_lease(world: World) -> None:
    """DELETE of the lease row: the next term is a new one all the same."""
    _take_the_term_away(world, "delete from {p}leader_lease")


def truncate_the_lease(world: World) -> None:
    """TRUNCATE of the lease's table."""
    _take_the_term_away(world, "truncate {p}leader_lease")


def lock_the_lease_for_a_moment(world: World) -> None:
    """SELECT … FOR UPDATE of the lease row in a forgotten transaction, until the leader doubts."""
    _until_the_leader_doubts(world, _transaction(world, LEASE_ROW))


def lock_the_lease_past_the_lease(world: World) -> None:
    """SELECT … FOR UPDATE of the lease row, until the leader has given its term up."""
    _until_the_term_is_lost(world, _transaction(world, LEASE_ROW))


def lock_the_tables_for_a_moment(world: World) -> None:
    """LOCK TABLE … ACCESS EXCLUSIVE of all that is written, until the leader doubts."""
    _until_the_leader_doubts(world, _transaction(world, LOCK_TABLES))


def lock_the_tables_past_the_lease(world: World) -> None:
    """LOCK TABLE … ACCESS EXCLUSIVE of all that is written, until the leader has given its term up."""
    _until_the_term_is_lost(world, _transaction(world, LOCK_TABLES))


def refuse_starts(world: World) -> None:
    """REVOKE INSERT on the attempts alone: there is a leader, and it can start nothing."""
    _until_a_part_complains(world, "dispatcher", _revoked(world, "insert on scheduler.run_attempt"))


def refuse_results(world: World) -> None:
    """REVOKE UPDATE on the attempts alone: what has run cannot be written down."""
    _until_a_part_complains(world, "results", _revoked(world, "update on scheduler.run_attempt"))


def refuse_writing(world: World) -> None:
    """REVOKE of all that the service writes with, until the leader has given its term up."""
    _until_the_term_is_lost(world, _revoked(world, "insert, update, delete on all tables in schema scheduler"))


def close_the_schema(world: World) -> None:
    """REVOKE USAGE on the schema, until the leader has given its term up."""
    _until_the_term_is_lost(world, _revoked(world, "usage on schema scheduler"))


def make_read_only(world: World) -> None:
    """ALTER SYSTEM SET default_transaction_read_only = on, until the leader has given its term up."""
    _until_the_term_is_lost(world, _read_only(world))


def end_every_session(world: World) -> None:
    """pg_terminate_backend of all sessions of all replicas at once."""
    leader, mark = world.fleet.leader(), world.fleet.mark()
    world.books.rows(END_SESSIONS)
    world.fleet.wait_for_doubt(leader, mark)
    world.settled_past_now()


def allow_no_connection(world: World) -> None:
    """ALTER ROLE … CONNECTION LIMIT 0 and every session ended, until the leader has given its term up."""
    _until_the_term_is_lost(world, _no_connection_allowed(world))


def take_every_connection(world: World) -> None:
    """Other clients take every connection of the server, also those that replicas lose, until the term is given up."""
    _until_the_term_is_lost(world, every_connection_taken(world))


MOMENTARY: tuple[Fault, ...] = (
    delete_the_lease,
    truncate_the_lease,
    lock_the_lease_for_a_moment,
    lock_the_tables_for_a_moment,
    refuse_starts,
    refuse_results,
    end_every_session,
)
PAST_THE_LEASE: tuple[Fault, ...] = (
    lock_the_lease_past_the_lease,
    lock_the_tables_past_the_lease,
    refuse_writing,
    close_the_schema,
    make_read_only,
    allow_no_connection,
    take_every_connection,
)


def _take_the_term_away(world: World, statement: str) -> None:
    leader = world.fleet.leader()
    term = world.fleet.term(leader)
    world.books.execute(statement)
    leader.wait_for("leadership_lost", term=term)
    world.fleet.next_leader(term)
    world.settled_past_now()


def _until_the_leader_doubts(world: World, trouble: AbstractContextManager[None]) -> None:
    leader, mark = world.fleet.leader(), world.fleet.mark()
    with trouble:
        world.fleet.wait_for_doubt(leader, mark)
    world.settled_past_now()


def _until_the_term_is_lost(world: World, trouble: AbstractContextManager[None]) -> None:
    leader, mark, began = world.fleet.leader(), world.fleet.mark(), time.monotonic()
    term = world.fleet.term(leader)
    with trouble:
        leader.wait_for("leadership_lost", term=term)
    world.fleet.next_leader(term)
    world.settled_past_now()
    told_sparingly(world, mark, began)


def told_sparingly(world: World, mark: int, began: float) -> None:
    """Fail if a part of a replica told of a fault over and over, `began` being when that was (monotonic)."""
    told = Counter((who.number, line["part"]) for who, line in world.fleet.said("store_unavailable", mark))
    most = Outage.MOST_TOLD + (time.monotonic() - began) / Outage.LASTING_SECONDS
    assert all(count <= most for count in told.values()), (most, told)


def _until_a_part_complains(world: World, part: str, trouble: AbstractContextManager[None]) -> None:
    mark, began = world.fleet.mark(), time.monotonic()
    with trouble:
        world.fleet.wait_for("store_unavailable", since=mark, part=part)
    world.fleet.wait_for("store_recovered", since=mark, part=part)
    world.settled_past_now()
    told_sparingly(world, mark, began)


@contextlib.contextmanager
def _transaction(world: World, statement: bytes) -> Iterator[None]:
    """Hold a statement's locks, as a forgotten psql does."""
    with _administrator(world) as administrator, administrator.transaction():
        administrator.execute(statement)
        yield


@contextlib.contextmanager
def _revoked(world: World, rights: str) -> Iterator[None]:
    with _administrator(world) as administrator:
        administrator.execute(f"revoke {rights} from {ROLE}".encode())
        try:
            yield
        finally:
            administrator.execute(f"grant {rights} to {ROLE}".encode())


@contextlib.contextmanager
def _read_only(world: World) -> Iterator[None]:
    with _administrator(world) as administrator:
        administrator.execute("alter system set default_transaction_read_only = on")
        administrator.execute("select pg_reload_conf()")
        try:
            yield
        finally:
            administrator.execute("alter system reset default_transaction_read_only")
            administrator.execute("select pg_reload_conf()")


@contextlib.contextmanager
def _no_connection_allowed(world: World) -> Iterator[None]:
    with _administrator(world) as administrator:
        administrator.execute(f"alter role {ROLE} connection limit 0".encode())
        administrator.execute(END_SESSIONS)
        try:
            yield
        finally:
            administrator.execute(f"alter role {ROLE} connection limit -1".encode())


@contextlib.contextmanager
def every_connection_taken(world: World) -> Iterator[None]:
    """Have other clients hold whatever connections there are, until the replicas have none."""
    with _administrator(world) as administrator, contextlib.ExitStack() as others:

        def replicas_have_none() -> bool:
            _fill(world, others)
            # What ends here may go to a replica again or to us, until all has come to us.  One that is only being
            # opened has no name yet, so that to see none of the replicas' is not enough.
            ended = administrator.execute(END_SESSIONS).fetchall()
            (left,) = administrator.execute(LEFT).fetchone() or (1,)
            return not ended and left <= 0

        world.fleet.wait_until(replicas_have_none)
        yield


def _fill(world: World, others: contextlib.ExitStack) -> None:
    assert world.server is not None
    for _ in range(MOST_CONNECTIONS):
        try:
            others.enter_context(psycopg.connect(_url(world.server, OTHER_ROLE)))
        except psycopg.OperationalError:
            return
    raise AssertionError(f"the server takes more than the {MOST_CONNECTIONS} connections that it was allowed")


def _administrator(world: World) -> psycopg.Connection[Any]:
    assert world.server is not None
    return world.server.connect()


def _url(server: PostgresServer, role: str) -> str:
    return make_url(server.url).set(username=role).render_as_string(hide_password=False)
