"""`db`: the tables, made, compared and printed."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import psycopg
import pytest

from scheduler_service.tables import HEAD
from tests.cli.conftest import Command


def test_upgrade_makes_the_tables_once(command: Command, sqlite_url: str) -> None:
    first = command("db", "upgrade", "--database", sqlite_url, "--json").document
    second = command("db", "upgrade", "--database", sqlite_url, "--json").document

    assert first["before"] is None
    assert second == {"before": first["after"], "after": first["after"]}
    assert (
        command("db", "check", "--database", sqlite_url).out
        == f"{sqlite_url}: as expected, revision {first['after']}\n"
    )


def test_upgrade_makes_them_in_the_schema_that_is_named(command: Command, postgres_url: str) -> None:
    options = ["--database", postgres_url, "--schema", "mine"]

    assert command("db", "upgrade", *options).code == 0
    assert command("db", "check", *options, "--json").document == {"differences": []}
    assert command("db", "check", "--database", postgres_url, exit_code=1).out == (
        "there are no tables: run `scheduler-service db upgrade`\n"
    )


def test_check_names_what_differs_and_answers_no(command: Command, migrated_postgres_url: str) -> None:
    with psycopg.connect(migrated_postgres_url) as connection:
        connection.execute("drop index scheduler.leader_lease_id_term")

    answered = command("db", "check", "--database", migrated_postgres_url, exit_code=1)

    assert "leader_lease_id_term" in answered.out


def test_looking_at_a_file_that_is_not_there_makes_none(command: Command, tmp_path: Path) -> None:
    for name in (["status"], ["runs"], ["why", "job", "2026-01-01"], ["db", "check"]):
        answered = command(*name, "--database", f"sqlite:///{tmp_path / 'none.db'}", exit_code=69)
        assert "there is no such file" in answered.err
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("name", ["what?", "a%20b", "a b", "ü", "#(@:+&=", "50%"])
def test_a_file_is_found_whatever_its_folder_is_called(command: Command, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    config, file = folder / "config.yaml", folder / "scheduler.db"
    config.write_text("version: 1\njobs: {}\n")

    assert command("db", "upgrade", "-c", config).code == 0
    assert (list(tmp_path.iterdir()), file.exists()) == ([folder], True)
    assert command("db", "check", "-c", config).out.endswith(f": as expected, revision {HEAD}\n")
    assert "no replica has signed in" in command("status", "-c", config, exit_code=1).out
    file.unlink()
    refused = command("status", "-c", config, exit_code=69).err
    assert refused.endswith(": there is no such file; a replica makes it when it starts\n")
    named = refused.removeprefix("error: ").partition(": there is")[0]
    assert command("db", "upgrade", "--database", named).out.startswith(f"{named}: brought from nothing")
    assert file.exists()


def test_a_folder_whose_name_is_not_utf_8_is_one_like_any_other(command: Command, tmp_path: Path) -> None:
    config = tmp_path / os.fsdecode(b"\xfed") / "config.yaml"
    config.parent.mkdir()
    config.write_text("version: 1\njobs: {}\n")
    shown = rf"sqlite:///{tmp_path}/\udcfed/scheduler.db"

    assert "there is no such file" in command("status", "-c", config, exit_code=69).err
    assert command("db", "upgrade", "-c", config).out == f"{shown}: brought from nothing to revision {HEAD}\n"
    assert (config.parent / "scheduler.db").exists()
    assert command("db", "check", "-c", config).out == f"{shown}: as expected, revision {HEAD}\n"
    assert "no replica has signed in" in command("status", "-c", config, exit_code=1).out


def test_the_sql_makes_the_same_tables(command: Command, tmp_path: Path) -> None:
    script = command("db", "sql", "--dialect", "sqlite").out
    connection = sqlite3.connect(tmp_path / "made.db")
    connection.executescript(script)
    connection.close()

    assert command("db", "check", "--database", f"sqlite:///{tmp_path / 'made.db'}").code == 0


def test_the_sql_for_postgresql_has_the_schema_and_the_grants(command: Command) -> None:
    script = command(
        "db", "sql", "--database", "postgresql://nobody@nowhere/x", "--schema", "mine", "--role", "app"
    ).out

    assert 'create schema if not exists "mine"' in script
    assert 'grant usage on schema "mine" to "app"' in script


def test_a_configuration_and_a_url_are_one_too_many(command: Command, sqlite_url: str) -> None:
    answered = command("status", "-c", "config.yaml", "--database", sqlite_url, exit_code=2)

    assert answered.err == "error: --config and --database name two databases: leave one of them out\n"


def test_options_of_a_url_without_one_are_refused(command: Command) -> None:
    assert "belong to --database" in command("status", "--schema", "mine", exit_code=2).err


def test_a_url_that_is_none_is_the_persons_mistake(command: Command) -> None:
    answered = command("status", "--database", "mysql://host/x", exit_code=2)

    assert answered.err.startswith("error: 'mysql' is not a database we know")
