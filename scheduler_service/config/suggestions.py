"""What was probably meant by a key or a word that we do not have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_SCHEDULE = "'cron', 'every', 'at' or 'manual: true'"

# Words of cron, APScheduler, Celery, Kubernetes and systemd that stand in jobs elsewhere → what they are here.
FOREIGN = {
    "schedule": f"is {_SCHEDULE} here",
    "trigger": f"is {_SCHEDULE} here",
    "crontab": "is 'cron' here",
    "cron_expression": "is 'cron' here",
    "interval": "is 'every' here, as in every: 5m",
    "seconds": "is 'every' here, as in every: 30s",
    "minutes": "is 'every' here, as in every: 5m",
    "hours": "is 'every' here, as in every: 1h",
    "run_date": "is 'at' here",
    "func": "is 'run' here, as in run: cleanup:prune",
    "function": "is 'run' here, as in run: cleanup:prune",
    "callable": "is 'run' here, as in run: cleanup:prune",
    "script": "is 'command' here",
    "cmd": "is 'command' here",
    "shell": "is 'command' here: a string goes to /bin/sh -c",
    "id": "is the key of the job in 'jobs' here",
    "name": "is the key of the job in 'jobs' here; 'description' takes any text",
    "tz": "is 'timezone' here",
    "max_instances": "is 'max_running' here; 'overlap' says what becomes of a tick beyond it",
    "misfire_grace_time": "is 'misfire_grace' here, with a unit, as in 60s; 'catch_up_window' limits older ticks",
    "coalesce": "is 'catch_up' here: latest for true, all for false",
    "concurrencyPolicy": "is 'overlap' here: allow for Allow, skip for Forbid, replace for Replace",
    "startingDeadlineSeconds": "is 'catch_up_window' here, with a unit, as in 200s",
    "suspend": "is 'enabled' here, the other way round: enabled: false",
    "disabled": "is 'enabled' here, the other way round: enabled: false",
    "activeDeadlineSeconds": "is 'timeout' here, with a unit, as in 10m",
    "backoffLimit": "is 'retry' here, as in retry: {attempts: 3}, which counts all starts",
    "max_retries": "is 'retry' here, as in retry: {attempts: 3}, which counts all starts",
    "retries": "is 'retry' here, as in retry: {attempts: 3}, which counts all starts",
    "environment": "is 'env' here",
    "workdir": "is 'working_directory' here",
    "cwd": "is 'working_directory' here",
    "start_date": "is 'starts_at' here",
    "end_date": "is 'ends_at' here",
}
_FOLDED = {re.sub(r"[_-]", "", word).casefold(): answer for word, answer in FOREIGN.items()}


def foreign(word: str) -> str | None:
    """Return what a word of another tool is here, such as "is 'cron' here", or None."""
    return _FOLDED.get(re.sub(r"[_-]", "", word).casefold())


def close_match(word: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that `word` was probably meant to be, or None."""
    folded = {re.sub(r"[_-]", "", key).casefold(): key for key in known}
    wanted = re.sub(r"[_-]", "", word[:100]).casefold()
    matches = [wanted] if wanted in folded else difflib.get_close_matches(wanted, folded, n=1, cutoff=0.7)
    return folded[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?", or nothing where nothing is close."""
    match = close_match(word, known)
    return f"; did you mean {match!r}?" if match is not None else ""
