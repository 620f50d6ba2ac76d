"""`pause`, `resume`, `cancel` and `resign`: what is asked of the service through the database."""

from __future__ import annotations

import time
from pathlib import Path

import click

from scheduler_service.cli.asking import asker, by_option, checked_text, refuse_job
from scheduler_service.cli.looking import open_history, require_run_id, unknown_job, unknown_run
from scheduler_service.cli.options import database_options, job_argument, json_option, moment
from scheduler_service.cli.output import Mistake, about, say, write_json
from scheduler_service.ledger.history import History, Leader, Pause, documents
from scheduler_service.ledger.requests import (
    CancelledRun,
    Ended,
    NoSuchJob,
    NoSuchRun,
    NotConfigured,
    NotInFuture,
    NotPaused,
    NotSettled,
    Paused,
    Requests,
)
from scheduler_service.model import State

NO = 1
SETTLED_WITHIN_SECONDS = 5.0  # a leader at work has settled a pause that is over
HANDED_OVER_WITHIN_SECONDS = 12.0  # two rounds with the default timing: the request is found, and the lease
LOOK_SECONDS = 0.2


@click.command("pause")
@database_options
@click.option("--until", metavar="TIME", help="Until then, instead of until it is resumed.")
@click.option("--reason", metavar="TEXT", help="Why, for others to read.")
@by_option
@json_option
@job_argument
@click.pass_context
def pause_command(
    ctx: click.Context,
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    until: str | None,
    reason: str | None,
    by: str | None,
    as_json: bool,
    job: str,
) -> None:
    """Let no run of JOB start from now on; what runs goes on.

    The ticks that come meanwhile are recorded as skipped.  Pausing a paused job changes until when and why.
    TIME is ISO 8601; without an offset it is in the job's zone, or in the service's for a job without cron: UTC with
    --database, where no configuration says it.
    """
    name = asker(by)
    why = checked_text("--reason", reason) if reason is not None else None
    with open_history(config_path, database_url, schema, lock_id) as (history, place):
        end = None
        if until is not None:
            row = history.job(job)
            if row is None:
                raise unknown_job(job, history.job_ids())
            end = moment(until, row.zone(place.timezone))
        requests = Requests(place.database, place.lock_id)
        deadline = time.monotonic() + SETTLED_WITHIN_SECONDS
        answer = requests.pause(job, by=name, until=end, reason=why)
        while isinstance(answer, NotSettled) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            answer = requests.pause(job, by=name, until=end, reason=why)
    if isinstance(answer, NoSuchJob | NotConfigured):
        refuse_job(answer)
    if isinstance(answer, NotInFuture):
        raise Mistake(f"--until {until} is not in the future: by the database's clock it is {about(answer.now)}")
    if isinstance(answer, NotSettled):
        say(
            f"{job} was paused until {about(answer.ended_at)}, and no leader has settled that yet: it can be paused "
            "again as soon as one has",
            err=True,
        )
        ctx.exit(NO)
    _write_paused(answer, as_json)


def _write_paused(answer: Paused, as_json: bool) -> None:
    if as_json:
        pause = Pause(answer.at, answer.until, answer.by, answer.reason)
        write_json({"job": answer.job_id, "paused": documents.pause_document(pause)})
        return
    end = "it is resumed" if answer.until is None else about(answer.until)
    say(f"{answer.job_id} is paused since {about(answer.at)} until {end}")


@click.command("resume")
@database_options
@by_option
@json_option
@job_argument
def resume_command(
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    by: str | None,
    as_json: bool,
    job: str,
) -> None:
    """End the pause of JOB now; runs that waited for it may start.

    A job that is not paused is left as it is, and that is no failure: it runs, as was asked.
    """
    name = asker(by)
    with open_history(config_path, database_url, schema, lock_id) as (_, place):
        answer = Requests(place.database, place.lock_id).resume(job, by=name)
    if isinstance(answer, NoSuchJob):
        refuse_job(answer)
    if as_json:
        write_json(documents.resumed_document(job, answer))
    elif isinstance(answer, NotPaused):
        say(f"{job} is not paused", err=True)
    else:
        say(f"{job} is resumed; it was paused from {about(answer.since)} to {about(answer.at)}")


@click.command("cancel")
@database_options
@by_option
@json_option
@click.argument("run")
@click.pass_context
def cancel_command(
    ctx: click.Context,
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    by: str | None,
    as_json: bool,
    run: str,
) -> None:
    """Keep RUN, an id that `runs` shows, from starting, or ask it to stop.

    A run that waits is cancelled at once.  One that goes on learns of it within a second or so and is not tried
    again: a command or a process gets SIGTERM, and SIGKILL after its kill_after; a coroutine is cancelled; a
    function in a thread has to look at `stopping`.  Exit code 1 if the run had ended otherwise before.
    """
    name = asker(by)
    run_id = require_run_id(run)
    with open_history(config_path, database_url, schema, lock_id) as (history, place):
        answer = Requests(place.database, place.lock_id).cancel(run_id, by=name)
        if isinstance(answer, NoSuchRun):
            raise unknown_run(run)
        found = history.run(run_id) if as_json else None
    if found is not None:
        write_json(documents.run_document(found[0]))
    elif isinstance(answer, Ended):
        say(f"run {run_id} of {answer.job_id} has ended before: {answer.state.value}", err=True)
    elif isinstance(answer, CancelledRun):
        say(f"run {run_id} of {answer.job_id} is cancelled: it had not begun")
    else:
        say(f"run {run_id} of {answer.job_id} is asked to stop, since {about(answer.at)} by {answer.by}")
    ctx.exit(NO if isinstance(answer, Ended) and answer.state is not State.CANCELLED else 0)


@click.command("resign")
@database_options
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until another term has begun.")
@by_option
@json_option
@click.pass_context
def resign_command(
    ctx: click.Context,
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    wait: bool,
    by: str | None,
    as_json: bool,
) -> None:
    """Ask the leader to hand over to another replica; what it runs goes on there.

    It leads again itself if no other replica stands.  Exit code 1 if nobody leads, or nobody leads next within
    some 10 seconds.
    """
    name = asker(by)
    with open_history(config_path, database_url, schema, lock_id) as (history, place):
        asked = Requests(place.database, place.lock_id).resign(by=name)
        if asked is not None:
            say(f"{asked.leader_id} is asked to give up term {asked.term}", err=True)
        leader = _next_leader(history, asked.term) if asked is not None and wait else None
    if as_json:
        write_json(
            {
                "asked": {"instance_id": asked.leader_id, "term": asked.term} if asked is not None else None,
                "leader": documents.leader_document(leader) if leader is not None else None,
            }
        )
    if asked is None:
        say("nobody leads: there is nobody to ask", err=True)
    elif leader is not None:
        again = ": no other replica took over" if leader.instance_id == asked.leader_id else ""
        say(f"{leader.instance_id} leads term {leader.term}{again}", err=as_json)
    elif wait:
        say(f"no other term has begun within {HANDED_OVER_WITHIN_SECONDS:g}s", err=True)
    ctx.exit(NO if asked is None or (wait and leader is None) else 0)


def _next_leader(history: History, term: int) -> Leader | None:
    """Wait for a leader of a later term."""
    deadline = time.monotonic() + HANDED_OVER_WITHIN_SECONDS
    while True:
        leader = history.leader()
        if leader is not None and leader.term > term:
            return leader
        if time.monotonic() >= deadline:
            return None
        time.sleep(LOOK_SECONDS)
