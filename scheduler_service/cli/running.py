"""`run`: one replica in the foreground, from the configuration to the exit code."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from scheduler_service import logs
from scheduler_service.cli.options import config_option, load_config
from scheduler_service.cli.output import Mistake, NoDatabase, Problems
from scheduler_service.config import Config, ConfigError, callable_warnings, check_callables
from scheduler_service.database import StoreRefused, StoreUnavailable
from scheduler_service.events import Events
from scheduler_service.service import Service


@click.command("run")
@config_option
@click.pass_context
def run_command(ctx: click.Context, config_path: Path | None) -> None:
    """Run one replica in the foreground.

    Any number of replicas may run with the same configuration, on one machine or on many: one leads, the
    others stand by.  SIGTERM and SIGINT drain: the lease is given back at once, running jobs may finish
    within service.shutdown_grace.  A second one stops at once.  SIGHUP reads the configuration again, which
    also happens by itself within seconds of an edit.
    """
    # Until there is something to reload: the signal would end the process.
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ctx.exit(_logged(load_config(config_path)))
    finally:
        signal.signal(signal.SIGHUP, former)


def _logged(config: Config) -> int:
    events = Events()
    log = logs.configure(config.logging.level, config.logging.format, events)
    try:
        return _run(config, events)
    finally:
        log.close()


def _run(config: Config, events: Events) -> int:
    for warning in config.warnings:
        events.emit("config_warning", message=str(warning))
    if problems := check_callables(config):
        raise Problems(ConfigError(problems))
    for warning in callable_warnings(config):
        events.emit("config_warning", message=str(warning))
    try:
        service = Service(config, events)
    except StoreRefused as error:
        raise Mistake(str(error)) from None
    try:
        return service.run()
    except ConfigError as error:
        raise Problems(error) from None
    except StoreRefused as error:
        raise NoDatabase(f"the database refuses us: {error}") from None
    except StoreUnavailable as error:
        waited = config.database.startup_timeout.total_seconds()
        raise NoDatabase(f"no database within {waited:g}s (database.startup_timeout): {error}") from None
