"""Limits on every wait for PostgreSQL, and what is left of a connection afterwards."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import exc, text

from scheduler_service import tables
from scheduler_service.database import Database, OwnConnection, StoreRefused, StoreUnavailable
from tests.relay import Relay
from tests.servers import PostgresServer, free_port
from tests.waiting import wait_until


@pytest.fixture
def quick(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url, attempt_seconds=0.5, statement_seconds=0.5)
    yield database
    database.dispose()


@pytest.fixture
def relay(postgres_url: str) -> Iterator[Relay]:
    with Relay(postgres_url) as relay:
        yield relay


def setting(own: OwnConnection, name: str) -> str | None:
    value: str | None = own.execute(text("select current_setting(:name)"), {"name": name}).scalar()
    return value


def sessions(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        query = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        return [pid for (pid,) in connection.execute(query)]


def end_sessions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    wait_until(lambda: not sessions(url))


def test_a_session_has_every_limit_set(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        for hostile in ("timezone = 'Asia/Kathmandu'", "datestyle = 'German'", "statement_timeout = 0"):
            connection.execute(f'alter database "{name}" set {hostile}'.encode())
        connection.execute(f"alter database \"{name}\" set default_transaction_isolation = 'serializable'".encode())
    database = Database(postgres_url, name="scheduler")
    own = database.own_connection(name="elector")
    assert {name: setting(own, name) for name in ("application_name", "TimeZone", "statement_timeout")} == {
        "application_name": "scheduler elector",
        "TimeZone": "UTC",
        "statement_timeout": "1800ms",
    }
    limits = {
        "lock_timeout": "1600ms",
        "idle_in_transaction_session_timeout": "2s",
        "idle_session_timeout": "0",
        "client_connection_check_interval": "1s",
        "tcp_user_timeout": "2000",
        "tcp_keepalives_idle": "2",
        "default_transaction_isolation": "read committed",
    }
    assert {name: setting(own, name) for name in limits} == limits
    assert own.execute(text("select timestamptz '2030-01-01 00:00:00+00'")).scalar_one().utcoffset().seconds == 0
    assert own.direct
    assert own.backend_pid == own.execute(text("select pg_backend_pid()")).scalar()
    own.close()
    with database.connect() as connection:
        assert connection.execute(text("show statement_timeout")).scalar() == "9s"
    database.dispose()


def test_what_the_url_says_wins(postgres_url: str) -> None:
    database = Database(postgres_url + "?application_name=mine&connect_timeout=7")
    own = database.own_connection()
    assert setting(own, "application_name") == "mine"
    own.close()


def test_a_platform_that_cannot_watch_its_clients_does_without(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scheduler_service.database import postgresql

    settings = postgresql.session_settings
    monkeypatch.setattr(
        postgresql, "session_settings", lambda it: {**settings(it), "client_connection_check_interval": "-1"}
    )
    own = Database(postgres_url).own_connection()
    assert own.direct
    assert setting(own, "lock_timeout") == "1600ms"
    assert setting(own, "client_connection_check_interval") == "0"
    own.close()


def test_a_slow_statement_costs_the_statement_and_not_the_session(quick: Database) -> None:
    own = quick.own_connection()
    pid = own.backend_pid
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        own.execute(text("select pg_sleep(30)"))
    assert not own.broken
    assert own.execute(text("select pg_backend_pid()")).scalar() == pid
    with pytest.raises(StoreUnavailable, match="statement timeout"), quick.connect() as connection:
        connection.execute(text("select pg_sleep(30)"))
    own.close()


def test_a_lock_that_nobody_gives_back_costs_the_statement_and_not_the_session(quick: Database) -> None:
    holder, own = quick.own_connection(), quick.own_connection()
    holder.execute(text("select pg_advisory_lock(1)"))
    with pytest.raises(StoreUnavailable, match="lock timeout"):
        own.execute(text("select pg_advisory_lock(1)"))
    assert not own.broken
    for connection in (holder, own):
        connection.close()


def test_answers_may_take_as_long_as_their_connection_was_opened_for(quick: Database) -> None:
    patient, hasty = quick.own_connection(seconds=30), quick.own_connection(seconds=0.2)
    assert patient.execute(text("select 1 from pg_sleep(0.7)")).scalar() == 1
    hasty.execute(text("set statement_timeout = 0"))
    with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.2 s"):
        hasty.execute(text("select pg_sleep(30)"))
    assert hasty.broken
    for connection in (patient, hasty):
        connection.close()


def test_a_network_that_swallows_packets_is_noticed_on_the_client(relay: Relay) -> None:
    database = Database(relay.url, attempt_seconds=0.3, statement_seconds=0.3)
    own = database.own_connection()
    with database.connect() as connection:
        connection.execute(text("select 1"))
    relay.stall()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.3 s"):
        own.execute(text("select 1"))
    assert own.broken
    with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.3 s"), database.connect() as connection:
        connection.execute(text("select 1"))
    assert time.monotonic() - began < 5
    relay.heal()
    with database.connect() as connection:
        assert connection.execute(text("select 1")).scalar() == 1
    database.dispose()


def test_a_stalled_server_does_not_hold_up_connecting(relay: Relay) -> None:
    relay.stall()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="connection timeout expired"):
        Database(relay.url, attempt_seconds=0.3).own_connection()
    assert time.monotonic() - began < 10


def test_an_answer_that_is_given_up_ends_the_session(relay: Relay, postgres_url: str) -> None:
    """The advisory locks of a session that we no longer trust must not outlive it."""
    own = Database(relay.url, attempt_seconds=0.3).own_connection()
    own.execute(text("select pg_advisory_lock(1)"))
    relay.stall()
    with pytest.raises(StoreUnavailable):
        own.execute(text("select 1"))
    relay.heal()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("set lock_timeout = '10s'")
        connection.execute("select pg_advisory_lock(1)")
    assert own.broken


def test_another_thread_can_close_a_connection_that_waits(quick: Database, postgres_url: str) -> None:
    own = quick.own_connection(seconds=60)
    own.execute(text("set statement_timeout = 0"))
    raised: list[Exception] = []

    def wait() -> None:
        try:
            own.execute(text("select pg_sleep(60)"))
        except StoreUnavailable as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    with psycopg.connect(postgres_url, autocommit=True) as observer:
        asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
        wait_until(lambda: observer.execute(asleep).fetchone() == (1,))
    own.close()
    waiting.join(10)
    assert not waiting.is_alive()
    assert [str(error) for error in raised] == ["the connection was closed while it waited for an answer"]
    wait_until(lambda: not sessions(postgres_url))  # the server sees it too


def test_the_end_of_a_session_makes_its_socket_readable(quick: Database, postgres_url: str) -> None:
    own = quick.own_connection()
    assert own.notifications() == ()
    end_sessions(postgres_url)
    descriptor = own.fileno()
    assert descriptor is not None

    def wait_for_good_bye() -> None:
        while select.select([descriptor], [], [], 10)[0]:
            own.notifications()

    with pytest.raises(StoreUnavailable):
        wait_for_good_bye()
    assert own.broken
    assert own.fileno() is None


def test_notifications_wake_whoever_waits_on_the_socket(quick: Database, postgres_url: str) -> None:
    own = quick.own_connection()
    own.execute(text("listen released"))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("notify released, '1 42'")
    assert select.select([own.fileno()], [], [], 10)[0]
    assert own.notifications() == ("1 42",)
    own.execute(text("notify released, 'ours'"))  # arrives together with the answer
    assert own.notifications() == ("ours",)
    own.close()


def test_pooled_connections_that_the_server_ended_are_replaced_unseen(quick: Database, postgres_url: str) -> None:
    with quick.connect() as one, quick.connect() as two:
        assert one.execute(text("select 1")).scalar() == two.execute(text("select 1")).scalar() == 1
    end_sessions(postgres_url)
    for _ in range(3):
        with quick.connect() as connection:
            assert connection.execute(text("select 1")).scalar() == 1


def test_a_connection_that_breaks_inside_a_transaction_is_thrown_away(quick: Database, postgres_url: str) -> None:
    def be_cut_off() -> None:
        with quick.transaction() as connection:
            connection.execute(text("select 1"))
            end_sessions(postgres_url)
            connection.execute(text("select 1"))

    with pytest.raises(StoreUnavailable):
        be_cut_off()
    with quick.transaction() as connection:
        assert connection.execute(text("select 1")).scalar() == 1


def test_a_transaction_may_be_given_more_time(quick: Database) -> None:
    with quick.transaction(seconds=30) as connection:
        assert connection.execute(text("show statement_timeout")).scalar() == "27s"
        connection.execute(text("select pg_sleep(0.7)"))
    with quick.connect() as connection:
        assert connection.execute(text("show statement_timeout")).scalar() == "450ms"


def test_behind_a_pooler_a_session_is_not_taken_for_our_own(postgres_url: str) -> None:
    with Relay(postgres_url, pooled=True) as pooler:
        database = Database(pooler.url)
        own = database.own_connection()
        assert not own.direct
        assert own.backend_pid != own.execute(text("select pg_backend_pid()")).scalar()
        # What we set would follow the session to its next client.
        assert setting(own, "lock_timeout") == "0"
        own.close()
        assert tables.upgrade(database) == (None, tables.HEAD)
        for _ in range(8):  # more often than it takes for a statement to be prepared
            with database.connect() as connection:
                connection.execute(tables.run.select())
        with database.connect() as connection:
            assert connection.execute(text("select count(*) from pg_prepared_statements")).scalar() == 0
        database.dispose()


def test_a_restart_of_the_server_is_lived_through(own_server: PostgresServer) -> None:
    database = Database(own_server.url)
    for mode in ("fast", "immediate"):
        own = database.own_connection()
        with database.connect() as connection:
            connection.execute(text("select 1"))
        own_server.restart(mode)
        with pytest.raises(StoreUnavailable):
            own.execute(text("select 1"))
        own.close()
        with database.connect() as connection:
            assert connection.execute(text("select 1")).scalar() == 1
    own_server.stop()
    with pytest.raises(StoreUnavailable) as refused, database.connect():
        pass
    assert not isinstance(refused.value, StoreRefused)
    database.dispose()


def test_a_frozen_server_is_noticed_and_used_again_when_it_thaws(own_server: PostgresServer) -> None:
    database = Database(own_server.url, attempt_seconds=0.3, statement_seconds=0.3)
    own = database.own_connection()
    own_server.pause()
    try:
        with pytest.raises(StoreUnavailable, match="did not answer within"):
            own.execute(text("select 1"))
        with pytest.raises(StoreUnavailable):
            database.own_connection()
    finally:
        own_server.resume()
    own = database.own_connection()
    assert own.execute(text("select 1")).scalar() == 1
    own.close()


def test_nobody_at_the_port_is_said_in_one_line() -> None:
    with pytest.raises(StoreUnavailable, match=r"Connection refused$") as error:
        Database(f"postgresql://u:secret@127.0.0.1:{free_port()}/d").own_connection()
    assert not isinstance(error.value, StoreRefused)
    assert "secret" not in str(error.value)


def test_a_host_that_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(StoreUnavailable, match=r"nowhere\.invalid") as error:
        Database("postgresql://u:secret@nowhere.invalid/d").own_connection()
    assert "\n" not in str(error.value)


def test_a_database_that_is_not_there_is_a_refusal(postgres_url: str) -> None:
    with pytest.raises(StoreRefused, match='database "missing_one" does not exist'):
        Database(postgres_url.rpartition("/")[0] + "/missing_one").own_connection()


def test_a_role_that_is_not_there_or_a_wrong_option_is_a_refusal(
    make_role: Callable[[str], str], postgres_url: str
) -> None:
    url = make_role("scheduler_test_gone").replace("scheduler_test_gone", "scheduler_test_nobody")
    with pytest.raises(StoreRefused, match=r'role "scheduler_test_nobody" does not exist|authentication failed'):
        Database(url).own_connection()
    with pytest.raises(StoreRefused, match="'sslmod' in the database's URL is not a connection parameter"):
        Database(postgres_url + "?sslmod=require").own_connection()


def test_a_forked_child_holds_no_session_of_its_parent_open(quick: Database, postgres_url: str) -> None:
    """A guard lock would otherwise outlive its leader as long as a child lives."""
    own = quick.own_connection()
    with quick.connect() as connection:
        connection.execute(text("select 1"))
    hears, says = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(says)
        os.read(hears, 1)  # lives until the parent lets it go
        os._exit(0)
    os.close(hears)
    own.close()
    quick.dispose()
    try:
        wait_until(lambda: not sessions(postgres_url))
    finally:
        os.close(says)
        os.waitpid(child, 0)


def test_errors_inside_the_block_are_still_sqlalchemys(quick: Database) -> None:
    with quick.connect() as connection:
        with pytest.raises(exc.ProgrammingError):
            connection.execute(text("select * from nowhere"))
        assert connection.execute(text("select 1")).scalar() == 1
