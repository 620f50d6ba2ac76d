"""Write anew what is expected of each file in tests/data/config: python -m tests.unit.config_golden, then look."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from scheduler_service.config import Config, ConfigError, load
from scheduler_service.config.settings import SECTIONS
from scheduler_service.config.values import duration_text
from scheduler_service.model import Discreet, JobSpec, Retry

FOLDER = Path(__file__).parent.parent / "data" / "config"
ENVIRON = {
    "EMPTY": "",
    "EXPRESSION": "*/5 61 * * *",
    "LEVEL": "debug",
    "NUMBER": "7",
    "PASSWORD": "s3cret-word",
    "WORDS": "two s3cret-words",
    "URL": "postgresql://user:s3cret-word@db/name",
    "WAIT": "90s",
    "YES": "true",
}


def names() -> list[str]:
    """Return the names of the golden files."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def outcome(name: str) -> str:
    """Return what comes of a file: its problems, or what was understood and is not a default, and warnings."""
    # Messages name the file as it was given, and other folders are none of a test's business.
    before = Path.cwd()
    os.chdir(FOLDER)
    try:
        config = load(Path(f"{name}.yaml"), ENVIRON)
    except ConfigError as error:
        return f"{error}\n"
    finally:
        os.chdir(before)
    return "".join(f"{line}\n" for line in [*understood(config), *(f"warning: {w}" for w in config.warnings)])


def understood(config: Config) -> list[str]:
    """Return what was understood, one setting a line."""
    lines = [f"file: {shown(path)}" for path in config.files[1:]]
    for name, model in SECTIONS.items():
        lines += different(name, getattr(config, name), model())
    for job in config.jobs:
        lines.append(f"jobs.{job.id}: {job.schedule.canonical} {job.schedule.timezone}")
        lines += different(f"jobs.{job.id}", job, JobSpec(id=job.id, schedule=job.schedule))
    return lines


def different(path: str, found: Discreet, default: Discreet) -> list[str]:
    """Return the settings that are not the default."""
    lines = []
    for name in type(found).model_fields:
        value = getattr(found, name)
        if name != "hidden" and value != getattr(default, name) and shown(value) != shown(getattr(default, name)):
            lines.append(f"{path}.{name}: {shown(value)}")
    if found.hidden:
        lines.append(f"{path} hides: {', '.join(sorted(found.hidden))}")
    return lines


def shown(value: Any) -> str:
    """Return a value as text that is the same on every machine."""
    match value:
        case timedelta():
            return duration_text(value)
        case SecretStr():
            return shown(value.get_secret_value())
        case Path():
            return shown(str(value))
        case Retry():
            return " ".join(f"{name}={shown(getattr(value, name))}" for name in Retry.model_fields)
        case str():
            return repr(str(value).replace(f"{FOLDER}/", "").replace(str(FOLDER), "."))
    return repr(value)


if __name__ == "__main__":
    for golden in names():
        (FOLDER / f"{golden}.expected").write_text(outcome(golden), encoding="utf-8")
