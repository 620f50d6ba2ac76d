"""`trigger`: ask for a run now, and follow it to its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from scheduler_service.cli import rendering
from scheduler_service.cli.asking import (
    arg_option,
    args_option,
    asker,
    by_option,
    checked_text,
    job_arguments,
    refuse_job,
)
from scheduler_service.cli.looking import open_history
from scheduler_service.cli.options import database_options, job_argument, json_option
from scheduler_service.cli.output import Mistake, about, say, span, write_json
from scheduler_service.database import StoreRefused, StoreUnavailable
from scheduler_service.ledger.history import AttemptRow, History, RunRow, documents
from scheduler_service.ledger.requests import KeyTaken, NoSuchJob, NotConfigured, Requests, Triggered
from scheduler_service.model import State

FAILED, INTERRUPTED = 1, 130
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.3, 1.0
OUTAGE_SECONDS = 60.0  # for so long the database may be away while a run is followed

Found = tuple[RunRow, Sequence[AttemptRow]]


@click.command("trigger")
@database_options
@args_option
@arg_option
@click.option("--wait", is_flag=True, help="Show how it goes; exit 0 if the run succeeded, 1 if not.")
@click.option("--key", metavar="KEY", help="The same key is the same run, however often it is asked for.")
@by_option
@json_option
@job_argument
@click.pass_context
def trigger_command(
    ctx: click.Context,
    config_path: Path | None,
    database_url: str | None,
    schema: str | None,
    lock_id: int | None,
    args: str | None,
    pairs: tuple[str, ...],
    wait: bool,
    key: str | None,
    by: str | None,
    as_json: bool,
    job: str,
) -> None:
    """Ask for a run of JOB now, whatever its schedule says.

    A replica that leads starts it within about a second, where the job's overlap policy lets it.  A list in
    --args takes the place of the job's args, an object is merged over its kwargs.  With --wait the progress
    goes to stderr and what the run wrote to stdout; Ctrl-C ends the waiting and not the run.
    """
    name, arguments = asker(by), job_arguments(args, pairs)
    if key is not None:
        checked_text("--key", key)
    with open_history(config_path, database_url, schema, lock_id) as (history, place):
        answer = Requests(place.database, place.lock_id).trigger(job, by=name, arguments=arguments, key=key)
        if isinstance(answer, NoSuchJob | NotConfigured):
            refuse_job(answer)
        if isinstance(answer, KeyTaken):
            raise Mistake(f"the key {answer.key!r} belongs to run {answer.run_id} of {answer.job_id}: take another")
        follower = _Follower(history, answer)
        try:
            found = follower.follow() if wait else history.run(answer.run_id)
        except KeyboardInterrupt:
            say(
                f"\nrun {answer.run_id} goes on: `scheduler-service runs show {answer.run_id}` shows it, "
                f"`scheduler-service cancel {answer.run_id}` ends it",
                err=True,
            )
            ctx.exit(INTERRUPTED)
        if found is None:
            say(f"run {answer.run_id} is not there any more: it was pruned", err=True)
            ctx.exit(FAILED)
        if not wait:
            follower.tell_first(found[0])
    _write(found, answer, wait, as_json)
    ctx.exit(FAILED if wait and found[0].state is not State.SUCCEEDED else 0)


def _write(found: Found, answer: Triggered, wait: bool, as_json: bool) -> None:
    row, attempts = found
    if as_json:
        document = documents.run_details(row, attempts) if wait else documents.run_document(row)
        write_json({**document, "new": answer.new})
    elif not wait:
        say(f"run {row.id} of {row.job_id}: {row.state.value}")
    elif attempts and attempts[-1].output:
        if sys.stdout.isatty():
            say(attempts[-1].output.removesuffix("\n"), colours=True)
        else:
            click.echo(attempts[-1].output, nl=False, color=True)  # as it was written


class _Follower:
    """Tells on stderr what becomes of one run."""

    def __init__(self, history: History, asked: Triggered) -> None:
        self._history = history
        self._asked = asked
        self._looked = False
        self._leaderless = False
        self._begun_count = 0  # attempts whose beginning was told,
        self._ended_count = 0  # and their end

    def follow(self) -> Found | None:
        """Wait for the end of the run; None if its row is removed meanwhile."""
        pause = FIRST_LOOK_SECONDS
        away_since: float | None = None
        while True:
            try:
                found = self._history.run(self._asked.run_id)
                if found is None:
                    return None
                news = self.tell(found)
                if not found[0].is_open:
                    return found
                away_since = None
            except StoreRefused:
                raise
            except StoreUnavailable as error:
                if away_since is None:
                    away_since, news = time.monotonic(), False
                    say(f"the database does not answer ({error}); trying again", err=True)
                elif time.monotonic() - away_since > OUTAGE_SECONDS:
                    raise
            pause = FIRST_LOOK_SECONDS if news else min(pause * 1.2, LAST_LOOK_SECONDS)
            time.sleep(pause)

    def tell(self, found: Found) -> bool:
        """Say what is new since the last time; return whether anything is."""
        row, attempts = found
        before = (self._looked, self._leaderless, self._begun_count, self._ended_count)
        if not self._looked:
            self._looked = True
            say(f"run {row.id} of {row.job_id} is {row.state.value.replace('_', ' ')}", err=True)
            self.tell_first(row)
        elif row.state is State.WAITING:
            self._tell_leaderless()
        for attempt in attempts:
            self._tell_attempt(row, attempt)
        if not row.is_open:
            self._tell_end(row, attempts)
        return before != (self._looked, self._leaderless, self._begun_count, self._ended_count)

    def tell_first(self, row: RunRow) -> None:
        """Say what a person may not expect: that the run is not new, or will not start soon."""
        if not self._asked.new:
            say(f"the key {row.request_key!r} was used before: this is run {row.id}", err=True)
        if row.state is State.WAITING:
            if self._asked.paused:
                say(f"{row.job_id} is paused: the run starts when the job is resumed", err=True)
            self._tell_leaderless()

    def _tell_leaderless(self) -> None:
        leaderless = self._history.leader() is None
        if leaderless and not self._leaderless:
            say("nobody leads: the run starts when a replica leads", err=True)
        self._leaderless = leaderless

    def _tell_attempt(self, row: RunRow, attempt: AttemptRow) -> None:
        if attempt.attempt > self._begun_count:
            self._begun_count = attempt.attempt
            number = f" (attempt {attempt.attempt})" if attempt.attempt > 1 else ""
            say(f"started on {attempt.instance_id} at {about(attempt.started_at)}{number}", err=True)
        goes_on = attempt.state is State.RUNNING or (attempt.attempt == row.attempt and row.state is not State.WAITING)
        if attempt.attempt > self._ended_count and not goes_on:
            self._ended_count = attempt.attempt
            following = (
                f"; attempt {row.attempt + 1} is due at {about(row.due_at)}" if row.state is State.WAITING else ""
            )
            say(f"attempt {attempt.attempt} {_ending(attempt)}{following}", err=True)

    def _tell_end(self, row: RunRow, attempts: Sequence[AttemptRow]) -> None:
        last = attempts[-1] if attempts else None
        if last is not None and last.output_truncated:
            say("of its output, the end is kept", err=True)
        if last is not None and last.error:
            say(last.error.rstrip("\n"), err=True)
        took = f" after {span(row.duration_seconds)}" if row.duration_seconds is not None else ""
        by = f", {rendering.cancelled_by(row)}" if row.state is State.CANCELLED and row.cancel_requested_by else ""
        reason = f" ({row.reason.value})" if row.reason is not None else ""
        say(f"run {row.id} of {row.job_id} {row.state.value.replace('_', ' ')}{took}{reason}{by}", err=True)


def _ending(attempt: AttemptRow) -> str:
    lines = (attempt.error or "").strip().splitlines()
    cause = f": {lines[-1].strip()}" if lines else ""
    return f"{attempt.state.value.replace('_', ' ')} after {span(attempt.duration_seconds)}{cause}"
