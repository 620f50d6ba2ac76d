"""`db`: make, compare or print the tables."""

from __future__ import annotations

from pathlib import Path

import click

from scheduler_service import tables
from scheduler_service.cli.options import database_options, json_option, load_config, open_place, require_file
from scheduler_service.cli.output import say, write_json
from scheduler_service.database import Database


@click.group("db")
def db_command() -> None:
    """Make, compare or print the tables."""


@db_command.command("upgrade")
@database_options
@json_option
def upgrade_command(
    config_path: Path | None, database_url: str | None, schema: str | None, lock_id: int | None, as_json: bool
) -> None:
    """Make the tables, or bring them to the revision of this version."""
    with open_place(config_path, database_url, schema, lock_id) as place:
        before, after = tables.upgrade(place.database)
        if as_json:
            write_json({"before": before, "after": after})
        elif before == after:
            say(f"{_name(place.database)}: at revision {after} already")
        else:
            say(f"{_name(place.database)}: brought from {before or 'nothing'} to revision {after}")


@db_command.command("check")
@database_options
@json_option
@click.pass_context
def check_command(
    ctx: click.Context,
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    as_json: bool,
) -> None:
    """Compare the tables with those that this version expects; exit code 1 if they differ."""
    with open_place(config_path, database_url, schema, lock_id) as place:
        require_file(place.database)
        differences = tables.check(place.database)
        if as_json:
            write_json({"differences": differences})
        elif differences:
            for difference in differences:
                say(difference)
        else:
            say(f"{_name(place.database)}: as expected, revision {tables.HEAD}")
    ctx.exit(1 if differences else 0)


@db_command.command("sql")
@database_options
@click.option("--dialect", type=click.Choice(["postgresql", "sqlite"]), help="Which SQL, where nothing else says it.")
@click.option("--role", metavar="NAME", help="On PostgreSQL: grant NAME what it needs to run the service.")
def sql_command(
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    dialect: str | None,
    role: str | None,
) -> None:
    """Print the SQL that makes the tables in an empty database, for a DBA to run.

    Asks no database.  With --dialect alone no configuration is read.
    """
    if database_url is not None:
        with open_place(config_path, database_url, schema, lock_id) as place:
            dialect, schema = dialect or place.database.dialect, place.database.schema
    elif dialect is None or config_path is not None:
        config = load_config(config_path)
        schema = schema or config.database.schema_
        sqlite = config.database.url.get_secret_value().startswith("sqlite")
        dialect = dialect or ("sqlite" if sqlite else "postgresql")
    click.echo(tables.upgrade_sql(dialect, schema or "scheduler", role), nl=False)


def _name(database: Database) -> str:
    schema = f", schema {database.schema}" if database.dialect == "postgresql" else ""
    return f"{database.safe_url}{schema}"
