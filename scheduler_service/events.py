"""The catalogue of what can happen, and the stream that tells it.

Each transition is emitted once, where it happens, under a fixed name with fixed fields.  Logs and
metrics are subscribers; no module formats a log line of its own.

    ERROR    a person must act
    WARNING  a promise was bent
    INFO     a transition
    DEBUG    routine
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler_service.clock import Clock

ERROR, WARNING, INFO, DEBUG = logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG
MOST_NAMES = 20  # in one field

# name: (level, fields in the order in which a person reads them); a trailing ? may be left out
CATALOGUE: Mapping[str, tuple[int, str]] = {
    # service
    "service_started": (INFO, "role database version jobs next_job? next_at? http?"),
    "service_draining": (INFO, "signal running_count grace_seconds"),
    "service_stopped": (INFO, "exit_code reason"),
    "service_failed": (ERROR, "exit_code error"),  # it ends so, and says the same on stderr as any command
    "schema_upgraded": (INFO, "revision_from? revision_to"),
    "thread_crashed": (ERROR, "thread error"),
    # election
    "leader_elected": (INFO, "term lock_id how crash_detection"),
    "leader_observed": (INFO, "leader term"),
    "leadership_renewed": (DEBUG, "term trust_seconds"),
    "renewal_failed": (DEBUG, "term error trust_seconds"),  # again, after `leadership_suspect` told of the first
    "leadership_suspect": (WARNING, "term error trust_seconds"),
    "leadership_resumed": (INFO, "term suspect_seconds"),
    "leadership_lost": (WARNING, "term reason"),
    "leadership_released": (INFO, "term reason"),
    "resign_requested": (INFO, "term by?"),
    "crash_detection_off": (INFO, "reason"),
    "instance_id_shared": (WARNING, "other"),
    "leases_cleaned": (DEBUG, "count"),
    "listener_failed": (ERROR, "listener term error"),
    "leader_idle": (WARNING, "leader term job scheduled_at age_seconds"),
    "leader_active": (INFO, "leader term idle_seconds"),
    # schedule
    "timetable_armed": (INFO, "term job_count offset_seconds"),
    "timetable_disarmed": (DEBUG, "term"),
    "jobs_adopted": (INFO, "term new? edited? enabled? disabled?"),
    "schedule_unreadable": (ERROR, "job stored error"),
    # ledger
    "tick_chosen": (DEBUG, "job scheduled_at kind"),
    "tick_skipped": (WARNING, "job scheduled_at reason"),
    "ticks_missed": (WARNING, "job scheduled_at until? reason"),
    "ticks_paused": (DEBUG, "job scheduled_at until?"),
    "job_paused": (INFO, "job until? by? reason?"),
    "job_resumed": (INFO, "job by?"),
    "run_replaced": (INFO, "job run by"),
    "run_withdrawn": (WARNING, "job run reason"),
    "settling_held": (DEBUG, "job run holder"),
    "statement_fenced": (WARNING, "statement term"),
    "run_started": (INFO, "job run scheduled_at attempt kind delay_seconds"),
    "run_finished": (INFO, "job run scheduled_at attempt state duration_seconds"),
    "run_failed": (ERROR, "job run scheduled_at attempt state duration_seconds exit_code? error"),
    "run_retrying": (
        WARNING,
        "job run scheduled_at attempt state duration_seconds retry_seconds exit_code? error",
    ),
    "thread_stuck": (ERROR, "job run attempt seconds stuck_count"),
    "thread_returned": (INFO, "job run attempt seconds"),
    "run_output": (INFO, "job run line"),
    "attempt_lost": (WARNING, "job run scheduled_at attempt holder rerun?"),
    "attempt_returned": (WARNING, "job run attempt reason"),
    "result_cut": (ERROR, "job run attempt error"),
    "result_refused": (ERROR, "job run attempt error"),
    "results_given_up": (ERROR, "count jobs"),
    "runs_cancelled": (WARNING, "jobs count reason"),
    "history_pruned": (DEBUG, "count"),
    # http
    "http_failed": (ERROR, "error"),
    "request_failed": (ERROR, "method path error"),
    # database
    "store_unavailable": (WARNING, "part error count?"),
    "store_recovered": (INFO, "part outage_seconds"),
    "database_clock_stepped": (WARNING, "seconds"),
    # configuration
    "config_warning": (WARNING, "message"),
    "config_reloaded": (INFO, "hash added? removed? changed?"),
    "config_unchanged": (INFO, "hash"),
    "config_rejected": (ERROR, "hash error"),
    "config_restored": (INFO, "hash"),
    "restart_needed": (WARNING, "settings"),
    "module_changed": (WARNING, "module jobs? message"),
    "config_drift": (WARNING, "other other_hash hash"),
    "drift_ended": (INFO, "hash"),
    "lock_id_shared": (WARNING, "others job_count"),
}

# The same, to check an event against: all its fields, and those that it must have.
_FIELDS = {
    name: (
        frozenset(field.rstrip("?") for field in known.split()),
        frozenset(field for field in known.split() if field[-1] != "?"),
    )
    for name, (_, known) in CATALOGUE.items()
}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    name: str
    level: int
    fields: Mapping[str, Any]


Subscriber = Callable[[Event], None]


class Events:
    """A stream of events; `bind` gives one that adds fields to each event.

    A subscriber must not block and must not raise: it is called on the thread that emits, which
    may be the one that renews the lease (I9).
    """

    def __init__(self, **bound: Any) -> None:
        self._bound = bound
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` with every event from now on."""
        self._subscribers.append(subscriber)

    def bind(self, **bound: Any) -> Events:
        """Return a view of the same stream whose events carry `bound` too."""
        view = Events(**{**self._bound, **bound})
        view._subscribers = self._subscribers
        return view

    def emit(self, name: str, /, **fields: Any) -> None:
        """Tell that `name` happened; its fields must be those of the catalogue."""
        level, _ = CATALOGUE[name]
        known, needed = _FIELDS[name]
        if not needed <= fields.keys() <= known:
            if unknown := fields.keys() - known:
                raise ValueError(f"{name} has no field {', '.join(sorted(unknown))}")
            raise ValueError(f"{name} needs {', '.join(sorted(needed - fields.keys()))}")
        event = Event(name, level, {**self._bound, **fields})
        for subscriber in tuple(self._subscribers):
            subscriber(event)


