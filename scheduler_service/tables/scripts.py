"""Run Alembic's scripts.  The only module that imports Alembic, and so the only one that is slow to import."""

from __future__ import annotations

import io
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_FOLDER = Path(__file__).parent.parent / "migrations"


def known_revisions() -> tuple[str, ...]:
    """Return the revisions that there are scripts for, newest first."""
    return tuple(script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions())


def run(connection: Connection, schema: str | None) -> None:
    """Bring the tables in `schema` to the newest revision, in the transaction of `connection`."""
    config = _config(schema)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def render(dialect: str, schema: str | None) -> str:
    """Return the SQL that brings an empty database to the newest revision."""
    config = _config(schema)
    config.attributes["dialect"] = dialect
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return config.output_buffer.getvalue().strip()


def _config(schema: str | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["schema"] = schema
    return config
