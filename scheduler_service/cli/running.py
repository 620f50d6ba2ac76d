"""`run`: one replica in the foreground, from the configuration to the exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import click

from scheduler_service import logs
from scheduler_service.cli import OURS
from scheduler_service.cli.options import config_option, load_config
from scheduler_service.cli.output import Mistake, NoDatabase, Problems
from scheduler_service.config import Config, ConfigError, callable_warnings, check_callables
from scheduler_service.database import StoreRefused, StoreUnavailable, urls
from scheduler_service.database.configured import check_url
from scheduler_service.events import Events
from scheduler_service.runner import Surroundings
from scheduler_service.rush import Rush
from scheduler_service.service import Parts, Service, WebServer, assemble
from scheduler_service.web import PortUnavailableError, Server, view_of

SWITCH_SECONDS = 0.001  # how long a page that is drawn may keep the interpreter from who starts a run

# What thousands of jobs consist of stays.  To look through all of it for garbage ten times less often than by default
# spares a leader with 10,000 a second of processor time in its first ten; what is young is looked through as ever.
OLD_THRESHOLD = 100


@click.command("run")
@config_option
@click.option("--port", type=click.IntRange(0, 65535), help="Where to serve HTTP, instead of http.port; 0: any free.")
@click.pass_context
def run_command(ctx: click.Context, config_path: Path | None, port: int | None) -> None:
    """Run one replica in the foreground.

    Any number of replicas may run with the same configuration, on one machine or on many: one leads, the
    others stand by.  SIGTERM and SIGINT drain: the lease is given back at once, running jobs may finish
    within service.shutdown_grace.  A second one stops at once, and the first a replica that is still starting.
    SIGHUP reads the configuration again, which also happens by itself within seconds of an edit.
    """
    # Until there is something to reload: the signal would end the process.
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ctx.exit(_logged(load_config(config_path), port))
    finally:
        signal.signal(signal.SIGHUP, former)


def _logged(config: Config, port: int | None) -> int:
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*gc.get_threshold()[:2], OLD_THRESHOLD)
    events, rush = Events(), Rush()
    log = logs.configure(config.logging.level, config.logging.format, events, secrets=_secrets(config), rush=rush)
    try:
        code, busy = _run(config, events, rush, port)
    except Mistake as error:
        events.emit("service_failed", exit_code=error.exit_code, error=error.message)
        raise
    except Exception as error:
        events.emit("service_failed", exit_code=OURS, error=f"{type(error).__name__}: {error}")
        raise
    finally:
        log.close()
    if busy:  # code of jobs goes on, whose slots other replicas may have by now
        os._exit(code)
    return code


def _secrets(config: Config) -> tuple[str, ...]:
    """Return what nobody may read in the log, whoever writes it there."""
    tokens = [token.get_secret_value() for token in (config.http.token, config.http.read_token) if token is not None]
    try:
        return (*tokens, *urls.secrets(urls.parse(config.database.url.get_secret_value())))
    except StoreRefused:  # which is said when the service is put together
        return tuple(tokens)


def _run(config: Config, events: Events, rush: Rush, port: int | None) -> tuple[int, bool]:
    """Return the exit code, and whether code of jobs may still go on."""
    surroundings = Surroundings()  # before the jobs' modules are loaded, which may change them
    for warning in config.warnings:
        events.emit("config_warning", message=str(warning))
    if problems := (*check_url(config), *check_callables(config)):
        raise Problems(ConfigError(problems))
    for warning in callable_warnings(config):
        events.emit("config_warning", message=str(warning))
    try:
        parts = assemble(config, events, rush=rush, surroundings=surroundings)
        service = Service(config, parts, _web_server(config, parts, port))
    except (StoreRefused, PortUnavailableError) as error:
        raise Mistake(str(error)) from None
    try:
        return service.run(), service.is_busy
    except ConfigError as error:
        raise Problems(error) from None
    except StoreRefused as error:
        raise NoDatabase(f"the database refuses us: {error}") from None
    except StoreUnavailable as error:
        waited = config.database.startup_timeout.total_seconds()
        raise NoDatabase(f"no database within {waited:g}s (database.startup_timeout): {error}") from None


def _web_server(config: Config, parts: Parts, port: int | None) -> WebServer | None:
    """Return the web server, if one is wanted."""
    if not config.http.enabled:
        return None
    view = view_of(config, parts)

    def make_app() -> object:
        from scheduler_service.web.app import create_app  # noqa: PLC0415  # loads FastAPI, on the server's thread

        return create_app(view)

    port = config.http.port if port is None else port
    return Server(
        make_app, host=config.http.host, port=port, events=parts.events, close=view.close, stopping=view.stopping
    )