def listed(names: Iterable[str]) -> str:
    """Return names as one field, for a person: not more of them than can be read."""
    names = sorted(names)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


class Outage:
    """Tells that the store does not answer one part: when it begins, once a minute with a count, when it ends.

    Where it comes and goes, as on a full disk on which some rows still find room, only the first few times are
    told at once, until it was well for a minute; after them, what lasts, and what a minute has brought together.

    For one thread.
    """

    REPEAT_SECONDS = 60.0
    MOST_TOLD = 3  # outages, each begun within a minute of the last
    LASTING_SECONDS = 5.0  # what lasts so long is told in any case

    def __init__(self, events: Events, part: str, clock: Clock) -> None:
        self._events = events
        self._part = part
        self._clock = clock
        self._began: float | None = None
        self._telling = False  # whether this outage was told of
        self._told_at = self._failed_at = float("-inf")
        self._failure_count = self._outage_count = 0  # since it was well for a minute

    def failed(self, error: Exception) -> None:
        """Note a failure."""
        now = self._clock.monotonic()
        if self._began is None:
            if now - self._failed_at >= self.REPEAT_SECONDS:
                self._failure_count = self._outage_count = 0
            self._began = now
            self._outage_count += 1
        self._failed_at = now
        self._failure_count += 1
        lasts = now - self._began >= self.LASTING_SECONDS
        if not self._telling and self._outage_count <= self.MOST_TOLD:
            self._tell(now, error)
        elif now - self._told_at >= self.REPEAT_SECONDS or (lasts and not self._telling):
            self._tell(now, error, count=self._failure_count)

    def over(self) -> None:
        """Note an answer."""
        began, self._began = self._began, None
        if began is not None and self._telling:
            self._telling = False
            lasted = self._clock.monotonic() - began
            self._events.emit("store_recovered", part=self._part, outage_seconds=lasted)

    def _tell(self, now: float, error: Exception, **count: int) -> None:
        self._telling, self._told_at = True, now
        self._events.emit("store_unavailable", part=self._part, error=str(error), **count)
