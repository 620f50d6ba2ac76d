"""From a YAML file to a Config, or to every problem in it at once.

    config.yaml:14:5   jobs.nightly.tiemout: no such setting; did you mean 'timeout'?
    config.yaml:15:11  jobs.nightly.cron: minute '61' is not between 0 and 59
    config.yaml:17:11  put the expression in quotes: cron: '* * * * *'

What is promised:

- Nothing is guessed: unknown and repeated keys, numbers without a unit and words that only other YAML readers
  take for booleans are problems, each with its place and with what to write instead.
- One look shows everything: a problem hides no other, relations between settings are checked wherever the
  settings themselves are right.
- What came from `${VAR}` or `${file:…}` is shown nowhere: not in a message, the hash, a repr or JSON.
- Reading loads no job.  `check_callables` does, because that runs people's code.
"""

from scheduler_service.config.configuration import Config, load
from scheduler_service.config.functions import callable_warnings, check_callables
from scheduler_service.config.json_schema import json_schema
from scheduler_service.config.problems import ConfigError, Problem, format_problems
from scheduler_service.config.restart import restart_needed
from scheduler_service.config.settings import Database, Election, History, Http, Logging, Service, Workers
from scheduler_service.config.starter import starter_files

__all__ = [
    "Config",
    "ConfigError",
    "Database",
    "Election",
    "History",
    "Http",
    "Logging",
    "Problem",
    "Service",
    "Workers",
    "callable_warnings",
    "check_callables",
    "format_problems",
    "json_schema",
    "load",
    "restart_needed",
    "starter_files",
]
