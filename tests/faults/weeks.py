"""A week that nobody led: the jobs that came due in it, and a ledger that was written before it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.faults.evidence import Books

WEEK = timedelta(days=7)


def jobs_of_a_week(count: int) -> dict[str, Any]:
    """Return jobs a third of which each come due every minute, hour and day, some with another `catch_up`."""
    jobs = {}
    for number in range(count):
        minute, hour = number % 60, number % 24
        expression = ("* * * * *", f"{minute} * * * *", f"{minute} {hour} * * *")[number % 3]
        catch_up = ("latest", "latest", "latest", "all", "none")[number % 5]
        jobs[f"job-{number:03}"] = {"run": "tally:nothing", "cron": expression, "catch_up": catch_up}
    return jobs


def move_back(books: Books) -> None:
    """Make the ledger a week older than it is; nothing had run in it."""
    week = "604800000000" if books.on_sqlite else "interval '7 days'"
    columns = ("settled_until", "accountable_from", "present_at")
    moved = ", ".join(f"{column} = {column} - {week}" for column in columns)
    books.execute(f"update {{p}}job_state set {moved}")
    # What was decided in the moment before lies inside that week.
    books.execute("delete from {p}run")
