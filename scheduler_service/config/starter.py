"""The files that `init` writes: a small configuration and a job."""

from __future__ import annotations

CONFIG = """\
# scheduler-service: the smallest useful configuration.  Try it with: scheduler-service check
version: 1

# One machine needs nothing else.  Several replicas share a PostgreSQL database:
# database:
#   url: postgresql://scheduler:${DATABASE_PASSWORD}@db.example.com/scheduler

jobs:
  hello:
    description: Says hello; replace it with something useful
    run: example:hello           # the function hello() in jobs/example.py
    kwargs: {name: world}
    every: 10s

  clock:
    description: A command instead of a function
    command: date
    cron: "*/5 * * * *"          # always in quotes: minute, hour, day, month, day of week
"""

EXAMPLE = '''\
"""A job is a function: what it prints and logs is kept with the run, what it raises fails it."""

import logging

logger = logging.getLogger(__name__)


def hello(name: str = "world") -> str:
    """Greet somebody; what is returned is kept with the run."""
    logger.info("saying hello to %s", name)
    return f"hello, {name}"
'''


def starter_files() -> dict[str, str]:
    """Return the files to write into an empty folder: path, relative to it, and text."""
    return {"config.yaml": CONFIG, "jobs/example.py": EXAMPLE}
