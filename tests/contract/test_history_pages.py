"""What the status page reads, one screenful at a time: on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from scheduler_service.database import Database
from scheduler_service.ledger.history.pages import (
    CONCERNS_SHOWN,
    JOBS_SHOWN,
    RUNS_SHOWN,
    Failing,
    Pages,
    Show,
    Wanted,
)
from scheduler_service.model import Kind, State
from scheduler_service.tables import job_state, leader_lease, leader_term, replica, run, run_attempt
from tests.contract.ledger_world import LOCK, World

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
ALIVE_SECONDS = 15.0


class Looking(World):
    """A ledger, and somebody who looks at it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.pages = Pages(database, LOCK)
        self.began = self.now()

    def job(self, job_id: str, *, lock_id: int = LOCK, **changes: Any) -> None:
        values = {
            "lock_id": lock_id,
            "job_id": job_id,
            "schedule": "every 1h",
            "timezone": "UTC",
            "enabled": True,
            "accountable_from": self.began - HOUR,
            "settled_until": self.began,
            "present_at": self.began + HOUR,
        }
        self.execute(insert(job_state).values(**values | changes))

    def run(self, job_id: str, state: State = State.SUCCEEDED, *, at: datetime | None = None, **changes: Any) -> int:
        """Insert a row with an attempt that took a second; return its id."""
        self.number = getattr(self, "number", 0) + 1
        at = at or self.began - HOUR + self.number * SECOND
        values = {
            "lock_id": LOCK,
            "job_id": job_id,
            "scheduled_at": at,
            "due_at": at,
            "decided_at": at,
            "kind": Kind.SCHEDULED.value,
            "state": state.value,
            "attempt": 1,
        }
        run_id = int(self.execute(insert(run).values(**values | changes).returning(run.c.id))[0][0])
        if state not in (State.WAITING, State.MISSED, State.SKIPPED):
            self.execute(
                insert(run_attempt).values(
                    run_id=run_id,
                    attempt=1,
                    term=1,
                    instance_id="me",
                    started_at=at,
                    finished_at=None if state is State.RUNNING else at + SECOND,
                    state=state.value,
                )
            )
        return run_id

    def replica(self, name: str, *, seen_at: datetime, config_hash: str = "one") -> None:
        self.execute(
            insert(replica).values(
                instance_id=name,
                lock_id=LOCK,
                host="host",
                pid=1,
                version="1",
                config_hash=config_hash,
                config_loaded_at=seen_at,
                started_at=seen_at,
                seen_at=seen_at,
            )
        )

    def shown(self, wanted: Wanted) -> list[str]:
        return [job.job_id for job in self.pages.overview(wanted).standing.jobs]


@pytest.fixture
def world(database: Database) -> Looking:
    return Looking(database)


def test_jobs_come_in_pages_and_each_is_on_one(world: Looking) -> None:
    names = [f"job-{number:03}" for number in range(2 * JOBS_SHOWN + 3)]
    for name in names:
        world.job(name)
    pages = [world.shown(Wanted(page=number)) for number in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [JOBS_SHOWN, JOBS_SHOWN, 3, 0]
    assert [name for page in pages for name in page] == names
    assert world.pages.overview(Wanted(page=2)).found_count == len(names)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["100%", "a_b", "axb", "Nightly"]),
        ("night", ["Nightly"]),
        ("_", ["a_b"]),
        ("%", ["100%"]),
        ("\\", []),
        ("' or 1=1 --", []),
    ],
)
def test_a_search_takes_every_letter_for_itself(world: Looking, text: str, found: list[str]) -> None:
    for name in ("100%", "a_b", "axb", "Nightly"):
        world.job(name)
    assert sorted(world.shown(Wanted(text=text))) == sorted(found)


def test_a_search_finds_jobs_that_are_named_besides(world: Looking) -> None:
    for name in ("backup", "report", "other"):
        world.job(name)
    assert world.shown(Wanted(text="back", named=("report",))) == ["backup", "report"]


