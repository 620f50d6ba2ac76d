"""Metrics: what is counted, under which names and labels, and how it is written."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scheduler_service.events import CATALOGUE as EVENTS
from scheduler_service.events import Events
from scheduler_service.metrics.catalogue import CATALOGUE, COUNTER, GAUGE, HISTOGRAM, SUMMARY, Metric
from scheduler_service.metrics.counting import PARTS, STATEMENTS, Counts, Distribution
from scheduler_service.metrics.exposition import Snapshot, text
from tests.prometheus import registry

ROOT = Path(__file__).parents[2]
TICK = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Counted:
    """A stream of events and what it comes to."""

    def __init__(self, *job_ids: str) -> None:
        self.counts = Counts(job_ids or ("a", "b"))
        self.events = Events(instance="me-1")
        self.events.subscribe(self.counts.on_event)

    def ended(self, name: str, state: str, job: str = "a", seconds: float = 2.0, **more: Any) -> None:
        fields = {"job": job, "run": 1, "scheduled_at": TICK, "attempt": 1, "state": state}
        self.events.emit(name, **fields, duration_seconds=seconds, **more)

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        return {labels: value for labels, value in self.counts.counters(name).items() if value}


@pytest.fixture
def counted() -> Counted:
    return Counted()


# --- what is counted


def test_each_tick_is_counted_by_what_was_decided_and_why(counted: Counted) -> None:
    emit = counted.events.emit
    for kind in ("scheduled", "scheduled", "catch_up"):
        emit("tick_chosen", job="a", scheduled_at=TICK, kind=kind)
    emit("ticks_missed", job="a", scheduled_at=TICK, until=TICK, reason="window")
    emit("tick_skipped", job="b", scheduled_at=TICK, reason="overlap")
    emit("ticks_paused", job="b", scheduled_at=TICK)
    emit("run_withdrawn", job="b", run=3, reason="coalesced")
    assert counted.of("scheduler_ticks_total") == {
        ("a", "run", "on_time"): 2.0,
        ("a", "run", "catch_up"): 1.0,
        ("a", "missed", "window"): 1.0,
        ("b", "skipped", "overlap"): 1.0,
        ("b", "skipped", "paused"): 1.0,
        ("b", "missed", "coalesced"): 1.0,
    }


def test_each_run_is_counted_by_how_it_ended_and_each_attempt_by_how_long_it_took(counted: Counted) -> None:
    counted.ended("run_finished", "succeeded")
    counted.ended("run_finished", "cancelled")
    counted.ended("run_failed", "failed", error="no way")
    counted.ended("run_retrying", "timed_out", error="too long", retry_seconds=1.0)
    lost = {"scheduled_at": TICK, "attempt": 1, "holder": "gone-1"}
    counted.events.emit("attempt_lost", job="b", run=1, **lost)
    counted.events.emit("attempt_lost", job="b", run=2, **lost, rerun=True)
    assert counted.of("scheduler_runs_total") == {
        ("a", "succeeded"): 1.0,
        ("a", "cancelled"): 1.0,
        ("a", "failed"): 1.0,
        ("b", "lost"): 1.0,
    }
    assert counted.of("scheduler_run_retries_total") == {("a",): 1.0}
    assert counted.of("scheduler_attempts_lost_total") == {("b",): 2.0}
    assert counted.counts.distributions("scheduler_job_run_duration_seconds") == {("a",): Distribution(4, 8.0)}
    durations = counted.counts.distributions("scheduler_run_duration_seconds")
    assert {labels: one.count for labels, one in durations.items()} == {
        ("succeeded",): 1,
        ("cancelled",): 1,
        ("failed",): 1,
        ("timed_out",): 1,
    }


@pytest.mark.parametrize(
    ("delay", "place"), [(0.0, 0), (0.005, 0), (0.0051, 1), (299.0, 12), (300.0, 12), (301.0, None)]
)
def test_a_delay_is_in_the_first_bucket_that_holds_it(counted: Counted, delay: float, place: int | None) -> None:
    fields = {"job": "a", "run": 1, "scheduled_at": TICK, "attempt": 1, "kind": "manual"}
    counted.events.emit("run_started", **fields, delay_seconds=delay)
    (one,) = counted.counts.distributions("scheduler_start_delay_seconds").values()
    assert (one.count, one.sum) == (1, delay)
    assert [number for number, count in enumerate(one.buckets) if count] == ([] if place is None else [place])


def test_renewals_and_the_transitions_of_leadership_are_counted_by_reason(counted: Counted) -> None:
    emit = counted.events.emit
    emit("leader_elected", term=1, lock_id=1, how="expired", crash_detection=True)
    emit("leadership_renewed", term=1, trust_seconds=8.0)
    emit("leadership_suspect", term=1, error="away", trust_seconds=7.0)
    emit("renewal_failed", term=1, error="away", trust_seconds=6.0)
    emit("leadership_resumed", term=1, suspect_seconds=1.0)
    emit("leadership_released", term=1, reason="whatever a program says")
    emit("leadership_lost", term=2, reason="trust_lapsed")
    assert counted.of("scheduler_lease_renewals_total") == {("ok",): 1.0, ("failed",): 2.0}
    assert counted.of("scheduler_leadership_changes_total") == {
        ("elected", "expired"): 1.0,
        ("suspect", ""): 1.0,
        ("resumed", ""): 1.0,
        ("released", "other"): 1.0,
        ("lost", "trust_lapsed"): 1.0,
    }


@pytest.mark.parametrize("part", ["start", "results"])
def test_an_outage_is_counted_once_however_often_it_is_told_of(counted: Counted, part: str) -> None:
    emit = counted.events.emit
    emit("store_unavailable", part=part, error="away")
    emit("store_unavailable", part=part, error="away", count=60)
    assert counted.of("scheduler_store_outages_total") == {(part,): 1.0}
    assert counted.counts.unavailable()[part,] == 1.0
    emit("store_recovered", part=part, outage_seconds=90.0)
    assert counted.of("scheduler_store_outage_seconds_total") == {(part,): 90.0}
    assert set(counted.counts.unavailable().values()) == {0.0}


def test_the_configuration_is_rejected_until_an_edit_is_right(counted: Counted) -> None:
    emit = counted.events.emit
    emit("config_rejected", hash="x", error="no")
    assert counted.counts.rejected
    for name in ("config_reloaded", "config_unchanged", "config_restored"):
        emit("config_rejected", hash="x", error="no")
        emit(name, hash="x")
        assert not counted.counts.rejected
    assert counted.of("scheduler_config_reloads_total") == {("ok",): 1.0, ("rejected",): 4.0}


def test_drift_lasts_until_it_ends(counted: Counted) -> None:
    counted.events.emit("config_drift", other="b", other_hash="y", hash="x")
    assert counted.counts.drift
    counted.events.emit("drift_ended", hash="x")
    assert not counted.counts.drift


def test_fenced_statements_and_damaged_results_are_counted(counted: Counted) -> None:
    counted.events.emit("statement_fenced", statement="settle", term=1)
    counted.events.emit("result_cut", job="a", run=1, attempt=1, error="x")
    counted.events.emit("result_refused", job="a", run=1, attempt=1, error="x")
    assert counted.of("scheduler_statements_fenced_total") == {("settle",): 1.0}
    assert counted.of("scheduler_results_damaged_total") == {("a",): 2.0}


def test_series_of_removed_jobs_disappear_and_their_last_runs_bring_none_back(counted: Counted) -> None:
    def everything(job: str) -> None:
        counted.events.emit("tick_chosen", job=job, scheduled_at=TICK, kind="scheduled")
        counted.ended("run_finished", "succeeded", job)
        counted.ended("run_retrying", "failed", job, error="x", retry_seconds=1.0)
        counted.events.emit("result_cut", job=job, run=1, attempt=1, error="x")
        counted.events.emit("attempt_lost", job=job, run=1, scheduled_at=TICK, attempt=1, holder="gone-1")

    def jobs_shown() -> set[str]:
        of_jobs = [(name, one) for name, one in CATALOGUE.items() if one.labels[:1] == ("job_id",)]
        counters = [counted.counts.counters(name) for name, one in of_jobs if one.kind == COUNTER]
        summaries = [counted.counts.distributions(name) for name, one in of_jobs if one.kind == SUMMARY]
        assert all((*counters, *summaries))
        return {labels[0] for rows in (*counters, *summaries) for labels in rows}

    everything("a")
    everything("b")
    assert jobs_shown() == {"a", "b"}
    counted.counts.configure(["a", "c"])
    assert jobs_shown() == {"a"}
    everything("b")
    everything("c")
    assert jobs_shown() == {"a", "c"}


def test_no_event_is_lost_among_threads(counted: Counted) -> None:
    def count() -> None:
        for _ in range(5000):
            counted.events.emit("tick_chosen", job="a", scheduled_at=TICK, kind="scheduled")

    former = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(former)
    assert counted.of("scheduler_ticks_total") == {("a", "run", "on_time"): 20_000.0}


def test_whatever_the_catalogue_of_events_allows_can_be_counted(counted: Counted) -> None:
    usual = {"job": "a", "duration_seconds": 1.0, "delay_seconds": 1.0, "outage_seconds": 1.0}
    for name, (_, fields) in EVENTS.items():
        needed = [field for field in fields.split() if field[-1] != "?"]
        counted.events.emit(name, **{field: usual.get(field, "x") for field in needed})
        counted.events.emit(name, **{field.rstrip("?"): usual.get(field.rstrip("?"), "x") for field in fields.split()})


def test_parts_and_statements_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "scheduler_service").rglob("*.py"))
    assert set(re.findall(r'Outage\(\w+, "(\w+)"', code)) | set(re.findall(r'part="(\w+)"', code)) | set(
        re.findall(r'Outage\(self\.\w+, "(\w+)"', code)
    ) == set(PARTS)
    assert set(re.findall(r'statement="(\w+)"', code)) | set(re.findall(r'_fenced\("(\w+)"', code)) == set(STATEMENTS)


# --- names


@pytest.mark.parametrize(("name", "metric"), CATALOGUE.items())
def test_names_follow_the_conventions(name: str, metric: Metric) -> None:
    assert re.fullmatch(r"scheduler(_[a-z]+)+", name)
    assert name.endswith("_total") == (metric.kind == COUNTER)
    assert name.endswith("_info") == ("Always 1" in metric.meaning)
    if metric.kind in (HISTOGRAM, SUMMARY):
        assert name.endswith("_seconds")
    assert not set(metric.labels) & {"job", "instance", "le", "quantile", "__name__"}, "they mean something already"
    assert bool(metric.buckets) == (metric.kind == HISTOGRAM)
    assert metric.buckets == tuple(sorted(metric.buckets))
    assert metric.meaning.endswith((".", ".."))


def documented() -> str:
    """Return the table of docs/metrics.md."""
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for name, metric in CATALOGUE.items():
        labels = " ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(lines)


def test_the_documentation_has_every_metric_as_it_is() -> None:
    assert documented() in (ROOT / "docs/metrics.md").read_text(), f"put this into docs/metrics.md:\n\n{documented()}"


# --- the format


def a_snapshot(job_ids: Iterable[str]) -> Snapshot:
    """Return something under every name of the catalogue."""
    snapshot: dict[str, Any] = {}
    ids = list(job_ids)
    for name, metric in CATALOGUE.items():
        places = [(one, *("x" for _ in metric.labels[1:])) for one in ids] if "job_id" in metric.labels else []
        labels = places or [tuple('some\\thing "odd"\nand é' for _ in metric.labels)]
        if metric.kind == HISTOGRAM:
            buckets = tuple(range(len(metric.buckets)))
            snapshot[name] = {one: Distribution(sum(buckets) + 3, 12.5, buckets) for one in labels}
        elif metric.kind == SUMMARY:
            snapshot[name] = {one: Distribution(3, 1e-9) for one in labels}
        else:
            values = (0.0, 1.0, -0.5, 1e18, 123456789.123, float("nan"), float("inf"))
            snapshot[name] = {one: values[number % len(values)] for number, one in enumerate(labels)}
    return snapshot


@pytest.mark.parametrize("job_ids", [[], [f"job-{number}.x" for number in range(20)]], ids=["no job", "20 jobs"])
def test_the_text_is_that_of_prometheus_own_writer(job_ids: list[str]) -> None:
    snapshot = a_snapshot(job_ids)
    assert text(snapshot).decode() == generate_latest(registry(lambda: snapshot)).decode()


def test_the_text_can_be_read_and_means_what_was_meant() -> None:
    families = {one.name: one for one in text_string_to_metric_families(text(a_snapshot(["a"])).decode())}
    assert {name.removesuffix("_total") for name in CATALOGUE} == set(families)
    for name, metric in CATALOGUE.items():
        family = families[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
    (sample,) = families["scheduler_replica_info"].samples
    assert set(sample.labels.values()) == {'some\\thing "odd"\nand é'}


def test_empty_families_are_still_described() -> None:
    snapshot: Snapshot = {name: {} for name in CATALOGUE}
    assert text(snapshot) == generate_latest(registry(lambda: snapshot))
    assert GAUGE in text(snapshot).decode()
