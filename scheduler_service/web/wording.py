"""How pages write moments, durations, states and reasons.  Filters of the templates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import quote

from scheduler_service import moments
from scheduler_service.ledger.history import RunRow, TermRow
from scheduler_service.model import Kind, Reason, State
from scheduler_service.schedule import ScheduleError, zone

# A letter for each state, so that nobody has to tell them by colour; what went well is left plain.
LETTERS = {
    State.WAITING: "W",
    State.RUNNING: "R",
    State.SUCCEEDED: "",
    State.FAILED: "F",
    State.TIMED_OUT: "T",
    State.CANCELLED: "C",
    State.LOST: "L",
    State.MISSED: "M",
    State.SKIPPED: "S",
}

_REASONS = {
    Reason.QUEUED: "decided to run",
    Reason.RETRY: "to be tried again",
    Reason.RERUN: "to be run again after its replica died",
    Reason.REQUESTED: "asked for",
    Reason.POLICY: "too late, and catch_up is none",
    Reason.WINDOW: "older than catch_up_window",
    Reason.LIMIT: "more than catch_up_limit",
    Reason.COALESCED: "folded into a later tick",
    Reason.OVERLAP: "the job still ran",
    Reason.QUEUE_LIMIT: "too many runs waited",
    Reason.PAUSED: "the job was paused",
}

_ISO = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")

_KINDS = {Kind.SCHEDULED: "", Kind.CATCH_UP: "catch-up", Kind.MANUAL: "triggered", Kind.RANGE: "several ticks"}

_ENDS = {
    "expired": "its lease ran out",
    "session_gone": "its process or session died",
    "resigned": "it resigned",
    "released": "it gave its lease back",
    "replaced_by_itself": "it was elected anew",
    "row_deleted": "its lease was deleted",
}


def iso(moment: datetime) -> str:
    """Return a moment for machines: ISO 8601 with Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(moment: datetime, now: datetime | None = None) -> str:
    """Return a moment in UTC for people: without its date if that is today's, without its year if it is this one."""
    moment = moment.astimezone(UTC).replace(tzinfo=None)
    if now is not None and moment.date() == now.date():
        return f"{moment:%H:%M:%S}"
    if now is not None and moment.year == now.year:
        return f"{moment.day} {moment:%b %H:%M:%S}"
    return moment.isoformat(" ", "seconds")


def local(moment: datetime, timezone: str) -> str:
    """Return a moment as the clocks of `timezone` show it."""
    try:
        return f"{moment.astimezone(zone(timezone)):%Y-%m-%d %H:%M:%S} {timezone}"
    except ScheduleError:  # a zone that this replica's tzdata does not have
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float | None) -> str:
    """Return a duration as pages show it: 12 ms, 3.4 s, 5m 10s."""
    return "–" if seconds is None else moments.span(seconds, gap=" ")


def whole_span(seconds: float) -> str:
    """Return a duration that ticks, as pages count it: whole seconds below a minute."""
    return f"{max(0, int(seconds))} s" if abs(seconds) < 60 else span(seconds)


def relative(moment: datetime, now: datetime) -> str:
    """Return how far away a moment is."""
    seconds = (now - moment).total_seconds()
    return f"{whole_span(seconds)} ago" if seconds >= 0 else f"in {whole_span(-seconds)}"


def state_words(state: State) -> str:
    """Return a state for people."""
    return state.value.replace("_", " ")


def reason_words(row: RunRow) -> str:
    """Say why a row is what it is, in a few words."""
    return "" if row.reason is None else _REASONS[row.reason]


def kind_words(kind: Kind) -> str:
    """Say what a row stands for, if that is not the usual."""
    return _KINDS[kind]


def end_words(term: TermRow) -> str:
    """Say how a leadership ended."""
    return "" if term.end_reason is None else _ENDS.get(term.end_reason, term.end_reason.replace("_", " "))


def row_words(row: RunRow) -> str:
    """Say everything about a row in one line."""
    when = f"{clock(row.scheduled_at)} UTC"
    if row.until is not None:
        when += f" to {clock(row.until)} UTC"
    parts = [f"run {row.id}", when, state_words(row.state)]
    parts += [words for words in (reason_words(row), kind_words(row.kind)) if words]
    if row.duration_seconds is not None:
        parts.append(f"took {span(row.duration_seconds)}")
    if row.attempt > 1:
        parts.append(f"attempt {row.attempt}")
    return ", ".join(parts)


def without_iso(text: str) -> str:
    """Return a text for scripts and people with its moments as pages write them."""
    return _ISO.sub(r"\1 \2 UTC", text)


def segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


FILTERS = {
    one.__name__: one
    for one in (
        iso,
        clock,
        local,
        span,
        whole_span,
        relative,
        state_words,
        reason_words,
        kind_words,
        end_words,
        row_words,
        without_iso,
        segment,
    )
}
