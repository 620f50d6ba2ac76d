"""What is known about a database before anything is asked of it, and what its errors mean."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from scheduler_service import tables
from scheduler_service.config import ConfigError, load
from scheduler_service.database import Database, StoreConflict, StoreFull, StoreRefused, StoreUnavailable, urls
from scheduler_service.database.errors import translate
from scheduler_service.database.postgresql import _require, session_settings


@pytest.mark.parametrize(
    "url",
    ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"],
)
def test_every_spelling_of_postgresql_means_psycopg_3(url: str) -> None:
    database = Database(url)
    assert (database.dialect, database.prefix) == ("postgresql", '"scheduler".')
    assert database.safe_url == "postgresql://u:***@h/d"


def test_sqlite_has_no_schema() -> None:
    database = Database("sqlite:///scheduler.db")
    assert (database.dialect, database.prefix, database.schema_or_none) == ("sqlite", "", None)
    assert database.safe_url == "sqlite:///scheduler.db"


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgresql+psycopg2://u:secret@h/d", r"write postgresql:// instead of postgresql\+psycopg2://"),
        ("postgresql+asyncpg://u:secret@h/d", "'asyncpg' is not used here"),
        ("sqlite+aiosqlite:///x.db", "write sqlite:// instead"),
        ("mysql://u:secret@h/d", "'mysql' is not a database we know"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///x?mode=memory&uri=true", "in memory"),
        ("sqlite://scheduler.db", "three slashes"),
        ("sqlite://host/scheduler.db", "three slashes"),
        ("scheduler.db", "cannot be read"),
        ("", "cannot be read"),
        ("postgresql://u:sec/ret@h:x/d", "cannot be read"),
        ("postgresql://u:p@h:secret/d", "cannot be read"),
        ("postgresql://u:secret@h/d?autocommit=false", "'autocommit' in .* not a connection parameter of PostgreSQL"),
        ("postgresql://u:secret@h/d?prepare_threshold=abc", "'prepare_threshold' in"),
        ("postgresql://u:secret@h/d?row_factory=abc", "'row_factory' in"),
        ("postgresql://u:secret@h/d?sslmod%0Ae=require", r"'sslmod\\ne' in"),
        ("postgresql://u:secret@h/d?sslmode=require&sslmode=disable", "has 'sslmode' more than once"),
        ("postgresql://u:secret@h:0/d", "0 in .* cannot be a port: write one from 1 to 65535"),
        ("postgresql://u:secret@h:65536/d", "65536 in .* cannot be a port"),
        ("postgresql://u:secret@/d?host=one:5432&host=two:99999", "99999 in .* cannot be a port"),
        ("postgresql://u:secret@/d?host=one,two&port=5432,99999", "99999 in .* cannot be a port"),
        ("postgresql://u:secret@/d?host=one&port=abc", "the hosts .* cannot be read"),
        ("postgresql://u:p@secret@h/d", "where the password ends: write letters such as @ .* as %40"),
        ("postgresql://u:p@secret/x@h/d", "where the password ends"),
        ("postgresql://u:p@secret?x@h/d", "where the password ends"),
        ("postgresql://u:p@secret#x@h/d", "where the password ends"),
        ("postgresql://x/u:secret@h/d", "where the password ends"),
        ("postgresql://h?user=u@server&password=secret", "where the password ends"),
        ("postgresql://h:1/d?password=p@secret", "where the password ends"),
        ("postgresql://h/d?password=p&secret=x", "perhaps the rest of a password: write & in a password as %26"),
        ("sqlite:///x.db?timeout=abc", "'timeout' in .* is not a number of seconds: write timeout=5"),
        ("sqlite:///x.db?timeout=-1", "not a number of seconds"),
        ("sqlite:///x.db?timeout=nan", "not a number of seconds"),
        ("sqlite:///x.db?timeout=1&timeout=2", "not a number of seconds"),
        ("sqlite:///x.db?check_same_thread=false", "'check_same_thread' in .* is not used with SQLite"),
        ("sqlite:///x.db?uri=abc", "'uri' in .* is not used with SQLite"),
        ("sqlite:///what?/a.db", "'/a.db' in .* is not used with SQLite: .* write %3F for a question mark of the path"),
        ("sqlite:///what?", "'\\?' in .* write %3F for a question mark"),
        ("sqlite:///x.db?timeout=", "'timeout' in .* is not a number of seconds"),
    ],
)
def test_another_url_is_refused_with_what_to_write_instead(url: str, advice: str) -> None:
    with pytest.raises(StoreRefused, match=advice) as refusal:
        Database(url)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h:65535/d?sslmode=require&connect_timeout=3&options=-csearch_path%3Dx",
        "postgresql://u@/d?host=one:5432&host=two:5433&target_session_attrs=read-write",
        "postgresql://u@/d?host=one,two&port=5432,5433",
        "postgresql://u@/d?host=/var/run/postgresql",
        "postgresql://h/d?user=u@server",
        "sqlite:///x.db?timeout=0.5",
    ],
)
def test_what_the_drivers_know_may_stand_in_the_url(url: str) -> None:
    assert Database(url).safe_url.startswith(url.partition("?")[0])


def test_a_password_without_its_host_is_not_taken_for_a_port_and_shown() -> None:
    with pytest.raises(StoreRefused, match="what follows the host") as refused:
        Database("postgresql://bob:20240117/db")
    assert "20240117" not in str(refused.value)


def test_an_at_sign_that_is_no_password_s_may_stand_in_the_url() -> None:
    assert Database("postgresql://u@server:p@h/d").safe_url == "postgresql://u%40server:***@h/d"
    assert Database("sqlite:///u@h/x@y.db").safe_url == "sqlite:///u@h/x@y.db"


def test_a_file_is_shown_as_people_know_it() -> None:
    database = Database("sqlite:////data/é #(/50%25 what%3F.db?timeout=5")
    assert database.file == Path("/data/é #(/50% what?.db")
    assert database.safe_url == "sqlite:////data/é #(/50%25 what%3F.db?timeout=5"  # read again, the same file
    assert Database("postgresql://h/d").file is None


@pytest.mark.parametrize("schema", ["", "a.b", 'a"b', "a%b", "1a", "-a", "pg_mine", "a" * 64, "a b", "ä"])
def test_a_name_that_cannot_be_a_schema_is_refused(schema: str, tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="cannot be the schema"):
        Database("postgresql://h/d", schema=schema)
    with pytest.raises(ConfigError, match=r"database\.schema: expected at most 63 letters"):
        configured(tmp_path, schema)


@pytest.mark.parametrize("schema", ["a", "_", "Public", "a-b", "pgsql", "PG_x", "a" * 63])
def test_a_name_that_can_be_a_schema_is_taken_here_and_in_a_configuration(schema: str, tmp_path: Path) -> None:
    assert Database("postgresql://h/d", schema=schema).schema == configured(tmp_path, schema) == schema


def configured(folder: Path, schema: str) -> str:
    """The schema that a configuration names."""
    document = {"version": 1, "database": {"schema": schema, "url": "postgresql://h/d"}, "jobs": {}}
    (folder / "config.yaml").write_text(json.dumps(document))
    return load(folder / "config.yaml", {}).database.schema_


def test_passwords_are_hidden_wherever_they_stand() -> None:
    database = Database(
        "postgresql://u:s%40crets@h/d?sslpassword=keys&password=more&oauth_client_secret=most&sslmode=require"
    )
    for shown in (database.safe_url, repr(database)):
        assert "***" in shown
        assert "sslmode=require" in shown
        assert not any(secret in shown for secret in ("s%40crets", "s@crets", "keys", "more", "most"))


@given(
    st.sampled_from(
        [
            "postgresql://u:{}@h/d",
            "postgresql://u:{}@127.0.0.1:1/d?sslmode=require",
            "postgresql://h/d?user=u&password={}",
            "postgresql://h:1/d?user=u&password={}",
            "postgresql://h/d?sslpassword={}&user=u@server",
        ]
    ),
    st.text("JKWXZ@@/?#:[]%&=+,. '\"\\\n"),
)
def test_nothing_of_a_password_is_shown_however_it_is_written(url: str, password: str) -> None:
    try:
        database = Database(url.format(password))
    except StoreRefused as refusal:
        said = str(refusal)
    else:
        known = database._url.translate_connect_args()
        driver = psycopg.OperationalError(f"no {known.pop('password', '')!s} for {known}")
        said = f"{database.safe_url} {database!r} {translate(driver, urls.secrets(database._url))}"
    assert not set("JKWXZ") & set(said)  # which stand in nothing else that is said


def wrapped(error: Exception) -> exc.DBAPIError:
    return exc.DBAPIError("select secrets", {"it": "hidden"}, error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.UniqueViolation("x"), StoreConflict),
        (psycopg.errors.ForeignKeyViolation("x"), StoreConflict),
        (psycopg.errors.IntervalFieldOverflow("x"), StoreConflict),
        (psycopg.errors.UntranslatableCharacter("x"), StoreConflict),
        (psycopg.errors.UndefinedTable("x"), StoreRefused),
        (psycopg.errors.InsufficientPrivilege("x"), StoreRefused),
        (psycopg.errors.InvalidPassword("x"), StoreRefused),
        (psycopg.errors.InvalidCatalogName("x"), StoreRefused),
        (psycopg.errors.AdminShutdown("x"), StoreUnavailable),
        (psycopg.errors.QueryCanceled("x"), StoreUnavailable),
        (psycopg.errors.LockNotAvailable("x"), StoreUnavailable),
        (psycopg.errors.DeadlockDetected("x"), StoreUnavailable),
        (psycopg.errors.TooManyConnections("x"), StoreUnavailable),
        (psycopg.errors.DiskFull("x"), StoreFull),
        (psycopg.errors.ReadOnlySqlTransaction("x"), StoreUnavailable),
        (psycopg.OperationalError("connection failed: Connection refused\n\tIs the server running?"), StoreUnavailable),
        (psycopg.OperationalError('FATAL:  password authentication failed for user "u"'), StoreRefused),
        (psycopg.OperationalError('FATAL:  database "d" does not exist'), StoreRefused),
        (psycopg.OperationalError('could not translate host name "does not exist" to address'), StoreUnavailable),
        (psycopg.ProgrammingError('invalid connection option "sslmod"'), StoreRefused),
        (sqlite3.IntegrityError("x"), StoreConflict),
        (exc.TimeoutError("QueuePool limit of size 4 …"), StoreUnavailable),
    ],
)
def test_what_the_driver_says_becomes_one_of_four(error: Exception, kind: type[StoreUnavailable]) -> None:
    for said in (error, wrapped(error)):
        translated = translate(said)
        assert type(translated) is kind
        assert "\n" not in str(translated)
        assert "secrets" not in str(translated)


def test_a_password_that_the_driver_repeats_is_blotted_out() -> None:
    translated = translate(psycopg.OperationalError("invalid port: s3cret@h"), ["s3cret"])
    assert str(translated) == "invalid port: ***@h"


def test_old_servers_are_refused() -> None:
    _require(14)
    with pytest.raises(StoreRefused, match="PostgreSQL 13 is too old: scheduler_service needs 14 or later"):
        _require(13)


def test_the_server_gives_up_before_the_client_does() -> None:
    settings = session_settings(2.0)
    assert (settings["lock_timeout"], settings["statement_timeout"]) == ("1600ms", "1800ms")


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])))
def test_moments_survive_sqlite_to_the_microsecond(moment: datetime) -> None:
    column, dialect = tables.UtcMicroseconds(), sqlite.dialect()
    stored = column.process_bind_param(moment, dialect)
    assert isinstance(stored, int)
    assert column.process_result_value(stored, dialect) == moment


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()])
def test_a_moment_without_a_zone_is_refused(dialect: object) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        tables.UtcMicroseconds().process_bind_param(datetime(2030, 1, 1), dialect)  # noqa: DTZ001  # naive on purpose


def test_moments_come_back_in_utc_whatever_zone_the_session_is_in() -> None:
    elsewhere = datetime(2030, 1, 1, 5, tzinfo=timezone(timedelta(hours=5)))
    read = tables.UtcMicroseconds().process_result_value(elsewhere, postgresql.dialect())
    assert read == elsewhere
    assert read is not None
    assert read.tzinfo is UTC
