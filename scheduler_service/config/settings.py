"""The settings of the file as models: key, type, default and description of each.

Everything else follows from these: how a value is read, the JSON Schema, what `Config` holds.  The fields of
`Job` and `Policies` are those of the file; what is made of them is a JobSpec.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, SecretStr

from scheduler_service.callables import reference_problem
from scheduler_service.config import composites, kinds
from scheduler_service.config.nodes import ScalarNode
from scheduler_service.config.values import WrongValueError
from scheduler_service.model import CatchUp, Discreet, Isolation, OnCrash, OnLeadershipLost, Overlap, Retry

ZERO = timedelta(0)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
KIB = 1024

URL = "postgresql://user:password@host/name or sqlite:///file"
BEARER = "a token of ASCII letters, digits and signs, in quotes"
HOST = "a host name or address, without http:// and port"
SCHEMA = "at most 63 letters, digits, _ and -, beginning with a letter or _, and not with pg_"
SCHEMA_PATTERN = r"(?!pg_)[A-Za-z_][A-Za-z0-9_-]{0,62}"  # as the database takes it
JOB_ID = r"[a-z0-9][a-z0-9_.-]{0,99}"


def _reference() -> kinds.Kind:
    def convert(node: ScalarNode) -> str:
        if (problem := reference_problem(kinds.string(node))) is not None:
            raise WrongValueError(problem)
        return node.text

    schema = {"type": "string", "pattern": r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"}
    return kinds.scalar("module:function, such as cleanup:prune", convert, schema)


def _url_problem(url: str) -> str | None:
    scheme, separator, rest = url.partition("://")
    backend, _, driver = scheme.partition("+")
    if not separator or not re.fullmatch(r"[A-Za-z0-9+]+", scheme):
        return f"expected {URL}"
    if backend not in ("postgresql", "postgres", "sqlite"):
        return f"{backend!r} is not a database we know; write {URL}"
    if driver not in ("", "psycopg" if backend != "sqlite" else "pysqlite"):
        return f"the driver {driver!r} is not used here; write {backend}://, without a driver"
    if backend == "sqlite" and not rest.startswith("/"):
        return "a file comes after three slashes: sqlite:///scheduler.db"
    if backend == "sqlite" and rest.partition("?")[0] in ("/", "/:memory:"):
        return "a database in memory is not enough for replicas and threads; name a file: sqlite:///scheduler.db"
    return None


def _token_problem(token: str) -> str | None:
    # Others arrive differently from one client to the next, or not at all; spaces at the ends are lost on the way.
    return None if re.fullmatch(r"[!-~]+", token) else "a token has ASCII letters, digits and signs only, no spaces"


class Service(Discreet):
    """The service as a whole."""

    name: Annotated[str, kinds.text("a name of at most 100 characters", r"[^\n]{1,100}")] = Field(
        "scheduler", description="What the service is called on its pages and in its metrics."
    )
    timezone: Annotated[str, kinds.timezone()] = Field(
        "UTC", description="The zone of cron expressions, for jobs that name none."
    )
    jobs_folder: Annotated[Path, kinds.text("a path")] = Field(
        Path("jobs"), description="Where the modules of 'run' jobs are; relative to this file."
    )
    shutdown_grace: Annotated[timedelta, kinds.duration(ZERO, DAY)] = Field(
        20 * SECOND, description="How long running jobs may go on after SIGTERM or SIGINT."
    )


class Database(Discreet):
    """Where leadership and history are kept."""

    url: Annotated[SecretStr, kinds.secret(URL, _url_problem)] = Field(
        SecretStr("sqlite:///scheduler.db"),
        description="postgresql://user:password@host/name, or sqlite:///file relative to this file.",
    )
    schema_: Annotated[str, kinds.text(SCHEMA, SCHEMA_PATTERN)] = Field(
        "scheduler", alias="schema", description="The PostgreSQL schema of the tables; SQLite has none."
    )
    create_tables: Annotated[bool, kinds.boolean()] = Field(
        True, description="Make and upgrade the tables at start; else 'scheduler-service db upgrade' does."
    )
    startup_timeout: Annotated[timedelta, kinds.duration(ZERO, DAY)] = Field(
        30 * SECOND, description="How long to wait for the database at start."
    )


class Election(Discreet):
    """How a leader is found; replicas must agree on lock_id, and should on the rest."""

    lock_id: Annotated[int, kinds.integer(-(2**63), 2**63 - 1)] = Field(
        1, description="The number of the election: replicas that share it form one service."
    )
    lease_duration: Annotated[timedelta, kinds.duration(most=DAY)] = Field(
        10 * SECOND, description="How long a leader that vanished with its host is waited for."
    )
    renewal_interval: Annotated[timedelta, kinds.duration(most=DAY)] = Field(
        3 * SECOND, description="How often the leader renews its lease and every replica signs in."
    )
    jitter_range: Annotated[timedelta, kinds.duration(ZERO, DAY)] = Field(
        2 * SECOND, description="By how much each wait is longer or shorter, drawn anew each time."
    )
    instance_id: Annotated[str, kinds.text("auto, or letters, digits, _ . -", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")] = (
        Field("auto", description="The name of this replica; it gets a random suffix. auto: the name of the host.")
    )
    attempt_timeout: Annotated[timedelta, kinds.duration(most=DAY)] = Field(
        2 * SECOND, description="How long one statement of the election may take."
    )
    safety_margin: Annotated[timedelta, kinds.duration(most=DAY)] = Field(
        1 * SECOND, description="How much earlier than the database a replica stops trusting its lease."
    )
    crash_detection: Annotated[str, kinds.choice(("auto", "off"))] = Field(
        "auto", description="Take over at once when the leader's session ends (PostgreSQL), or only by expiry."
    )
    lost_after: Annotated[timedelta, kinds.duration(most=DAY)] = Field(
        15 * SECOND, description="How long a replica may be silent until its runs count as lost."
    )


class Workers(Discreet):
    """How much runs at once on one replica."""

    threads: Annotated[int, kinds.integer(1, 1000)] = Field(20, description="Runs at once; commands count too.")
    processes: Annotated[int, kinds.integer(1, 1000)] = Field(
        4, description="Child processes for 'isolation: process'."
    )


class History(Discreet):
    """What is kept of past runs."""

    keep_for: Annotated[timedelta, kinds.duration()] = Field(30 * DAY, description="How long runs are kept.")
    keep_runs: Annotated[int, kinds.integer(1, 10**9)] = Field(1000, description="How many runs of each job are kept.")
    output_limit: Annotated[int, kinds.size(0, 16 * KIB**2)] = Field(
        64 * KIB, description="How much of the end of each run's output is kept."
    )


class Http(Discreet):
    """Health, metrics, API and status page."""

    enabled: Annotated[bool, kinds.boolean()] = Field(True, description="Whether to serve HTTP.")
    host: Annotated[str, kinds.text(HOST, r"[^\s:/\[\]]+|[0-9A-Fa-f.:]*:[0-9A-Fa-f.]*:[^\s/\[\]]*")] = Field(
        "127.0.0.1", description="The address to listen on; 0.0.0.0 for all."
    )
    port: Annotated[int | None, kinds.integer(0, 65535, optional=True)] = Field(
        None, description="The port to listen on, 0 for any free one; none for 8080, or the next one that is free."
    )
    token: Annotated[SecretStr | None, kinds.secret(BEARER, _token_problem, optional=True)] = Field(
        None, description="The bearer token of writing calls; without one they are off."
    )
    read_token: Annotated[SecretStr | None, kinds.secret(BEARER, _token_problem, optional=True)] = Field(
        None, description="The bearer token of reading API, metrics and pages; without one these are open."
    )


class Logging(Discreet):
    """What is logged, to stderr."""

    level: Annotated[str, kinds.choice(("debug", "info", "warning", "error"))] = Field(
        "info", description="The least level."
    )
    format: Annotated[str, kinds.choice(("auto", "text", "json"))] = Field(
        "auto", description="auto is text on a terminal and JSON elsewhere."
    )


class RetrySettings(BaseModel):
    """How often and how soon a failed run is started again."""

    attempts: Annotated[int, kinds.integer(1, 1000)] = Field(1, description="Starts in total; 1 is no retry.")
    delay: Annotated[timedelta, kinds.duration(ZERO)] = Field(
        10 * SECOND, description="The wait before the second start."
    )
    factor: Annotated[float, kinds.number(1, 100)] = Field(
        2.0, description="By how much each wait is longer than the last."
    )
    max_delay: Annotated[timedelta, kinds.duration(ZERO)] = Field(10 * MINUTE, description="The longest wait.")
    on: Annotated[tuple[str, ...], composites.texts("a list of error, timeout or both", known=("error", "timeout"))] = (
        Field(("error", "timeout"), alias="for", description="What is tried again.")
    )


class Policies(BaseModel):
    """How jobs run, whatever they do and whenever: what `defaults` may hold."""

    misfire_grace: Annotated[timedelta, kinds.duration(ZERO)] = Field(
        60 * SECOND, description="A tick decided within this time of being due is on time."
    )
    catch_up: Annotated[CatchUp, kinds.choice(CatchUp)] = Field(
        CatchUp.LATEST, description="Which missed ticks run after all: none, the latest or all."
    )
    catch_up_window: Annotated[timedelta, kinds.duration(ZERO)] = Field(
        1 * DAY, description="Ticks older than this are not caught up."
    )
    catch_up_limit: Annotated[int, kinds.integer(1, 10_000)] = Field(
        10, description="With 'catch_up: all', how many missed ticks run at most, the newest."
    )
    overlap: Annotated[Overlap, kinds.choice(Overlap)] = Field(
        Overlap.SKIP, description="What to do when a tick comes due while the job still runs."
    )
    queue_limit: Annotated[int, kinds.integer(1, 10_000)] = Field(
        10, description="With 'overlap: queue', how many runs wait at most."
    )
    max_running: Annotated[int | None, kinds.integer(1, 1000, optional=True)] = Field(
        None, description="How many runs of the job go on at once; none: 1, or any number with 'overlap: allow'."
    )
    timeout: Annotated[timedelta | None, kinds.duration(optional=True)] = Field(
        None, description="How long a run may take, then it is asked to end; none for any time."
    )
    kill_after: Annotated[timedelta, kinds.duration(ZERO, DAY)] = Field(
        10 * SECOND, description="How long a run that was asked to end may take to do so, until its process is killed."
    )
    retry: Annotated[Retry, composites.section(RetrySettings)] = Field(
        Retry(), description="How often and how soon a failed run is started again."
    )
    on_crash: Annotated[OnCrash, kinds.choice(OnCrash)] = Field(
        OnCrash.FAIL, description="What becomes of a run whose replica died: it has failed, or runs again."
    )
    on_leadership_lost: Annotated[OnLeadershipLost, kinds.choice(OnLeadershipLost)] = Field(
        OnLeadershipLost.FINISH, description="Whether a run goes on when its replica no longer leads."
    )
    isolation: Annotated[Isolation, kinds.choice(Isolation)] = Field(
        Isolation.THREAD, description="Where a function runs: in a thread of the service, or in a process of its own."
    )


class Job(Policies):
    """One job: what runs, when it runs, and how."""

    run: Annotated[str | None, _reference()] = Field(
        None, description="A function to call, as in cleanup:prune for prune() in jobs/cleanup.py."
    )
    command: Annotated[str | tuple[str, ...] | None, composites.command()] = Field(
        None, description="A string for /bin/sh -c, or a list of a program and its arguments; $$ is one dollar in it."
    )
    args: Annotated[tuple[Any, ...], composites.positional()] = Field(
        (), description="The function's arguments by position."
    )
    kwargs: Annotated[Mapping[str, Any], composites.by_name()] = Field(
        {}, description="The function's arguments by name."
    )
    env: Annotated[Mapping[str, str], composites.environment()] = Field(
        {}, description="Environment variables for the process, beside those of the service."
    )
    working_directory: Annotated[Path | None, kinds.text("a path")] = Field(
        None, description="Where the process runs; relative to this file. None: where the service was started."
    )
    cron: Annotated[str | None, kinds.text("a cron expression in quotes, such as '*/5 * * * *'")] = Field(
        None, description="Five fields as in crontab(5), or six with seconds first, or @daily and the like."
    )
    every: Annotated[timedelta | None, kinds.duration()] = Field(
        None, description="An interval, counted from the Unix epoch, so the same on every replica."
    )
    at: Annotated[datetime | None, kinds.moment()] = Field(None, description="One moment, as in 2026-01-31T12:00:00Z.")
    manual: Annotated[bool, kinds.boolean()] = Field(False, description="true: runs only when triggered.")
    timezone: Annotated[str | None, kinds.timezone()] = Field(
        None, description="The zone of 'cron', and of moments without offset; else service.timezone."
    )
    offset: Annotated[timedelta, kinds.duration(ZERO)] = Field(
        ZERO, description="With 'every': how much later to tick."
    )
    jitter: Annotated[timedelta, kinds.duration(ZERO)] = Field(
        ZERO, description="Delays each tick by a fixed random time below this, the same on every replica."
    )
    starts_at: Annotated[datetime | None, kinds.moment()] = Field(None, description="No tick is earlier.")
    ends_at: Annotated[datetime | None, kinds.moment()] = Field(None, description="No tick is later.")
    enabled: Annotated[bool, kinds.boolean()] = Field(True, description="false: the job has no ticks.")
    description: Annotated[str, kinds.text()] = Field("", description="What the job is for.")
    tags: Annotated[tuple[str, ...], composites.texts("a list of words")] = Field(
        (), description="Words to find it by."
    )


SECTIONS: Mapping[str, type[Discreet]] = {
    "service": Service,
    "database": Database,
    "election": Election,
    "workers": Workers,
    "history": History,
    "http": Http,
    "logging": Logging,
}
