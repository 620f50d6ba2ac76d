"""`status`, `runs` and `why`: what the ledger says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from scheduler_service import __version__, tables
from scheduler_service.cli import rendering
from scheduler_service.cli.options import (
    Place,
    database_options,
    job_argument,
    json_option,
    moment,
    open_place,
    require_file,
)
from scheduler_service.cli.output import Mistake, did_you_mean, say, write_json
from scheduler_service.ledger.history import History, documents, why
from scheduler_service.ledger.history.reading import MOST_RUNS
from scheduler_service.model import State

NO_LEADER = 1
SHOWN_RUNS = 20
STARTS_FIRST = (
    "a replica makes them when it starts, unless database.create_tables is false: "
    "then `scheduler-service db upgrade` does"
)


@contextlib.contextmanager
def open_history(
    config_path: Path | None, database_url: str | None, schema: str | None, lock_id: int | None
) -> Iterator[tuple[History, Place]]:
    """Lend the ledger that the options name, to read; Mistake and NoDatabase as of `open_place`."""
    with open_place(config_path, database_url, schema, lock_id) as place:
        require_file(place.database)
        tables.require_current(place.database, STARTS_FIRST)
        yield History(place.database, place.lock_id), place


@click.command("status")
@database_options
@json_option
@click.pass_context
def status_command(
    ctx: click.Context,
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    as_json: bool,
) -> None:
    """Show who leads since when, the replicas, and the jobs with their last run and next tick.

    Exit code 1 if nobody leads, or a program that is no replica of this service.
    """
    with open_history(config_path, database_url, schema, lock_id) as (history, place):
        standing = history.standing()
        if as_json:
            write_json(documents.status_document(standing, place.lost_after_seconds, __version__))
        else:
            rendering.write_status(standing, place.lost_after_seconds)
    ctx.exit(0 if standing.leader is not None and standing.stranger() is None else NO_LEADER)


@click.command("runs")
@database_options
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only rows in this state.")
@click.option("--since", metavar="TIME", help="Only ticks since then: ISO 8601, or how long ago, as in 90m.")
@click.option(
    "--limit", type=click.IntRange(1, MOST_RUNS), default=SHOWN_RUNS, show_default=True, help="The newest so many."
)
@json_option
@click.argument("words", nargs=-1, metavar="[JOB | show ID]")
def runs_command(
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    state: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Show the ledger, the newest tick first: what ran, and what was missed or skipped.

    `runs show ID` shows one run with its attempts and what they wrote.
    """
    shows = len(words) == 2 and words[0] == "show"
    if len(words) > 1 and not shows:
        raise Mistake(f"one job at a time, or: runs show ID; got {' '.join(words)!r}")
    with open_history(config_path, database_url, schema, lock_id) as (history, place):
        if shows:
            _show(history, words[1], as_json)
            return
        job = words[0] if words else None
        start = moment(since, place.timezone, history.now()) if since is not None else None
        rows = history.runs(job_id=job, state=State(state) if state else None, since=start, limit=limit + 1)
        if not rows and job is not None:
            _require_job(history, job)
    if as_json:
        write_json([documents.run_document(row) for row in rows[:limit]])
    elif rows:
        rendering.write_runs(rows[:limit])
    else:
        say("no runs", err=True)
    if len(rows) > limit:
        say(f"there are older ones: --limit {min(MOST_RUNS, limit * 10)}", err=True)


def _show(history: History, typed: str, as_json: bool) -> None:
    found = history.run(require_run_id(typed))
    if found is None:
        raise unknown_run(typed)
    if as_json:
        write_json(documents.run_details(*found))
    else:
        rendering.write_run(*found)


@click.command("why")
@database_options
@json_option
@job_argument
@click.argument("time")
def why_command(
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    as_json: bool,
    job: str,
    time: str,
) -> None:
    """Say what was decided for the tick of JOB at TIME, by whom, and why.

    TIME is ISO 8601; without an offset it is in the job's zone, or in the service's for a job without cron: UTC with
    --database, where no configuration says it.
    """
    with open_history(config_path, database_url, schema, lock_id) as (history, place):
        row = history.job(job)
        if row is None:
            raise unknown_job(job, history.job_ids())
        answer = why(history, row, moment(time, row.zone(place.timezone)))
    if as_json:
        write_json(documents.answer_document(answer))
    else:
        rendering.write_answer(answer)


def _require_job(history: History, job: str) -> None:
    known = history.job_ids()
    if job not in known:
        raise unknown_job(job, known)


def require_run_id(typed: str) -> int:
    """Return the id that was typed; Mistake if no run can have it."""
    run_id = int(typed) if typed.isascii() and typed.isdigit() and len(typed) < 20 else 0
    if not 0 < run_id < 2**63:
        raise unknown_run(typed)
    return run_id


def unknown_run(typed: str) -> Mistake:
    """Return what to tell a person who named a run that there is not."""
    return Mistake(f"there is no run {typed!r}: the ids are in the first column of `scheduler-service runs`")


def unknown_job(job: str, known: Sequence[str]) -> Mistake:
    """Return what to tell a person who named a job that there is not."""
    hint = did_you_mean(job, known) or ": no leader has taken up any job yet"
    return Mistake(f"the ledger knows no job {job!r}{hint}")
