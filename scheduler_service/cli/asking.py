"""What the commands that ask for something share: who asks, with which arguments, and what a refusal says."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from scheduler_service.cli.looking import unknown_job
from scheduler_service.cli.output import Mistake, about
from scheduler_service.ledger.requests import (
    ARGUMENTS_LIMIT,
    TEXT_LIMIT,
    NoSuchJob,
    NotConfigured,
    arguments_problem,
    text_problem,
)
from scheduler_service.strict_json import read_json

EXAMPLES = """'[1, "two"]' or '{"days": 3}'"""

by_option = click.option("--by", metavar="NAME", help="Who asks, instead of user@host.")
args_option = click.option(
    "--args",
    "args",
    metavar="JSON",
    help=f"Arguments of this run: a list by position, or an object by name: {EXAMPLES}.",
)
arg_option = click.option(
    "--arg",
    "pairs",
    metavar="NAME=VALUE",
    multiple=True,
    help="One argument by name; VALUE as in JSON, or else as text.  May be given more than once.",
)


def asker(typed: str | None) -> str:
    """Return the name of whoever asks: what was typed, or user@host."""
    if typed is not None:
        return checked_text("--by", typed)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        user = f"uid {os.getuid()}"
    name = "".join(letter for letter in f"{user}@{socket.gethostname()}" if letter.isprintable())
    return name[:TEXT_LIMIT]


def checked_text(option: str, typed: str) -> str:
    """Return `typed` if the ledger can keep it; Mistake if not."""
    if (problem := text_problem(typed)) is not None:
        raise Mistake(f"the text of {option} {problem}")
    return typed


def job_arguments(typed: str | None, pairs: Sequence[str]) -> str | None:
    """Return the arguments that --args and --arg name, as the JSON that the ledger keeps; None for none."""
    if typed is None and not pairs:
        return None
    arguments = _read_args(typed) if typed is not None else {}
    if pairs and not isinstance(arguments, dict):
        raise Mistake("--arg gives arguments by name and --args a list by position: give all of them in one way")
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise Mistake(f"--arg {pair!r} is not NAME=VALUE, such as days=3")
        if name in arguments:
            raise Mistake(f"the argument {name!r} is given twice")
        arguments[name] = _read_value(value)
    if (problem := arguments_problem(arguments)) is not None:
        raise Mistake(f"the arguments {problem}")
    # Escaped, so that any database and any terminal can hold it.
    text = json.dumps(arguments)
    if len(text) > ARGUMENTS_LIMIT:
        raise Mistake(f"the arguments have {len(text)} characters; {ARGUMENTS_LIMIT} are kept at most")
    return text


def refuse_job(answer: NoSuchJob | NotConfigured) -> NoReturn:
    """Raise the Mistake of naming a job that there is not, or not any more."""
    if isinstance(answer, NotConfigured):
        raise Mistake(
            f"the job {answer.job_id!r} is not in the configuration any more: a leader last had it at "
            f"{about(answer.present_at)}"
        )
    raise unknown_job(answer.job_id, answer.known)


def _read_args(typed: str) -> Any:
    try:
        arguments = read_json(typed)
    except (ValueError, RecursionError) as error:
        raise Mistake(f"--args is not JSON, such as {EXAMPLES}: {_told(error)}") from None
    if not isinstance(arguments, list | dict):
        raise Mistake(f"--args must be a list or an object, such as {EXAMPLES}, not {typed.strip()[:50]!r}")
    return arguments


def _read_value(typed: str) -> Any:
    try:
        return read_json(typed)
    except (ValueError, RecursionError):
        return typed


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return str(error)
