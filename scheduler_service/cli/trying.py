"""`exec`: one job here and now, to try it out."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click

from scheduler_service.cli.asking import arg_option, args_option, job_arguments
from scheduler_service.cli.options import config_option, load_config
from scheduler_service.cli.output import Mistake, Problems, did_you_mean, say, span, visible
from scheduler_service.clock import BootClock, Clock
from scheduler_service.config import Config, ConfigError, check_callables
from scheduler_service.context import Stopping
from scheduler_service.events import WARNING, Event, Events
from scheduler_service.model import Attempt, JobSpec, Kind, Outcome, Retry, State
from scheduler_service.runner import Runner, Surroundings

FAILED, INTERRUPTED = 1, 130


@click.command("exec")
@config_option
@args_option
@arg_option
@click.argument("job")
@click.pass_context
def exec_command(
    ctx: click.Context, config_path: Path | None, args: str | None, pairs: tuple[str, ...], job: str
) -> None:
    """Run JOB once, here and now, as a replica would: with its time-out, but without election or ledger.

    The database is not touched and nothing is recorded or tried again.  What the run writes, which a replica
    would keep, comes to stdout as it is written; how it ended, to stderr.  Exit code 0 if it succeeded, 1 if
    not.  Ctrl-C stops it as a cancel would, a second one at once.  The run's fence, term and id are 0.
    """
    arguments = job_arguments(args, pairs)
    config = load_config(config_path)
    specs = {spec.id: spec for spec in config.jobs}
    if job not in specs:
        raise Mistake(f"there is no job {job!r} in {config.file}{did_you_mean(job, specs)}")
    spec = specs[job].model_copy(update={"enabled": True, "retry": Retry()})
    if spec.command is not None and arguments is not None:
        raise Mistake(f"{job} is a command: it takes no arguments")
    surroundings = Surroundings()  # before the job's module is loaded, which may change them
    if problems := check_callables(config.model_copy(update={"jobs": (spec,)})):
        raise Problems(ConfigError(problems))
    outcome = _execute(config, spec, arguments, surroundings)
    if outcome.error:
        say(outcome.error.rstrip("\n"), err=True)
    say(f"{job} {_ending(outcome)}", err=True)
    ctx.exit(0 if outcome.state is State.SUCCEEDED else FAILED)


def _execute(config: Config, spec: JobSpec, arguments: str | None, surroundings: Surroundings) -> Outcome:
    clock = BootClock()
    # As a replica does: what is below the level is not kept either.
    logging.getLogger().setLevel(config.logging.level.upper())
    runner = Runner(
        jobs_folder=config.service.jobs_folder,
        output_limit=config.history.output_limit,
        events=_warnings(),
        clock=clock,
        instance_id=f"exec@{socket.gethostname()}",
        surroundings=surroundings,
        show=_Shown(),
    )
    try:
        return _run(runner, _attempt(spec, arguments, clock), spec)
    finally:
        close = getattr(runner, "close", None)
        if close is not None:
            close()


def _run(runner: Runner, attempt: Attempt, spec: JobSpec) -> Outcome:
    """Run it on a thread of its own, as a replica does, so that this one is free for Ctrl-C."""
    stop = Stopping()
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(runner.run(attempt, spec, stop)), name="job", daemon=True)
    with _stopping(stop):
        thread.start()
        thread.join()
    if not outcomes:
        raise RuntimeError("the runner ended without an outcome")
    return outcomes[0]


@contextmanager
def _stopping(stop: Stopping) -> Iterator[None]:
    asked = False

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked or stop.is_set():
            os._exit(INTERRUPTED)  # whatever the job is doing
        asked = True  # before it is told: the next signal may come in the middle of that
        say("stopping; once more to stop at once", err=True)
        stop.request(f"{signal.Signals(number).name} was received")

    # SIGCHLD: as in a replica.
    handlers: dict[int, Any] = {signal.SIGINT: ask, signal.SIGTERM: ask, signal.SIGCHLD: signal.SIG_DFL}
    former = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _attempt(spec: JobSpec, arguments: str | None, clock: Clock) -> Attempt:
    now = datetime.now(UTC)
    return Attempt(
        id=0,  # lower than any start by a replica: what it is passed on to takes it for an old one
        run_id=0,
        attempt=1,
        job_id=spec.id,
        scheduled_at=now,
        due_at=now,
        kind=Kind.MANUAL,
        term=0,
        instance_id=f"exec@{socket.gethostname()}",
        started_at=now,
        sent=clock.monotonic(),
        arguments=arguments,
    )


def _ending(outcome: Outcome) -> str:
    code = f" with exit code {outcome.exit_code}" if outcome.exit_code else ""
    result = f", returned {outcome.result}" if outcome.result is not None else ""
    memory = ""
    if outcome.peak_memory_bytes is not None:
        memory = f", peak memory {outcome.peak_memory_bytes / 2**20:.1f} MiB"
    return f"{outcome.state.value.replace('_', ' ')} after {span(outcome.seconds)}{code}{result}{memory}"


def _warnings() -> Events:
    """Return a stream of events of which only the serious ones are shown."""
    stderr = sys.stderr  # as it is now: later what a run prints is led elsewhere

    def tell(event: Event) -> None:
        if event.level >= WARNING:
            fields = " ".join(f"{name}={value}" for name, value in event.fields.items())
            click.echo(visible(f"{event.name} {fields}"), file=stderr)

    events = Events()
    events.subscribe(tell)
    return events


class _Shown:
    """Writes what a run writes to our stdout, while somebody reads there."""

    def __init__(self) -> None:
        self._stream: Any = sys.stdout.buffer  # as it is now, for the same reason
        self._read = True

    def __call__(self, data: bytes) -> None:
        if self._read:
            try:
                self._stream.write(data)
                self._stream.flush()
            except OSError:
                self._read = False
