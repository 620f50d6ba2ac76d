"""Relations between settings of one section: checked wherever all settings of the relation could be read."""

from __future__ import annotations

from datetime import timedelta

from scheduler_service.config.problems import Report
from scheduler_service.config.sections import Section
from scheduler_service.config.values import UNITS, duration_text
from scheduler_service.passwords import password_problem

MILLISECOND = UNITS["ms"]
LEAST_TOKEN = 16  # characters: shorter ones can be tried out


def check_sections(sections: dict[str, Section], report: Report) -> None:
    """Report settings that do not go together."""
    _check_lease(sections["election"], report)
    _check_lost_after(sections["election"], report)
    _check_tokens(sections["http"], report)
    _check_password(sections["database"], report)
    _check_schema(sections["database"], report)


def _check_lease(election: Section, report: Report) -> None:
    names = ("lease_duration", "renewal_interval", "attempt_timeout", "jitter_range", "safety_margin")
    if not election.known(*names):
        return
    lease, renewal, attempt, jitter, margin = (election.get(name) for name in names)
    least = margin + renewal + jitter + 2 * attempt
    if lease >= least:
        return
    position, path = election.place(*names)
    if not election.shows(*names):
        message = (
            "lease_duration - safety_margin is less than renewal_interval + jitter_range + 2 * attempt_timeout, "
            "too little to survive one failed renewal: raise lease_duration"
        )
        report.add(position, path, message)
        return
    # What a person wrote last is what they can lower: the first written of these, or the usual one.
    name = next((name for name in names[1:] if election.has(name)), "renewal_interval")
    share = 2 if name == "attempt_timeout" else 1
    most = (election.get(name) - (least - lease) / share) // MILLISECOND * MILLISECOND
    lower = f", or lower {name} to at most {duration_text(most)}" if most >= MILLISECOND else ""
    message = f"lease_duration is {duration_text(lease)}, too short to survive one failed renewal: "
    report.add(position, path, message + f"raise it to at least {duration_text(least)}{lower}")


def _check_lost_after(election: Section, report: Report) -> None:
    names = ("lost_after", "renewal_interval", "attempt_timeout")
    if not election.known(*names):
        return
    lost_after, renewal, attempt = (election.get(name) for name in names)
    # Every replica signs in once per renewal_interval; a statement takes up to attempt_timeout to fail.
    least: timedelta = 2 * (renewal + attempt)
    if lost_after >= least:
        return
    position, path = election.place(*names)
    if not election.shows(*names):
        message = "lost_after is less than 2 * (renewal_interval + attempt_timeout), so two failed sign-ins lose runs"
    else:
        message = (
            f"lost_after is {duration_text(lost_after)}, so a replica whose sign-in fails twice would lose its runs: "
            f"raise it to at least {duration_text(least)}"
        )
    report.add(position, path, message)


def _check_tokens(http: Section, report: Report) -> None:
    token = http.get("token")
    if http.known("token", "read_token") and token is not None and token == http.get("read_token"):
        position, path = http.place("read_token")
        report.add(position, path, "is the same as http.token, so readers could write: use another one")
    for name in ("token", "read_token"):
        given = http.get(name)
        if http.known(name) and given is not None and len(given.get_secret_value()) < LEAST_TOKEN:
            position, path = http.place(name)
            report.warn(position, path, f"is short enough to be guessed: take {LEAST_TOKEN} random characters or more")


def _check_password(database: Section, report: Report) -> None:
    # Here and not where the URL is read: there a message about what came from a variable says no more than that.
    url = database.get("url").get_secret_value() if database.known("url") else ""
    if url.startswith("postgres") and (problem := password_problem(url)) is not None:
        position, path = database.place("url")
        report.add(position, path, problem)


def _check_schema(database: Section, report: Report) -> None:
    sqlite = database.known("url") and database.get("url").get_secret_value().startswith("sqlite")
    if sqlite and database.has("schema_"):
        position, path = database.place("schema_")
        report.warn(position, path, "SQLite has no schemas: this has no effect")
