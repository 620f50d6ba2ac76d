"""What pages make of values: words, pictures and concerns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from scheduler_service.ledger.history import Leader, ReplicaRow, RunRow, Standing, TermRow
from scheduler_service.ledger.history.pages import Counts, Failing, Overview, Some, Wanted
from scheduler_service.model import Kind, Reason, State
from scheduler_service.watch import Unsettled
from scheduler_service.web import drawing
from scheduler_service.web.attention import Level, concerns
from scheduler_service.web.surveying import Surveyor
from scheduler_service.web.wording import LETTERS, clock, end_words, local, relative, row_words, span

NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
LEADER = Leader("web-1", 3, NOW - HOUR, NOW + 5 * SECOND, True)


def row(number: int, state: State = State.SUCCEEDED, seconds: float | None = None, **changes: Any) -> RunRow:
    at = NOW - HOUR + number * SECOND
    took = {} if seconds is None else {"started_at": at, "finished_at": at + seconds * SECOND}
    values = {"reason": None, "decided_by": "web-1", "attempt": 1, **took, **changes}
    return RunRow(
        id=number, job_id="a", scheduled_at=at, until=None, due_at=at, kind=Kind.SCHEDULED, state=state, decided_at=at,
        **values,
    )  # fmt: skip


def replica(name: str, *, seen: datetime = NOW, config_hash: str = "one") -> ReplicaRow:
    return ReplicaRow(name, "host", 1, "1", config_hash, NOW - HOUR, seen)


def overview(leader: Leader | None = LEADER, *replicas: ReplicaRow, **changes: Any) -> Overview:
    standing = Standing(NOW, 1, leader, TermRow(3, "web-1", NOW - HOUR, None, None), replicas, ())
    values = {"failing": Some(), "stuck": Some(), "waiting": Some(), "paused": ()}
    return Overview(
        standing=standing, terms=(), counts=Counts(), wanted=Wanted(), found_count=0, recent={}, **values | changes
    )


def words_of(
    found: Overview, late: tuple[Unsettled, ...] = (), not_ready: tuple[str, ...] = ()
) -> list[tuple[int, str]]:
    return [(one.level, one.word) for one in concerns(found, late, lost_after_seconds=15, not_ready=not_ready)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.0124, "12 ms"), (3.44, "3.4 s"), (65, "1m 5s"), (7500, "2h 5m"), (273_600, "3d 4h"), (60, "1m")],
)
def test_a_duration_in_words(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (None, ""),
        ("released", "it gave its lease back"),
        ("resigned", "it resigned"),
        ("expired", "its lease ran out"),
        ("session_gone", "its process or session died"),
        ("replaced_by_itself", "it was elected anew"),
        ("row_deleted", "its lease was deleted"),
        ("new_release", "new release"),  # a program of somebody else's may say what it likes
    ],
)
def test_the_end_of_a_leadership_in_words(reason: str | None, words: str) -> None:
    assert end_words(TermRow(3, "web-1", NOW - HOUR, NOW, reason)) == words


def test_a_moment_leaves_out_what_it_shares_with_now() -> None:
    assert clock(NOW, NOW) == "12:00:00"
    assert clock(NOW - 24 * HOUR, NOW) == "28 Mar 12:00:00"
    assert clock(NOW.replace(year=2025), NOW) == "2025-03-29 12:00:00"
    assert local(NOW, "Europe/Berlin") == "2026-03-29 14:00:00 Europe/Berlin"
    assert local(NOW, "Atlantis/Capital").endswith("UTC")
    assert (relative(NOW - 5 * SECOND, NOW), relative(NOW + HOUR, NOW)) == ("5 s ago", "in 1h")


def test_states_are_told_apart_without_colour() -> None:
    assert set(LETTERS) == set(State)
    letters = list(LETTERS.values())
    assert len(set(letters)) == len(letters)


def test_every_row_says_what_it_is() -> None:
    text = row_words(row(1, State.SKIPPED, reason=Reason.OVERLAP))
    assert text == "run 1, 2026-03-29 11:00:01 UTC, skipped, the job still ran"


def test_bars_stand_in_proportion_and_what_never_ran_has_none() -> None:
    drawn = drawing.strip([row(1, seconds=1), row(2, seconds=4), row(3, State.SKIPPED), row(4, seconds=0)], height=12)
    assert [one.height for one in drawn.columns] == [3.0, 12.0, 0.0, 1.0]
    assert (drawn.longest_seconds, drawn.median_seconds) == (4, 1)
    assert drawing.strip([]).median_seconds is None


def test_a_timeline_shows_who_led_and_when_nobody_did() -> None:
    terms = [
        TermRow(9, "b", NOW - 10 * SECOND, None, None),
        TermRow(8, "a", NOW - HOUR, NOW - 70 * SECOND, "session_gone"),
        TermRow(5, "b", NOW - 2 * HOUR, NOW - HOUR, "resigned"),
    ]
    pieces = drawing.timeline(terms, Leader("b", 9, NOW - 10 * SECOND, NOW + SECOND, True), NOW)
    assert [one.term.term if one.term else None for one in pieces] == [5, 8, None, 9]
    assert [one.seconds for one in pieces] == [3600, 3530, 60, 10]
    assert [one.goes_on for one in pieces] == [False, False, False, True]
    assert pieces[0].colour == pieces[3].colour != pieces[1].colour
    assert sum(one.width for one in pieces) == pytest.approx(100, abs=0.01)


def test_a_timeline_ends_with_a_gap_when_nobody_leads() -> None:
    terms = [TermRow(1, "a", NOW - HOUR, NOW - 30 * SECOND, "expired")]
    assert drawing.timeline(terms, None, NOW)[-1].seconds == 30
    assert drawing.timeline([], None, NOW) == ()


def test_when_all_is_well_there_is_no_concern() -> None:
    assert words_of(overview(LEADER, replica("web-1"), replica("web-2"))) == []


def test_concerns_come_the_worst_first() -> None:
    failed = Some((row(1, State.FAILED, error="Traceback\nValueError: no"),), 1)
    found = overview(
        LEADER,
        replica("web-1"),
        replica("web-2", seen=NOW - HOUR),
        replica("web-3", config_hash="two"),
        failing=failed,
        stuck=Some((row(2, State.TIMED_OUT),), 30),
    )
    late = (Unsettled("b", NOW - HOUR, NOW - HOUR),)
    assert words_of(found, late, ("the elector thread took no step for 12s",)) == [
        (Level.ALARM, "this replica"),
        (Level.ALARM, "late"),
        (Level.ALARM, "stuck"),
        (Level.ALARM, "stuck"),  # and so many more
        (Level.TROUBLE, "failed"),
        (Level.TROUBLE, "gone"),
        (Level.TROUBLE, "drift"),
    ]
    texts = [one.text for one in concerns(found, late, lost_after_seconds=15, not_ready=())]
    assert "and 18 more" in texts
    assert "run 1: ValueError: no" in texts


def test_without_a_leader_that_is_said_and_not_that_every_job_is_late() -> None:
    found = words_of(overview(None, replica("web-1")), (Unsettled("b", NOW - HOUR, NOW - HOUR),))
    assert found == [(Level.ALARM, "no leader")]


def test_a_leader_that_never_signed_in_is_told_after_a_while() -> None:
    assert words_of(overview(LEADER, replica("web-2"))) == [(Level.ALARM, "stranger")]
    begun = Leader("web-1", 3, NOW - 10 * SECOND, NOW + 5 * SECOND, True)
    assert words_of(overview(begun, replica("web-2"))) == []


class Looks:
    """A ledger in which a look at all jobs takes `seconds`, on a clock that only looks move."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.at, self.count = seconds, 0.0, 0

    def monotonic(self) -> float:
        return self.at

    def failing(self) -> tuple[Failing, ...]:
        self.count += 1
        self.at += self.seconds
        return (Failing("a", self.count),)


def test_all_jobs_are_looked_at_for_a_twentieth_of_the_time_at_most() -> None:
    looks = Looks(seconds=2.0)
    surveyor = Surveyor(cast(Any, looks), cast(Any, looks))
    assert surveyor.failing() == (Failing("a", 1),)
    looks.at += 39.0
    assert surveyor.failing() == (Failing("a", 1),)
    assert looks.count == 1
    looks.at += 2.0
    assert surveyor.failing() == (Failing("a", 2),)
