"""Options that several commands share, and what they lead to: a configuration, or a database.

-c FILE           that file, else SCHEDULER_CONFIG, else config.yaml here
--database URL    for commands that need no configuration; --schema and --lock-id belong to it
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scheduler_service.cli.output import Mistake, NoDatabase, Problems
from scheduler_service.moments import MomentError, read_moment

if TYPE_CHECKING:
    from scheduler_service.config import Config
    from scheduler_service.database import Database

CONFIG = "config.yaml"
CONFIG_VARIABLE = "SCHEDULER_CONFIG"
LOST_AFTER_SECONDS = 15.0  # the default of election.lost_after, where no configuration is at hand

LOCK_ID = click.IntRange(-(2**63), 2**63 - 1)  # what a column of the tables holds

Function = TypeVar("Function", bound=Callable[..., Any])

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The configuration; else {CONFIG_VARIABLE}, else {CONFIG}.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")


job_argument = click.argument("job")


def database_options(function: Function) -> Function:
    """Add the options that name a database: by a configuration, or by a URL."""
    for option in (
        click.option("--lock-id", type=LOCK_ID, metavar="N", help="With --database: the election (1)."),
        click.option("--schema", metavar="NAME", help="With --database: the schema of the tables (scheduler)."),
        click.option("--database", "database_url", metavar="URL", help="A database, instead of a configuration."),
        config_option,
    ):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tables are, and which election is meant."""

    database: Database
    lock_id: int
    timezone: str  # for moments that are typed without one
    lost_after_seconds: float


def load_config(config_path: Path | None) -> Config:
    """Read the configuration; Problems, one a line, if it cannot be used."""
    from scheduler_service.config import ConfigError, load  # noqa: PLC0415  # `db` with --database needs none of it

    path = config_path or Path(os.environ.get(CONFIG_VARIABLE) or CONFIG)
    try:
        return load(path)
    except ConfigError as error:
        raise Problems(error) from None


@contextlib.contextmanager
def open_place(
    config_path: Path | None, database_url: str | None, schema: str | None, lock_id: int | None
) -> Iterator[Place]:
    """Lend the database that the options name; what it refuses leaves the block as NoDatabase."""
    from scheduler_service.database import Database, StoreRefused, StoreUnavailable  # noqa: PLC0415  # takes 0.2 s

    if database_url is not None:
        if config_path is not None:
            raise Mistake("--config and --database name two databases: leave one of them out")
        url, lost_after_seconds, timezone = database_url, LOST_AFTER_SECONDS, "UTC"
        schema, lock_id = schema or "scheduler", 1 if lock_id is None else lock_id
    else:
        if schema is not None or lock_id is not None:
            raise Mistake("--schema and --lock-id belong to --database; the configuration says both")
        try:
            config = load_config(config_path)
        except Problems as problems:
            problems.advice = "this command needs only the database: --database URL names it without a configuration"
            raise
        url, schema = config.database.url.get_secret_value(), config.database.schema_
        lock_id, timezone = config.election.lock_id, config.service.timezone
        lost_after_seconds = config.election.lost_after.total_seconds()
    try:
        database = Database(url, schema=schema, name="scheduler-service command")
    except StoreRefused as error:
        raise Mistake(str(error)) from None
    try:
        yield Place(database, lock_id, timezone, lost_after_seconds)
    except StoreUnavailable as error:
        raise NoDatabase(f"{database.safe_url}: {error}") from None
    finally:
        database.dispose()


def require_file(database: Database) -> None:
    """NoDatabase if it is an SQLite file that is not there: looking must not make one."""
    if database.file is not None and not database.file.exists():
        raise NoDatabase(f"{database.safe_url}: there is no such file; a replica makes it when it starts")


def moment(text: str, timezone: str, now: datetime | None = None) -> datetime:
    """Return the moment that a person typed, see `read_moment`; Mistake if it is none."""
    try:
        return read_moment(text, timezone, now)
    except MomentError as error:
        raise Mistake(str(error)) from None
