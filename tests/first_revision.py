"""Tables as the first version made them."""

from __future__ import annotations

from alembic import command

from scheduler_service.database import Database
from scheduler_service.tables import revisions, scripts


def make_first_revision(database: Database) -> None:
    """Make the tables of revision 0001 in an empty database."""
    with database.transaction() as connection:
        if database.dialect == "postgresql":
            revisions._make_schema(database, connection)
        config = scripts._config(database.schema_or_none)
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
