"""A PostgreSQL that follows another, to be promoted."""

from __future__ import annotations

import time

from sqlalchemy import make_url

from tests.servers import START_SECONDS, PostgresServer, ServerError

_NAME = "standby"


class StandbyServer(PostgresServer):
    """A streaming standby of a running server, made from a base backup when it starts.

    It reaches its primary by `primary_url`.
    """

    def __init__(self, primary_url: str, port: int | None = None) -> None:
        super().__init__()
        self._primary = make_url(primary_url)
        if port is not None:
            self.port = port

    def promote(self) -> None:
        """Make it a server of its own; returns when it writes."""
        self._control("promote")

    def _fill(self) -> None:
        place = f"host={self._primary.host} port={self._primary.port} user=postgres application_name={_NAME}"
        self._run("pg_basebackup", "-D", self.data, "-d", place, "-X", "stream", "-c", "fast", "-R", "--no-sync")


def require_the_standby(primary: PostgresServer) -> None:
    """Let every commit on the primary wait for its standby from now on; returns when they do."""
    primary.configure(synchronous_standby_names=_NAME)
    deadline = time.monotonic() + START_SECONDS
    with primary.connect() as connection:
        while connection.execute("select sync_state from pg_stat_replication").fetchall() != [("sync",)]:
            if time.monotonic() > deadline:
                raise ServerError(f"the standby does not follow:\n{primary.log[-2000:]}")
            time.sleep(0.01)
