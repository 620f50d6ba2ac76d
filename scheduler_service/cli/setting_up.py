"""`init` and `schema`: what a person needs before there is a configuration."""

from __future__ import annotations

from pathlib import Path

import click

from scheduler_service.cli.options import CONFIG
from scheduler_service.cli.output import Mistake, write_json

_CONFIG = """\
# One service: any number of replicas run with this file, one of them leads.
#   scheduler-service check     look for mistakes, show the next ticks
#   scheduler-service run       run a replica; start as many as you like
version: 1

# database:
#   url: postgresql://user:${DATABASE_PASSWORD}@db.example.com/scheduler   # else an SQLite file beside this one

jobs:
  hello:
    run: example:hello # the function hello in jobs/example.py
    kwargs: {name: world}
    every: 10s
"""

_JOB = '''\
"""Jobs are plain functions; what they print is kept with the run and goes to the log."""


def hello(name: str) -> None:
    print(f"hello {name}")
'''


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init_command(folder: Path) -> None:
    """Write a small config.yaml and jobs/example.py, here or in FOLDER; overwrites nothing."""
    files = {folder / CONFIG: _CONFIG, folder / "jobs" / "example.py": _JOB}
    if there := [str(path) for path in files if path.exists()]:
        raise Mistake(f"{' and '.join(there)} {'exists' if len(there) == 1 else 'exist'} already; nothing was written")
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            click.echo(f"wrote {path}", err=True)
    except OSError as error:
        raise Mistake(f"{error.filename}: {error.strerror}") from None
    place = "" if folder == Path() else f"cd {folder} && "
    click.echo(f"next: {place}scheduler-service run", err=True)


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from scheduler_service.config import json_schema  # noqa: PLC0415  # `init` needs none of it

    write_json(json_schema())
