"""`health`: ask a replica on this machine how it is, for Docker's HEALTHCHECK and for scripts.

    where      --url, else --port, else http.host and http.port of the configuration
               where these name no port: 8080 and those after it, the first at which a replica of ours answers
    answer     exit code 0 for yes, 1 for no, and for no answer

The configuration is read only for its address.  One that cannot be read is no reason to call a replica ill that
goes on with what it read before: then the usual ports are tried.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from scheduler_service.cli.options import config_option, json_option, load_config
from scheduler_service.cli.output import Mistake, Problems, say, write_json

UNHEALTHY = 1
OK = 200
ANSWER_SECONDS = 3.0
USUAL_HOST, USUAL_PORT, TRIED_PORTS = "127.0.0.1", 8080, 100  # as the server tries them
LONGEST_ANSWER = 64 * 1024

PATHS = {"live": "/livez", "ready": "/readyz", "leader": "/leader"}
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # what is listened on → where to ask


class _NobodyThere(Exception):  # noqa: N818  # a place to go on from, not an error
    """Nothing listens there, or something that is not ours."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    document: dict[str, Any]


@click.command("health")
@config_option
@click.option("--url", metavar="URL", help="Where the replica serves HTTP, as in http://127.0.0.1:8080.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port, where `run --port` was given.")
@click.option("--live", "question", flag_value="live", default="live", help="Does it live?  (the default)")
@click.option("--ready", "question", flag_value="ready", help="Could it lead?  A standby is ready.")
@click.option("--leader", "question", flag_value="leader", help="Does it lead?")
@json_option
@click.pass_context
def health_command(
    ctx: click.Context, config_path: Path | None, url: str | None, port: int | None, question: str, as_json: bool
) -> None:
    """Ask a replica on this machine how it is; exit code 0 for yes and 1 for no.

    It is found by --url or --port, else by http.host and http.port of the configuration.  Where no port is
    named it is the first replica at 8080 or a port after it.
    """
    if url is not None and port is not None:
        raise Mistake("--url and --port name two places: leave one of them out")
    host, ports = _from_url(url) if url is not None else _places(config_path, port)
    try:
        answer = _first(host, ports, PATHS[question])
    except (OSError, http.client.HTTPException) as error:
        say(f"no answer from {_shown(host, ports)}: {str(error) or type(error).__name__}", err=True)
        ctx.exit(UNHEALTHY)
    except _NobodyThere:
        say(f"no replica answers at {_shown(host, ports)}: say where with --url, --port or http.port", err=True)
        ctx.exit(UNHEALTHY)
    yes = answer.status == OK
    if as_json:
        write_json(answer.document)
    else:
        say(f"{answer.document['instance_id']}: {_said(question, answer)}", err=not yes)
    ctx.exit(0 if yes else UNHEALTHY)


def _from_url(url: str) -> tuple[str, range]:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 80
    except ValueError as error:
        raise Mistake(f"--url {url!r} is no URL: {error}") from None
    if parts.scheme != "http" or not parts.hostname:
        raise Mistake(f"--url {url!r} must be like http://127.0.0.1:8080")
    return parts.hostname, range(port, port + 1)


def _places(config_path: Path | None, port: int | None) -> tuple[str, range]:
    host, configured = USUAL_HOST, None
    try:
        settings = load_config(config_path).http
    except Problems as problems:
        if config_path is not None:
            say(f"{problems.message}\nthe usual address is tried", err=True)
    else:
        if not settings.enabled:
            raise Mistake("http.enabled is false: there is nothing to ask")
        host, configured = _ANYWHERE.get(settings.host, settings.host), settings.port
    port = port if port is not None else configured
    if port == 0:
        raise Mistake("http.port is 0, any free one: say with --url or --port which it became (service_started)")
    return host, range(USUAL_PORT, USUAL_PORT + TRIED_PORTS) if port is None else range(port, port + 1)


def _first(host: str, ports: range, path: str) -> _Answer:
    """Return the answer of the first replica; whoever listens and does not answer in time ends the search."""
    for port in ports:
        try:
            return _ask(host, port, path)
        except (_NobodyThere, ConnectionRefusedError):
            continue
    raise _NobodyThere


def _ask(host: str, port: int, path: str) -> _Answer:
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        document = json.loads(response.read(LONGEST_ANSWER))
    except (http.client.BadStatusLine, ValueError):
        raise _NobodyThere from None
    finally:
        connection.close()
    if not isinstance(document, dict) or "instance_id" not in document:
        raise _NobodyThere
    return _Answer(response.status, document)


def _said(question: str, answer: _Answer) -> str:
    document, yes = answer.document, answer.status == OK
    if question == "leader":
        return f"leads in term {document.get('term')}" if yes else "does not lead"
    if yes:
        return "lives" if question == "live" else "is ready"
    if question == "live":
        stuck = [f"{one['thread']} took no step for {one['seconds']:.1f}s" for one in document.get("stuck", [])]
        return f"is stuck: {', '.join(stuck)}"
    return f"is not ready: {'; '.join(document.get('reasons', []))}"


def _shown(host: str, ports: range) -> str:
    place = f"[{host}]" if ":" in host else host
    last = f"-{ports[-1]}" if len(ports) > 1 else ""
    return f"{place}:{ports[0]}{last}"