def test_a_job_comes_with_its_newest_runs_the_newest_last(world: Looking) -> None:
    for name in ("a", "b", "never"):
        world.job(name)
    mine = []
    for _ in range(RUNS_SHOWN + 5):
        mine.append(world.run("a"))
        world.run("b")
    overview = world.pages.overview(Wanted())
    assert [row.id for row in overview.recent["a"]] == mine[-RUNS_SHOWN:]
    assert {row.job_id for row in overview.recent["b"]} == {"b"}
    assert overview.recent["a"][0].duration_seconds == 1.0
    assert "never" not in overview.recent


@pytest.mark.parametrize(
    ("states", "failing"),
    [
        ([State.SUCCEEDED], False),
        ([State.FAILED], True),
        ([State.TIMED_OUT], True),
        ([State.LOST], True),
        ([State.MISSED], True),
        ([State.CANCELLED], False),
        ([State.FAILED, State.SUCCEEDED], False),
        ([State.SUCCEEDED, State.FAILED], True),
        ([State.FAILED, State.SKIPPED], True),
        ([State.FAILED, State.WAITING], True),
        ([State.FAILED, State.RUNNING], True),
        ([], False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_job_fails_as_long_as_its_newest_run_that_ended_says_so(
    world: Looking, states: list[State], failing: bool
) -> None:
    world.job("a")
    ids = {state: world.run("a", state) for state in states}
    found = world.pages.failing()
    bad = next(
        (ids[state] for state in states if state in (State.FAILED, State.TIMED_OUT, State.LOST, State.MISSED)), 0
    )
    assert found == ((Failing("a", bad),) if failing else ())


def test_a_disabled_job_and_one_that_is_gone_fail_no_more(world: Looking) -> None:
    world.job("a", enabled=False)
    world.job("b", present_at=world.began - 10 * HOUR)
    world.job("c")
    for name in ("a", "b", "c"):
        world.run(name, State.FAILED)
    assert [one.job_id for one in world.pages.failing()] == ["c"]


def test_one_may_look_at_some_jobs_only(world: Looking) -> None:
    world.job("fine")
    world.job("bad")
    world.job("busy")
    world.job("stuck")
    world.job("paused", paused_at=world.began)
    world.job("off", enabled=False)
    world.run("bad", State.FAILED)
    world.run("busy", State.RUNNING)
    world.run("stuck", State.TIMED_OUT, slot_held=True)
    failing = tuple(one.job_id for one in world.pages.failing())
    assert sorted(failing) == ["bad", "stuck"]
    assert world.shown(Wanted(Show.FAILING, failing=failing)) == ["bad", "stuck"]
    assert world.shown(Wanted(Show.RUNNING)) == ["busy", "stuck"]
    assert world.shown(Wanted(Show.PAUSED)) == ["paused"]
    assert world.shown(Wanted(Show.DISABLED)) == ["off"]
    counts = world.pages.overview(Wanted()).counts
    assert (counts.jobs, counts.paused, counts.disabled, counts.running, counts.waiting) == (6, 1, 1, 1, 0)


def test_a_job_whose_pause_is_over_is_paused_no_more(world: Looking) -> None:
    """A disabled one is settled no more, which would clear the pause."""
    since = world.began - HOUR
    world.job("resumed", enabled=False, paused_at=since, paused_until=world.began - MINUTE)
    world.job("paused for now", paused_at=since, paused_until=world.began + HOUR)
    world.job("paused", paused_at=since)
    overview = world.pages.overview(Wanted())
    assert overview.counts.paused == world.pages.job_counts(None, world.began).paused == 2
    assert sorted(job.job_id for job in overview.paused) == ["paused", "paused for now"]
    assert world.shown(Wanted(Show.PAUSED)) == ["paused", "paused for now"]


def test_what_stands_out_is_shown_in_part_and_counted_in_whole(world: Looking) -> None:
    for number in range(CONCERNS_SHOWN + 2):
        world.job(f"job-{number:02}")
        world.run(f"job-{number:02}", State.TIMED_OUT, slot_held=True)
    overview = world.pages.overview(Wanted(), world.pages.failing())
    for some in (overview.stuck, overview.failing):
        assert len(some.rows) == CONCERNS_SHOWN
        assert some.count == CONCERNS_SHOWN + 2


def test_a_run_waits_unusually_only_if_nothing_explains_it(world: Looking) -> None:
    old = world.began - 10 * MINUTE
    for name in ("alone", "behind", "paused", "fresh", "gone"):
        gone = {"present_at": world.began} if name == "gone" else {}
        world.job(name, paused_at=world.began if name == "paused" else None, **gone)
    world.job("resumed", paused_at=old, paused_until=world.began - 2 * MINUTE)
    world.job("resumed lately", paused_at=old, paused_until=world.began)
    for name in ("alone", "behind", "paused", "fresh", "gone", "resumed", "resumed lately"):
        world.run(name, State.WAITING, at=world.began if name == "fresh" else old)
    world.run("behind", State.RUNNING)
    assert [row.job_id for row in world.pages.overview(Wanted()).waiting.rows] == ["alone", "resumed"]


def test_the_runs_of_a_job_come_in_pages_too(world: Looking) -> None:
    world.job("a")
    ids = [world.run("a") for _ in range(5)]
    world.run("b")
    first = world.pages.recent("a", limit=3)
    assert [row.id for row in first] == ids[:-4:-1]
    assert [row.id for row in world.pages.recent("a", limit=3, before=first[-1].id)] == ids[1::-1]


HAPPENINGS: dict[str, Callable[[Looking], Any]] = {
    "a run is decided": lambda world: world.run("a"),
    "a run begins": lambda world: world.execute(
        update(run).where(run.c.state == State.WAITING.value).values(state=State.RUNNING.value)
    ),
    "a run ends": lambda world: world.execute(
        update(run).where(run.c.state == State.RUNNING.value).values(state=State.FAILED.value)
    ),
    "a run is asked to stop": lambda world: world.execute(
        update(run).where(run.c.state == State.RUNNING.value).values(cancel_requested_at=world.began)
    ),
    "a job is paused": lambda world: world.execute(update(job_state).values(paused_at=world.began)),
    "a pause is over": lambda world: world.execute(
        update(job_state).where(job_state.c.job_id == "z").values(paused_until=world.began)
    ),
    "a job comes": lambda world: world.job("new"),
    "a replica comes": lambda world: world.replica("new", seen_at=world.began),
    "a replica falls silent": lambda world: world.execute(
        update(replica).where(replica.c.instance_id == "r1").values(seen_at=world.began - HOUR)
    ),
    "a replica has another configuration": lambda world: world.execute(
        update(replica).where(replica.c.instance_id == "r1").values(config_hash="two")
    ),
    "the leader goes": lambda world: world.execute(delete(leader_lease)),
    "a leader comes": lambda world: world.execute(
        insert(leader_term).values(lock_id=LOCK, term=2, leader_id="me", acquired_at=world.began)
    ),
}


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_whatever_happens_leaves_a_mark(world: Looking, happening: str) -> None:
    world.job("a")
    world.job("z", paused_at=world.began)
    world.run("a", State.WAITING)
    world.run("a", State.RUNNING)
    world.replica("r1", seen_at=world.began)
    before = world.pages.marks(ALIVE_SECONDS)
    assert world.pages.marks(ALIVE_SECONDS).change == before.change
    HAPPENINGS[happening](world)
    assert world.pages.marks(ALIVE_SECONDS).change != before.change


def test_a_sign_of_life_is_no_change(world: Looking) -> None:
    world.replica("r1", seen_at=world.began)
    before = world.pages.marks(ALIVE_SECONDS)
    world.execute(update(replica).values(seen_at=world.began + SECOND))
    after = world.pages.marks(ALIVE_SECONDS)
    assert after.change == before.change
    assert after.seen["r1"] == world.began + SECOND
