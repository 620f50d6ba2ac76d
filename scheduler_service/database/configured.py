"""What the database has to say about a configuration, before anything is connected."""

from __future__ import annotations

from scheduler_service.config import Config, Problem
from scheduler_service.config.problems import WHOLE_FILE, Report
from scheduler_service.database import urls
from scheduler_service.database.errors import StoreRefused


def check_url(config: Config) -> tuple[Problem, ...]:
    """Return what is wrong with database.url, with its place; reading a configuration knows no driver's options."""
    report = Report(config.file)
    try:
        urls.parse(config.database.url.get_secret_value())
    except StoreRefused as error:
        report.add(config.places.get("database.url", WHOLE_FILE), "database.url", str(error))
    return report.problems
