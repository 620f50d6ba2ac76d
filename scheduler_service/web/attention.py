"""What needs a person's attention, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from scheduler_service.ledger.history import Standing
from scheduler_service.ledger.history.pages import CONCERNS_SHOWN, Overview, Some
from scheduler_service.model import State
from scheduler_service.watch import Unsettled
from scheduler_service.web.wording import clock, reason_words, relative, segment, state_words


class Level(IntEnum):
    """How bad it is."""

    ALARM = 0  # the service does not do its work
    TROUBLE = 1  # a job, or a replica, does not fare well
    NOTE = 2  # somebody wanted it so


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing to look at."""

    level: Level
    word: str  # what kind of thing, in a word or two
    text: str
    at: datetime | None = None  # since when
    link: str | None = None
    subject: str = ""  # what the link is called: a job, a replica


def concerns(
    overview: Overview, late: Sequence[Unsettled], *, lost_after_seconds: float, not_ready: Sequence[str]
) -> tuple[Concern, ...]:
    """Return what stands out."""
    now = overview.standing.now
    found = [
        *(Concern(Level.ALARM, "this replica", reason) for reason in not_ready),
        *_leadership(overview.standing),
        *_late(late, now, has_leader=overview.standing.leader is not None),
        *_stuck(overview.stuck),
        *_failing(overview.failing),
        *_waiting(overview.waiting),
        *_replicas(overview.standing, lost_after_seconds),
        *_paused(overview, now),
    ]
    return tuple(sorted(found, key=lambda one: one.level))


def _leadership(standing: Standing) -> list[Concern]:
    if standing.leader is not None:
        stranger, since = standing.stranger(), standing.leader.acquired_at
        return [] if stranger is None else [Concern(Level.ALARM, "stranger", f"{stranger}.", since, "/leadership")]
    last = standing.last_term
    if last is None:
        return [Concern(Level.ALARM, "no leader", "No replica has ever led: no job runs.", link="/leadership")]
    return [
        Concern(
            Level.ALARM,
            "no leader",
            f"Nobody leads, so no job runs. The last leader was {last.leader_id}, in term {last.term}.",
            last.ended_at,
            "/leadership",
        )
    ]


def _late(late: Sequence[Unsettled], now: datetime, *, has_leader: bool) -> list[Concern]:
    # Without a leader everything is late; that is said already.
    if not has_leader:
        return []
    shown = [
        Concern(
            Level.ALARM,
            "late",
            f"its tick of {clock(one.scheduled_at, now)} UTC is not decided: the leader leads, but does not settle it.",
            one.due_at,
            f"/jobs/{segment(one.job_id)}",
            one.job_id,
        )
        for one in late[:CONCERNS_SHOWN]
    ]
    return [*shown, *_more(len(late), Level.ALARM, "late", "/")]


def _stuck(stuck: Some) -> list[Concern]:
    shown = [
        Concern(
            Level.ALARM,
            "stuck",
            f"run {row.id} is {state_words(row.state)}, but its code goes on and holds the job's slot.",
            row.finished_at or row.started_at,
            f"/runs/{row.id}",
            row.job_id,
        )
        for row in stuck.rows
    ]
    return [*shown, *_more(stuck.count, Level.ALARM, "stuck", "/?show=running")]


def _failing(failing: Some) -> list[Concern]:
    shown = []
    for row in failing.rows:
        lines = (row.error or "").strip().splitlines()
        why = lines[-1].strip() if lines else reason_words(row)
        if not why and row.exit_code is not None:
            why = f"exit code {row.exit_code}"
        if not why and row.state is State.LOST:
            why = f"{row.instance_id or 'its replica'} was not heard of again"
        shown.append(
            Concern(
                Level.TROUBLE,
                state_words(row.state),
                f"run {row.id}{': ' + why if why else ''}",
                row.finished_at or row.decided_at,
                f"/runs/{row.id}",
                row.job_id,
            )
        )
    return [*shown, *_more(failing.count, Level.TROUBLE, "failing", "/?show=failing")]


def _waiting(waiting: Some) -> list[Concern]:
    shown = [
        Concern(
            Level.TROUBLE,
            "waits",
            f"run {row.id} is due and not started: all workers of the leader may be at work.",
            row.due_at,
            f"/runs/{row.id}",
            row.job_id,
        )
        for row in waiting.rows
    ]
    return [*shown, *_more(waiting.count, Level.TROUBLE, "waits", "/?show=running")]


def _replicas(standing: Standing, lost_after_seconds: float) -> list[Concern]:
    found = []
    drifted = {one.instance_id for one in standing.drifted(lost_after_seconds)}
    for one in standing.replicas:
        if not standing.live(one, lost_after_seconds):
            found.append(
                Concern(Level.TROUBLE, "gone", "has given no sign of life.", one.seen_at, None, one.instance_id)
            )
        elif one.instance_id in drifted:
            text = f"has another configuration ({one.config_hash[:8]}) than the leader."
            found.append(Concern(Level.TROUBLE, "drift", text, None, None, one.instance_id))
    return found


def _paused(overview: Overview, now: datetime) -> list[Concern]:
    shown = []
    for job in overview.paused:
        pause = job.paused(now)
        if pause is None:
            continue
        until = (
            f"until {clock(pause.until, now)} UTC ({relative(pause.until, now)})" if pause.until else "until resumed"
        )
        by = f" by {pause.by}" if pause.by else ""
        why = f": {pause.reason}" if pause.reason else ""
        shown.append(
            Concern(Level.NOTE, "paused", f"{until}{by}{why}", pause.at, f"/jobs/{segment(job.job_id)}", job.job_id)
        )
    return [*shown, *_more(overview.counts.paused, Level.NOTE, "paused", "/?show=paused")]


def _more(count: int, level: Level, word: str, link: str) -> list[Concern]:
    left = count - CONCERNS_SHOWN
    return [Concern(level, word, f"and {left:,} more", None, link, "all of them")] if left > 0 else []
