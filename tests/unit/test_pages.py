"""What pages make of values: words, pictures, concerns, and looks at all jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from scheduler_service.ledger.history import Leader, ReplicaRow, RunRow, Standing, TermRow
from scheduler_service.ledger.history.pages import Counts, Failing, Overview, Owing, Some, Wanted
from scheduler_service.model import JobSpec, Kind, Reason, State
from scheduler_service.schedule import every
from scheduler_service.web import drawing
from scheduler_service.web.attention import Level, concerns
from scheduler_service.web.surveying import Late, _Lateness
from scheduler_service.web.wording import LETTERS, clock, local, relative, row_words, span

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


def words_of(found: Overview, late: tuple[Late, ...] = (), not_ready: tuple[str, ...] = ()) -> list[tuple[int, str]]:
    return [(one.level, one.word) for one in concerns(found, late, lost_after_seconds=15, not_ready=not_ready)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.0124, "12 ms"), (3.44, "3.4 s"), (65, "1m 5s"), (7500, "2h 5m"), (273_600, "3d 4h"), (60, "1m")],
)
def test_a_duration_in_words(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


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
    late = (Late("b", NOW - HOUR, NOW - 2 * HOUR),)
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
    found = words_of(overview(None, replica("web-1")), (Late("b", NOW - HOUR, NOW - 2 * HOUR),))
    assert found == [(Level.ALARM, "no leader")]


class Hand:
    """A clock that stands still, but for `per_look` seconds at each look at it."""

    def __init__(self, per_look: float = 0.0) -> None:
        self.per_look, self.seconds = per_look, 0.0

    def monotonic(self) -> float:
        self.seconds += self.per_look
        return self.seconds


class Jobs:
    """The jobs of a ledger."""

    def __init__(self, count: int) -> None:
        self.at = NOW
        self.all = {f"job-{n:04}": Owing(f"job-{n:04}", "every 1h", "UTC", NOW) for n in range(count)}

    def now(self) -> datetime:
        return self.at

    def owing(
        self, *, after: str = "", settled_from: datetime | None = None, only: Any = (), limit: int = 500
    ) -> tuple[Owing, ...]:
        found = [
            one
            for one in self.all.values()
            if one.job_id > after
            and (settled_from is None or one.settled_until >= settled_from)
            and (not only or one.job_id in only)
        ]
        return tuple(found[:limit])

    def failing(self) -> tuple[Failing, ...]:
        return ()


def lateness(hand: Hand | None = None, spec: JobSpec | None = None) -> _Lateness:
    return _Lateness(lambda _: spec, cast(Any, hand or Hand()))


def test_a_job_is_late_when_its_tick_is_long_due_and_not_when_it_is_settled() -> None:
    jobs, look = Jobs(3), lateness()
    assert look.look(cast(Any, jobs)) == ()
    jobs.at = NOW + HOUR + 119 * SECOND
    assert look.look(cast(Any, jobs)) == ()
    jobs.at = NOW + HOUR + 121 * SECOND
    assert [one.job_id for one in look.look(cast(Any, jobs))] == ["job-0000", "job-0001", "job-0002"]
    jobs.all["job-0001"] = Owing("job-0001", "every 1h", "UTC", jobs.at)
    del jobs.all["job-0002"]
    assert look.look(cast(Any, jobs)) == (Late("job-0000", NOW + HOUR, NOW),)


def test_a_job_has_twice_its_grace_and_its_jitter() -> None:
    spec = JobSpec(id="a", run="a:b", schedule=every(HOUR), misfire_grace=10 * SECOND, jitter=5 * SECOND)
    jobs, look = Jobs(1), lateness(spec=spec)
    jobs.at = NOW + HOUR + 25 * SECOND
    assert look.look(cast(Any, jobs)) == ()
    jobs.at += SECOND
    assert len(look.look(cast(Any, jobs))) == 1


@pytest.mark.parametrize("per_look", [0.0, 0.001], ids=["quick", "slow"])
@pytest.mark.parametrize("number", [0, 499, 500, 777, 1233])
def test_no_job_is_overlooked_however_many_there_are_and_however_slow_it_goes(per_look: float, number: int) -> None:
    jobs, look = Jobs(1234), lateness(Hand(per_look))
    jobs.at = NOW + 2 * HOUR
    late = f"job-{number:04}"
    jobs.all = {name: Owing(name, "every 1h", "UTC", NOW if name == late else jobs.at) for name in jobs.all}
    found: set[str] = set()
    for _ in range(200):
        found |= {one.job_id for one in look.look(cast(Any, jobs))}
    assert found == {late}


def test_of_very_many_late_jobs_the_latest_are_told() -> None:
    jobs, look = Jobs(1234), lateness()
    jobs.all["job-1100"] = Owing("job-1100", "every 1h", "UTC", NOW - HOUR)
    jobs.at = NOW + 2 * HOUR
    for _ in range(4):
        found = look.look(cast(Any, jobs))
    assert found[0].job_id == "job-1100"
    assert len(found) == 500
