"""What the web pages and the API see of the service: snapshots, the ledger, and the requests one may make."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler_service.config import Config
from scheduler_service.database import Database
from scheduler_service.ledger.history import Coming, History
from scheduler_service.ledger.history.pages import Pages
from scheduler_service.ledger.requests import Requests
from scheduler_service.service import Health, Parts

QUERY_SECONDS = 3.0  # for each answer of the database: a page that takes longer is of no use


@dataclass(frozen=True, slots=True)
class View:
    """One replica, as HTTP shows it."""

    name: str  # of the service
    instance_id: str
    lock_id: int
    lost_after_seconds: float
    health: Health
    history: History
    pages: Pages
    coming: Coming
    requests: Requests
    parts: Parts
    token: str | None = field(repr=False)  # of writing calls; without one they are off
    read_token: str | None = field(repr=False)  # of reading calls; without one they are open
    close: Callable[[], None] = field(repr=False)
    stopping: threading.Event = field(default_factory=threading.Event)  # set when the server ends: streams end too

    @property
    def timezone(self) -> str:
        """The service's, of moments that are asked for without an offset.  An edit changes it at once."""
        return self.parts.reloader.config.service.timezone


def view_of(config: Config, parts: Parts) -> View:
    """Return the view of a replica, with database connections of its own."""
    election, http = config.election, config.http
    database = Database(
        config.database.url.get_secret_value(),
        schema=config.database.schema_,
        statement_seconds=QUERY_SECONDS,
        name="scheduler-service http",
    )
    return View(
        name=config.service.name,
        instance_id=parts.elector.instance_id,
        lock_id=election.lock_id,
        lost_after_seconds=election.lost_after.total_seconds(),
        health=Health(config, parts),
        history=History(database, election.lock_id),
        pages=Pages(database, election.lock_id),
        coming=Coming(),
        requests=Requests(database, election.lock_id),
        parts=parts,
        token=http.token.get_secret_value() if http.token is not None else None,
        read_token=http.read_token.get_secret_value() if http.read_token is not None else None,
        close=database.dispose,
    )
