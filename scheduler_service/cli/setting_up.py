"""`init` and `schema`: what a person needs before there is a configuration."""

from __future__ import annotations

from pathlib import Path

import click

from scheduler_service.cli.output import Mistake, write_json
from scheduler_service.config import json_schema, starter_files


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init_command(folder: Path) -> None:
    """Write a small config.yaml and jobs/example.py, here or in FOLDER; overwrites nothing."""
    files = {folder / name: text for name, text in starter_files().items()}
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
    write_json(json_schema())
