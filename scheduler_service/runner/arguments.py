"""Which arguments a run is called with: the job's own, or those of whoever triggered it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scheduler_service.model import Attempt, JobSpec


class ArgumentsError(Exception):
    """The run cannot be given these arguments; the message is for a person."""


def arguments(spec: JobSpec, attempt: Attempt) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return `args` and `kwargs` of this run: a triggered list replaces `args`, a map is merged over `kwargs`."""
    if attempt.arguments is None:
        return spec.args, spec.kwargs
    if spec.command is not None:
        raise ArgumentsError(f"{spec.id} is a command, which takes no arguments: trigger it without any")
    try:
        given = json.loads(attempt.arguments)
    except ValueError as error:
        raise ArgumentsError(f"the arguments of this run are not JSON: {error}") from None
    if isinstance(given, list):
        return tuple(given), spec.kwargs
    if isinstance(given, dict):
        return spec.args, {**spec.kwargs, **given}
    raise ArgumentsError(f"the arguments of this run are {attempt.arguments:.100}: give a JSON list or a JSON map")
