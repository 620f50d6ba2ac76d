"""Count events, as they are emitted.

It is called on the thread that emits, which may be the one that renews the lease (I9): an event costs a lookup
and an addition under a lock that nobody holds for longer, and nothing here raises.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler_service.events import Event
from scheduler_service.metrics.catalogue import CATALOGUE, COUNTER, HISTOGRAM, SUMMARY
from scheduler_service.model import Kind

Labels = tuple[str, ...]

# What may stand in labels; anything else is counted as `other`.
REASONS = frozenset(
    {"free", "reply_lost", "expired", "session_gone"}  # how a term was won
    | {"deposed", "fenced", "trust_lapsed", "crashed", "release_unanswered", "listener_failed", "released", "resigned"}
)
PARTS = frozenset(
    {"start", "elector", "guard", "housekeeping", "pruning", "dispatcher", "results", "watch", "sign_out"}
)
STATEMENTS = frozenset({"adopt", "settle", "start", "mark_lost", "prune"})


@dataclass(slots=True)
class Distribution:
    """How many values there were, their sum, and how many were in each bucket."""

    count: int = 0
    sum: float = 0.0
    buckets: tuple[int, ...] = ()  # not cumulative; what is beyond the last bound is in none


class Counts:
    """What has happened in this process.  Any thread may count and read."""

    def __init__(self, job_ids: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._job_ids = frozenset(job_ids)
        kinds = {name: metric.kind for name, metric in CATALOGUE.items()}
        self._counters: dict[str, dict[Labels, float]] = {n: {} for n, kind in kinds.items() if kind == COUNTER}
        self._distributions: dict[str, dict[Labels, Distribution]] = {
            name: {} for name, kind in kinds.items() if kind in (HISTOGRAM, SUMMARY)
        }
        self._unavailable: dict[str, bool] = {}
        self._drift = self._rejected = False
        self._begin_at_zero()
        self._handlers: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "leadership_renewed": lambda _: self._add("scheduler_lease_renewals_total", "ok"),
            "renewal_failed": lambda _: self._add("scheduler_lease_renewals_total", "failed"),
            "leadership_suspect": self._suspect,
            "leader_elected": lambda fields: self._change("elected", fields["how"]),
            "leadership_lost": lambda fields: self._change("lost", fields["reason"]),
            "leadership_released": lambda fields: self._change("released", fields["reason"]),
            "leadership_resumed": lambda _: self._change("resumed", ""),
            "store_unavailable": self._outage,
            "store_recovered": self._recovery,
            "statement_fenced": lambda fields: self._add(
                "scheduler_statements_fenced_total", _known(fields["statement"], STATEMENTS)
            ),
            "tick_chosen": self._chosen,
            "tick_skipped": lambda fields: self._tick(fields, "skipped"),
            "ticks_missed": lambda fields: self._tick(fields, "missed"),
            "run_withdrawn": lambda fields: self._tick(fields, "missed"),
            "ticks_paused": lambda fields: self._tick({**fields, "reason": "paused"}, "skipped"),
            "run_started": self._started,
            "run_finished": self._ended,
            "run_failed": self._ended,
            "run_retrying": self._retried,
            "attempt_lost": self._lost,
            "result_cut": lambda fields: self._of_job("scheduler_results_damaged_total", fields),
            "result_refused": lambda fields: self._of_job("scheduler_results_damaged_total", fields),
            "config_reloaded": lambda _: self._reloaded(),
            "config_unchanged": lambda _: self._in_force(),
            "config_restored": lambda _: self._in_force(),
            "config_rejected": lambda _: self._rejection(),
            "config_drift": lambda _: self._drifts(drift=True),
            "drift_ended": lambda _: self._drifts(drift=False),
        }

    def on_event(self, event: Event) -> None:
        """Count one event."""
        handler = self._handlers.get(event.name)
        if handler is not None:
            with self._lock:
                handler(event.fields)

    def configure(self, job_ids: Iterable[str]) -> None:
        """Forget what belongs to jobs that are not among these, and count nothing of others any more."""
        with self._lock:
            self._job_ids = frozenset(job_ids)
            for rows in (self._counters, self._distributions):
                for name in rows:
                    if CATALOGUE[name].labels[:1] == ("job_id",):
                        kept = {labels: one for labels, one in rows[name].items() if labels[0] in self._job_ids}
                        rows[name] = kept  # type: ignore[assignment]  # of the same type

    def counters(self, name: str) -> dict[Labels, float]:
        """Return the values of a counter, by its labels."""
        with self._lock:
            return dict(self._counters[name])

    def distributions(self, name: str) -> dict[Labels, Distribution]:
        """Return the values of a histogram or summary, by its labels."""
        with self._lock:
            return {
                labels: Distribution(one.count, one.sum, one.buckets)
                for labels, one in self._distributions[name].items()
            }

    def unavailable(self) -> dict[Labels, float]:
        """Return for each part whether the database leaves it without an answer."""
        with self._lock:
            return {(part,): float(is_so) for part, is_so in self._unavailable.items()}

    @property
    def drift(self) -> bool:
        """Whether another replica has another configuration."""
        return self._drift

    @property
    def rejected(self) -> bool:
        """Whether the newest edit of the configuration is not in force."""
        return self._rejected

    def _begin_at_zero(self) -> None:
        """Show what alerts are about before it happens, so that the first time is a change."""
        self._counters["scheduler_lease_renewals_total"] = {("ok",): 0.0, ("failed",): 0.0}
        self._counters["scheduler_config_reloads_total"] = {("ok",): 0.0, ("rejected",): 0.0}
        for part in sorted(PARTS):
            self._counters["scheduler_store_outages_total"][part,] = 0.0
            self._unavailable[part] = False

    # --- under the lock

    def _add(self, name: str, *labels: str, amount: float = 1.0) -> None:
        rows = self._counters[name]
        rows[labels] = rows.get(labels, 0.0) + amount

    def _observe(self, name: str, value: float, *labels: str) -> None:
        bounds = CATALOGUE[name].buckets
        one = self._distributions[name].get(labels)
        if one is None:
            one = self._distributions[name][labels] = Distribution(buckets=(0,) * len(bounds))
        one.count += 1
        one.sum += value
        place = bisect_left(bounds, value)
        if place < len(bounds):
            one.buckets = (*one.buckets[:place], one.buckets[place] + 1, *one.buckets[place + 1 :])

    def _of_job(self, name: str, fields: Mapping[str, Any], *labels: str) -> None:
        if fields["job"] in self._job_ids:
            self._add(name, fields["job"], *labels)

    def _change(self, change: str, reason: str) -> None:
        self._add("scheduler_leadership_changes_total", change, _known(reason, REASONS) if reason else "")

    def _suspect(self, _: Mapping[str, Any]) -> None:
        self._add("scheduler_lease_renewals_total", "failed")
        self._change("suspect", "")

    def _outage(self, fields: Mapping[str, Any]) -> None:
        part = _known(fields["part"], PARTS)
        if "count" not in fields:  # else it is told of again
            self._add("scheduler_store_outages_total", part)
        self._unavailable[part] = part != "sign_out"  # which ends with what it could not do, and never recovers

    def _recovery(self, fields: Mapping[str, Any]) -> None:
        part = _known(fields["part"], PARTS)
        self._add("scheduler_store_outage_seconds_total", part, amount=fields["outage_seconds"])
        self._unavailable[part] = False

    def _chosen(self, fields: Mapping[str, Any]) -> None:
        reason = "catch_up" if fields["kind"] == Kind.CATCH_UP else "on_time"
        self._of_job("scheduler_ticks_total", fields, "run", reason)

    def _tick(self, fields: Mapping[str, Any], decision: str) -> None:
        self._of_job("scheduler_ticks_total", fields, decision, fields["reason"])

    def _started(self, fields: Mapping[str, Any]) -> None:
        self._observe("scheduler_start_delay_seconds", fields["delay_seconds"], str(fields["kind"]))

    def _ended(self, fields: Mapping[str, Any]) -> None:
        self._of_job("scheduler_runs_total", fields, str(fields["state"]))
        self._took(fields)

    def _retried(self, fields: Mapping[str, Any]) -> None:
        self._of_job("scheduler_run_retries_total", fields)
        self._took(fields)

    def _took(self, fields: Mapping[str, Any]) -> None:
        seconds = fields["duration_seconds"]
        self._observe("scheduler_run_duration_seconds", seconds, str(fields["state"]))
        if fields["job"] in self._job_ids:
            self._observe("scheduler_job_run_duration_seconds", seconds, fields["job"])

    def _lost(self, fields: Mapping[str, Any]) -> None:
        self._of_job("scheduler_attempts_lost_total", fields)
        if not fields.get("rerun"):
            self._of_job("scheduler_runs_total", fields, "lost")

    def _reloaded(self) -> None:
        self._add("scheduler_config_reloads_total", "ok")
        self._in_force()

    def _rejection(self) -> None:
        self._add("scheduler_config_reloads_total", "rejected")
        self._rejected = True

    def _in_force(self) -> None:
        self._rejected = False

    def _drifts(self, *, drift: bool) -> None:
        self._drift = drift


def _known(word: str, words: frozenset[str]) -> str:
    return word if word in words else "other"
