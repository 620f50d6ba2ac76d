"""The leader's hand on a real ledger: what it settles and starts, and what cuts between its statements do."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from scheduler_service import schedule as schedules
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.ledger import Finished, Replica
from scheduler_service.ledger.requests import Requests
from scheduler_service.model import Attempt, CatchUp, JobSpec, Lease, OnCrash, Outcome, Overlap, State
from scheduler_service.tables import job_state, leader_lease, replica, run, run_attempt
from scheduler_service.workers.tasks import Task
from tests.contract.dispatcher_world import HOUR, LOCK, ME, MINUTE, OTHER, World, a_successor, job
from tests.waiting import wait_until


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


BRIEFLY = timedelta(seconds=1.2)


def test_a_late_tick_is_settled_and_started(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    assert world.runs() == [("running", None)]
    ((attempt),) = world.pool.taken.values()
    assert (attempt.job_id, attempt.term, attempt.instance_id, attempt.attempt) == ("a", 2, ME, 1)


def test_a_week_without_a_leader_replays_nothing(world: World) -> None:
    jobs = [job(f"j{number}", every=MINUTE) for number in range(20)]
    world.adopt(*jobs, back=timedelta(days=7))
    world.step_all()
    assert len(world.pool.taken) == 20
    assert {attempt.job_id for attempt in world.pool.taken.values()} == {spec.id for spec in jobs}
    states = world.execute(select(run.c.kind, run.c.state, run.c.reason))
    assert {tuple(row) for row in states} == {
        ("scheduled", "running", None),
        ("range", "missed", "coalesced"),
    }


@pytest.mark.parametrize("paused", [False, True])
def test_every_tick_stands_in_exactly_one_row(world: World, paused: bool) -> None:
    spec = job(every=timedelta(seconds=10), catch_up=CatchUp.ALL, catch_up_window=timedelta(seconds=200))
    world.adopt(spec, back=timedelta(minutes=10))
    if paused:
        since, until = (world.now() - minutes * MINUTE for minutes in (8, 1))
        world.execute(update(job_state).values(paused_at=since, paused_until=until))
    (before,) = world.execute(select(job_state.c.settled_until))
    world.step_all()
    (after,) = world.execute(select(job_state.c.settled_until))
    covered: list[datetime] = []
    for row in world.execute(select(run.c.scheduled_at, run.c.until)):
        covered += spec.schedule.between(row.scheduled_at - timedelta(microseconds=1), row.until or row.scheduled_at)
    assert sorted(covered) == spec.schedule.between(before.settled_until, after.settled_until)


def test_no_more_is_started_than_workers_are_free(world: World) -> None:
    world.pool.size = 2
    world.adopt(*(job(f"j{number}") for number in range(5)), back=HOUR)
    world.step_all()
    assert len(world.pool.taken) == 2
    world.finish()
    world.step_all()
    assert len(world.pool.taken) == 2
    assert sorted(world.runs())[-2:] == [("waiting", "queued")] or ("succeeded", None) in world.runs()


@pytest.mark.parametrize("cut", [None, "request", "reply"])
def test_what_no_worker_could_begin_waits_again_as_if_it_had_not_been_started(world: World, cut: str | None) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    ((late),) = world.pool.taken
    world.pool.late = [late]
    if cut is not None:
        world.cut.cuts["unstart"] = cut
    world.dispatcher.step()
    world.housekeeping.step()
    world.step_all()
    ((again),) = world.pool.taken.values()
    assert (again.attempt, again.id > late) == (1, True)
    assert world.runs() == [("running", None)]
    assert [row.id for row in world.execute(select(run_attempt.c.id))] == [again.id]


def test_ticks_caught_up_run_one_after_another_oldest_first(world: World) -> None:
    world.adopt(job(every=timedelta(seconds=10), catch_up=CatchUp.ALL, catch_up_limit=3), back=timedelta(seconds=59))
    begun = []
    for _ in range(20):
        world.step_all()
        if not world.pool.taken:
            break
        ((attempt),) = world.pool.taken.values()
        begun.append(attempt.scheduled_at)
        world.finish()
    assert len(begun) >= 5
    assert begun == sorted(begun)


def test_a_tick_that_comes_due_while_the_job_runs_is_skipped(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.execute(update(job_state).values(settled_until=job_state.c.settled_until))
    (row,) = world.execute(select(run.c.scheduled_at))
    world.execute(update(run).values(scheduled_at=row.scheduled_at - HOUR))
    world.execute(update(job_state).values(settled_until=row.scheduled_at - timedelta(seconds=1)))
    world.dispatcher.due("a", row.scheduled_at)
    world.step_all()
    assert world.runs() == [("running", None), ("skipped", "overlap")]


@pytest.mark.parametrize("cut", ["request", "reply"])
def test_a_start_whose_answer_is_lost_begins_exactly_once(world: World, cut: str) -> None:
    world.adopt(job(), back=HOUR)
    world.cut.cuts["start"] = cut
    for _ in range(6):
        world.dispatcher.step()
    assert len(world.pool.taken) == 1
    (attempts,) = [world.execute(select(run_attempt))]
    assert [row.id for row in attempts] == list(world.pool.taken)


def test_a_start_whose_reply_is_lost_is_run_though_the_term_is_over(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.cut.cuts["start"] = "reply"
    world.dispatcher.step()
    world.leadership.lease = None
    world.dispatcher.retire(2)
    world.dispatcher.step()
    assert len(world.pool.taken) == 1
    assert world.dispatcher.open_claims() == frozenset()


@pytest.mark.parametrize("verb", ["recall", "settle", "poll", "start"])
def test_a_term_is_taken_over_once_and_not_before_its_first_run_is_started(world: World, verb: str) -> None:
    told: list[tuple[int, int]] = []
    world.adopt(job(), back=HOUR)
    world.dispatcher.on_taken_over = lambda term: told.append((term, len(world.pool.taken)))
    world.cut.cuts[verb] = "reply"
    world.dispatcher.step()
    assert told == []
    world.step_all()
    assert told == [(2, 1)]
    world.elect(3)
    world.step_all()
    assert [term for term, _ in told] == [2, 3]


def test_an_election_in_the_middle_of_a_standbys_step_is_acted_upon_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.dispatcher.IDLE_SECONDS", 3600.0)
    world.configure(job())
    world.cut.before["rehearse"] = lambda: world.elect() and None
    thread = threading.Thread(target=world.dispatcher.run, daemon=True)
    thread.start()
    wait_until(lambda: "jobs_adopted" in world.names())
    world.dispatcher.stop()
    thread.join()


def test_a_term_without_jobs_is_taken_over(world: World) -> None:
    told: list[int] = []
    world.configure()
    world.dispatcher.on_taken_over = told.append
    world.elect(5)
    world.step_all()
    assert told == [5]


@pytest.mark.parametrize("cut", ["request", "reply"])
def test_a_settle_whose_answer_is_lost_decides_once(world: World, cut: str) -> None:
    world.adopt(job(), back=HOUR)
    world.cut.cuts["settle"] = cut
    world.dispatcher.step()
    world.step_all()
    assert world.runs() == [("running", None)]
    assert len(world.pool.taken) == 1


def test_a_leader_frozen_between_computing_and_writing_writes_nothing(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    successor = World(database, OTHER)
    successor.configure(job())

    def overtaken() -> None:
        successor.elect(3)
        successor.step_all()

    world.cut.before["settle"] = overtaken
    world.dispatcher.step()
    assert world.leadership.fenced == [2]
    assert world.pool.taken == {}
    assert len(successor.pool.taken) == 1
    assert world.runs() == [("running", None)]


def test_a_leader_frozen_before_its_start_starts_nothing(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    successor = World(database, OTHER)
    successor.configure(job())

    def overtaken() -> None:
        successor.elect(3)
        successor.step_all()

    world.cut.before["start"] = overtaken
    world.dispatcher.step()
    assert world.leadership.fenced == [2]
    assert world.pool.taken == {}
    assert len(successor.pool.taken) == 1
    assert world.dispatcher.open_claims() == frozenset()


def test_a_pause_committed_between_computing_and_settling_holds(world: World) -> None:
    world.adopt(job(), back=HOUR)
    # Not as it is configured: it is settled after the adoption, which reads all jobs, instead of just before it.
    world.execute(update(job_state).values(max_running=7))

    def pause() -> None:
        world.execute(update(job_state).values(paused_at=world.now() - 2 * HOUR))

    world.cut.before["settle"] = pause
    world.step_all()
    for _ in range(3):
        world.clock.added += 1
        world.step_all()
    assert world.runs() == [("skipped", "paused")]
    assert world.pool.taken == {}


def test_after_a_pause_its_ticks_are_skipped_and_the_next_runs(world: World) -> None:
    world.adopt(job(every=timedelta(seconds=10), catch_up=CatchUp.NONE), back=timedelta(minutes=10))
    now = world.now()
    world.execute(
        update(job_state).values(
            paused_at=now - timedelta(minutes=8), paused_until=now - timedelta(seconds=50), paused_by="eve"
        )
    )
    world.step_all()
    rows = [
        tuple(row) for row in world.execute(select(run.c.kind, run.c.state, run.c.reason).order_by(run.c.scheduled_at))
    ]
    assert rows.count(("range", "skipped", "paused")) == 1
    assert rows[-1] == ("scheduled", "running", None)
    (state,) = world.execute(select(job_state))
    assert (state.paused_at, state.paused_by) == (None, None)


def test_a_changed_schedule_owes_nothing_for_its_past(world: World) -> None:
    world.adopt(job(), back=HOUR)
    minutely = job(every=MINUTE)
    world.configure(minutely)
    world.elect(3)
    world.step_all()
    assert world.runs() == [("running", None)], "one tick of the stored hourly schedule, none of the new one"
    (state,) = world.execute(select(job_state))
    assert schedules.parse(state.schedule, state.timezone) == minutely.schedule
    assert "jobs_adopted" in world.names()


def test_a_disabled_job_is_settled_and_then_left_alone(world: World) -> None:
    world.adopt(job(catch_up=CatchUp.NONE, misfire_grace=timedelta(0)), back=HOUR)
    world.configure(job(enabled=False, catch_up=CatchUp.NONE, misfire_grace=timedelta(0)))
    world.elect(3)
    world.step_all()
    (state,) = world.execute(select(job_state.c.enabled, job_state.c.settled_until))
    assert not state.enabled
    world.elect(4)
    world.step_all()
    assert world.execute(select(job_state.c.enabled, job_state.c.settled_until)) == [state]


def test_a_run_of_a_replica_that_vanished_holds_its_job_until_it_is_lost(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()  # world runs the job, and never signs in
    successor = a_successor(database, job())
    since = world.now() - HOUR
    world.execute(update(run).values(scheduled_at=since - HOUR))
    world.execute(update(job_state).values(settled_until=since))
    successor.step_all()
    assert successor.runs() == [("running", None)], "whether the tick overlaps cannot be said yet"
    successor.keep_house(0, 5, 5, 4)
    successor.step_all()
    assert successor.runs() == [("running", None)]
    successor.keep_house(1.1)
    successor.clock.added += 0.5
    successor.step_all()
    assert successor.runs() == [("lost", None), ("running", None)]
    (lost,) = [event for event in successor.told if event.name == "attempt_lost"]
    assert lost.fields["holder"] == ME


def test_a_leader_that_may_give_up_no_replica_learns_that_its_term_is_over(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    successor = a_successor(database, job())
    successor.keep_house(0, 5, 5)
    world.elect(4)
    successor.keep_house(6)
    assert successor.leadership.fenced == [3]
    assert [event.fields["statement"] for event in successor.told if event.name == "statement_fenced"] == ["mark_lost"]
    assert world.runs() == [("running", None)]


def test_a_leader_that_may_prune_nothing_learns_that_its_term_is_over(world: World) -> None:
    world.elect(1)
    world.execute(update(leader_lease).values(term=2))
    world.clock.added += 21
    world.housekeeping.step()
    assert world.leadership.fenced == [1]
    assert [event.fields["statement"] for event in world.told if event.name == "statement_fenced"] == ["prune"]


def test_a_run_whose_replica_lives_on_as_a_standby_is_not_lost(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.housekeeping.step()
    successor = a_successor(database, job())
    for _ in range(20):
        successor.housekeeping.step()
        successor.clock.added += 3
        world.housekeeping.step()
    assert world.runs() == [("running", None)]
    world.finish()
    assert world.runs() == [("succeeded", None)]


def test_a_leader_that_is_suspect_does_not_say_that_the_database_is_back(world: World) -> None:
    world.configure(job())
    lease = world.elect()
    world.cut.cuts["recall"] = "request"
    world.dispatcher.step()
    world.leadership.lease = None
    world.dispatcher.step()
    assert world.names() == ["store_unavailable"]
    world.leadership.lease = lease
    world.dispatcher.step()
    assert world.names().count("store_recovered") == 1


def test_an_outage_longer_than_lost_after_marks_nothing_lost(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    successor = a_successor(database, job())
    successor.keep_house(0)
    successor.cut.cuts["sign_in"] = "request"
    successor.keep_house(100)
    assert "store_unavailable" in successor.names()
    successor.keep_house(0, 5, 5, 4)
    assert world.runs() == [("running", None)]
    successor.keep_house(2)
    assert world.runs() == [("lost", None)]


def test_a_single_look_that_fails_begins_the_count_anew(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    successor = a_successor(database, job())
    successor.keep_house(0, 5, 5)
    successor.cut.cuts["sign_in"] = "request"
    successor.keep_house(2, 2, 2)
    assert world.runs() == [("running", None)]


def test_a_wait_in_which_a_leader_heard_nothing_gives_up_nobody(world: World, database: Database) -> None:
    """As when the leader and the database stand still together: the other replica could not sign in either."""
    world.adopt(job(), back=HOUR)
    world.step_all()
    successor = a_successor(database, job())
    successor.keep_house(0, 5, 20)
    assert world.runs() == [("running", None)]
    successor.keep_house(4)
    assert world.runs() == [("running", None)], "the wait counted for five seconds"
    successor.keep_house(2)
    assert world.runs() == [("lost", None)]


def test_a_replica_that_vanished_is_found_though_every_look_takes_long(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    successor = a_successor(database, job())
    successor.keep_house(0, 12, 12)
    assert world.runs() == [("running", None)]
    successor.keep_house(12)
    assert world.runs() == [("lost", None)]


def test_a_leader_that_stands_still_after_its_look_gives_up_nobody(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    successor = a_successor(database, job())
    successor.keep_house(0)
    watch = successor.housekeeping._watch

    def watch_and_stand_still(peers: Any) -> bool:
        watching = watch(peers)
        successor.clock.added += 20
        return watching

    monkeypatch.setattr(successor.housekeeping, "_watch", watch_and_stand_still)
    successor.keep_house(5, 0)
    assert world.runs() == [("running", None)]


def test_a_pruning_that_stalls_gives_up_nobody(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    successor = a_successor(database, job())
    for seconds in (0, 5, 5, 5):
        world.housekeeping.step()
        successor.keep_house(seconds)
    stall_prunings(successor)
    successor.keep_house(6)
    assert "store_unavailable" in successor.names()
    successor.keep_house(1)
    assert world.runs() == [("running", None)]


def test_a_replica_that_vanished_is_found_though_every_pruning_stalls(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()  # world runs the job, and never signs in
    successor = a_successor(database, job())
    stall_prunings(successor)
    successor.clock.added += 20
    for _ in range(100):
        seconds = successor.housekeeping.step()
        successor.clock.added += seconds
    assert world.runs() == [("lost", None)]
    assert "store_unavailable" in successor.names(), "then it is pruned again"


def stall_prunings(world: World) -> None:
    """Let each pruning end without an answer, after the time that a statement may take."""

    def stall(*_: Any) -> None:
        world.clock.added += 10
        raise StoreUnavailable("the statement took too long")

    world.cut.ledger.prune = stall


def test_a_late_result_of_an_attempt_marked_lost_tells_what_happened(world: World, database: Database) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    successor = a_successor(database, job())
    successor.keep_house(0, 5, 5, 6)
    assert world.runs() == [("lost", None)]
    world.finish()
    assert world.runs() == [("succeeded", None)]


def test_a_removed_job_was_there_until_the_edit(world: World) -> None:
    """How long it was absent, if it comes back, counts from then."""
    world.adopt(job("a"), job("b"), back=HOUR)
    world.step_all()
    world.execute(update(job_state).values(present_at=world.now() - 5 * MINUTE))
    world.dispatcher.configure([job("a")])
    world.step_all()
    noted = {row.job_id: row.present_at for row in world.execute(select(job_state))}
    assert noted["a"] - noted["b"] < MINUTE


@pytest.mark.parametrize("fault", ["lease suspect", "no answer"])
def test_it_was_there_until_the_edit_though_nobody_could_be_told_then(world: World, fault: str) -> None:
    world.adopt(job("a"), job("b"), back=HOUR)
    world.step_all()
    world.execute(update(job_state).values(present_at=world.now() - 5 * MINUTE))
    world.dispatcher.configure([job("a")])
    if fault == "no answer":
        world.cut.cuts["adopt"] = "request"
    lease = world.leadership.lease
    world.leadership.lease = None if fault == "lease suspect" else lease
    world.dispatcher.step()
    world.leadership.lease = lease
    world.step_all()
    noted = {row.job_id: row.present_at for row in world.execute(select(job_state))}
    assert noted["a"] - noted["b"] < MINUTE


def test_a_job_away_for_some_minutes_over_a_change_of_leaders_owes_them(world: World, database: Database) -> None:
    world.adopt(job("a"), job("b"), back=HOUR)
    world.step_all()
    later(world, 5 * MINUTE, noted=True)
    world.dispatcher._agenda.add_all("ab")
    world.step_all()  # settled, and not noted again
    later(world, MINUTE)
    successor = a_successor(database, job("a"))
    successor.step_all()
    later(world, 7 * MINUTE)
    successor.dispatcher.configure([job("a")])
    successor.step_all()
    successor.dispatcher.configure([job("a"), job("b")])
    successor.step_all()
    told = [event.fields for event in successor.told if event.name == "jobs_adopted"]
    assert [fields["enabled"] for fields in told if "enabled" in fields] == []


def away(world: World, job_id: str) -> None:
    """Let a job have left the configuration eleven minutes ago."""
    since = world.now() - 11 * MINUTE
    world.execute(update(job_state).where(job_state.c.job_id == job_id).values(present_at=since, settled_until=since))


def test_a_leader_with_another_file_keeps_what_waits_and_starts_what_is_behind_it(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.dispatcher.starting.CANDIDATES", 2)
    world.adopt(job("a"), job("only", overlap=Overlap.ALLOW), back=timedelta(0))
    world.pool.size = 0
    world.step_all()
    for ago in (5, 4, 3):  # minutes
        world.leave_waiting("only", ago * MINUTE, kind="manual")
    world.leave_waiting("a", MINUTE, kind="manual")
    successor = World(database, OTHER)
    successor.configure(job("a"))
    adopt, adoptions = successor.cut.ledger.adopt, []
    monkeypatch.setattr(successor.cut.ledger, "adopt", lambda *words: adoptions.append(words) or adopt(*words))
    successor.elect(3)
    for _ in range(5):
        successor.step_all()
        successor.clock.added += 1.0
    assert [attempt.job_id for attempt in successor.pool.taken.values()] == ["a"]
    assert len(adoptions) == 1, "it does not adopt again and again"
    assert "runs_cancelled" not in successor.names()
    world.pool.size = 20
    world.elect(4)
    world.step_all()
    assert {attempt.job_id for attempt in world.pool.taken.values()} == {"only"}


def test_what_waits_of_a_job_that_stays_away_is_cancelled_while_the_leader_goes_on(
    world: World, database: Database
) -> None:
    world.adopt(job("a"), job("only"), back=timedelta(0))
    world.step_all()
    world.leave_waiting("only", MINUTE, kind="manual")
    successor = World(database, OTHER)
    successor.configure(job("a"))
    lease = successor.elect(3)
    successor.step_all()
    away(world, "only")
    successor.clock.added += 61
    successor.step_all()
    assert world.runs() == [("waiting", "requested")], "nobody led for so long, or a leader that has it"
    successor.leadership.lease = replace(lease, acquired_at=lease.acquired_at - 11 * MINUTE)
    successor.clock.added += 601
    successor.step_all()
    assert world.runs() == [("cancelled", None)]
    assert [event.fields["jobs"] for event in successor.told if event.name == "runs_cancelled"] == ["only"]


def test_what_an_edit_finds_to_have_been_away_for_long_is_told_of(world: World) -> None:
    world.adopt(job("a"), job("only"), back=timedelta(0))
    lease = world.leadership.lease
    assert lease is not None
    world.leadership.lease = replace(lease, acquired_at=lease.acquired_at - 11 * MINUTE)
    world.step_all()
    world.leave_waiting("only", MINUTE, kind="manual")
    world.dispatcher.configure([job("a")])
    world.step_all()
    away(world, "only")
    world.dispatcher.configure([job("a"), job("b")])
    world.step_all()
    assert [event.fields["jobs"] for event in world.told if event.name == "runs_cancelled"] == ["only"]


def later(world: World, seconds: timedelta, *, noted: bool = False) -> None:
    """Let so much time pass: what the ledger holds is older by that, or only when jobs were noted."""
    for row in world.execute(select(job_state)):
        older = {"present_at": row.present_at - seconds}
        if not noted:
            older |= {name: getattr(row, name) - seconds for name in ("settled_until", "accountable_from")}
        world.execute(update(job_state).where(job_state.c.job_id == row.job_id).values(**older))


def test_more_timers_than_can_be_settled_have_their_turn_one_after_another(world: World) -> None:
    specs = [job(f"j{number:03}", every=timedelta(seconds=1), overlap=Overlap.ALLOW) for number in range(260)]
    world.pool.size = 10**6
    world.configure(*specs)
    world.elect()
    world.step_all()
    settled: set[str] = set()
    for _ in range(2):
        moment = world.now()
        just = job_state.c.settled_until > moment - BRIEFLY
        world.execute(update(job_state).where(just).values(settled_until=moment - BRIEFLY))
        world.dispatcher._read_again({spec.id for spec in specs})
        world.clock.added += 0.1
        for spec in specs:  # the others are due still
            world.dispatcher.due(spec.id, moment)
        before = {row.job_id: row.settled_until for row in world.execute(select(job_state))}
        world.dispatcher.step()
        after = {row.job_id: row.settled_until for row in world.execute(select(job_state))}
        moved = {job_id for job_id in after if after[job_id] > before[job_id]}
        assert len(moved) == 200
        settled |= moved
    assert len(settled) == len(specs)


@pytest.mark.usefixtures("small_batches")
def test_of_more_timers_than_can_be_settled_what_comes_due_often_comes_first(world: World) -> None:
    seldom = [job(f"j{number:02}") for number in range(30)]
    often = job("often", every=timedelta(seconds=1))
    world.configure(*seldom, often)
    world.elect()
    world.step_all()
    moment = world.now()
    world.execute(update(job_state).where(job_state.c.job_id != "often").values(settled_until=moment - HOUR))
    world.execute(update(job_state).where(job_state.c.job_id == "often").values(settled_until=moment - BRIEFLY))
    world.dispatcher._read_again({"often", *(spec.id for spec in seldom)})
    world.clock.added += 0.1
    for spec in (*seldom, often):
        world.dispatcher.due(spec.id, moment)
    world.dispatcher.step()
    moved = {row.job_id for row in world.execute(select(job_state)) if row.settled_until >= moment}
    assert len(moved) == 20
    assert "often" in moved


def _no_time_passes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no second pass by itself on the boot clock."""
    now = world.clock.monotonic()
    monkeypatch.setattr(world.clock, "monotonic", lambda: now + world.clock.added)


def _come_due(world: World, ids: Sequence[str], ago: timedelta) -> None:
    """Let these jobs' ticks of the time since `ago` be due now."""
    since = world.now() - ago
    world.execute(update(job_state).where(job_state.c.job_id.in_(ids)).values(settled_until=since))
    world.dispatcher._read_again(set(ids))
    world.clock.added += 0.1
    for one in ids:
        world.dispatcher.due(one, world.now())


def _wait_for_room(world: World, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let ten jobs' runs wait, six of another kind come due, and `size` workers become free."""
    _no_time_passes(world, monkeypatch)
    old = [job(f"old{number}", every=10 * MINUTE, misfire_grace=HOUR) for number in range(10)]
    new = [job(f"new{number}", every=timedelta(seconds=1), misfire_grace=HOUR) for number in range(6)]
    world.pool.size = size
    world.adopt(*old, *new, back=timedelta(0))
    world.step_all()
    while world.pool.taken:  # a tick may have come due meanwhile
        world.finish()
        world.step_all()
    for kind, ago in (("old", 15 * MINUTE), ("new", BRIEFLY)):
        ids = [spec.id for spec in (*old, *new) if spec.id.startswith(kind)]
        decided = select(run.c.id).where(run.c.job_id.in_(ids))  # of which none may be one of those to come
        world.execute(delete(run_attempt).where(run_attempt.c.run_id.in_(decided)))
        world.execute(delete(run).where(run.c.job_id.in_(ids)))
        _come_due(world, ids, ago)
        world.dispatcher.step()


def _begun(world: World) -> list[str]:
    return sorted(attempt.job_id[:3] for attempt in world.pool.taken.values())


def test_what_has_just_come_due_does_not_wait_behind_all_that_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait_for_room(world, monkeypatch, size=4)
    assert _begun(world) == ["old"] * 4
    world.finish()
    world.step_all()
    assert _begun(world) == ["new"] * 2 + ["old"] * 2  # nor does what waits longest


def test_what_has_just_come_due_keeps_the_order_of_its_job(world: World) -> None:
    old = [job(f"old{number}", every=10 * MINUTE, misfire_grace=HOUR) for number in range(8)]
    queue = job("queue", every=timedelta(seconds=1), overlap=Overlap.QUEUE, max_running=3, misfire_grace=HOUR)
    world.pool.size = 1
    world.configure(*old, queue)
    world.elect()
    world.step_all()
    for spec in old:
        world.leave_waiting(spec.id, ago=5 * MINUTE)
    world.clock.added += 1.0
    world.step_all()
    for seconds in range(4, 0, -1):
        world.leave_waiting("queue", ago=timedelta(seconds=seconds))
    world.dispatcher.due("queue", world.now())
    world.step_all()
    begun: list[datetime] = []
    for _ in range(14):
        world.finish()
        world.step_all()
        begun += [one.scheduled_at for one in world.pool.taken.values() if one.job_id == "queue"]
    assert len(begun) >= 4
    assert begun == sorted(begun)


def test_where_one_worker_at_a_time_becomes_free_the_newest_and_the_oldest_take_turns(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait_for_room(world, monkeypatch, size=1)
    begun: list[str] = []
    for _ in range(6):
        world.finish()
        world.step_all()
        begun += _begun(world)
    assert begun in (["new", "old"] * 3, ["old", "new"] * 3)


def test_what_has_just_come_due_is_not_forgotten_when_what_waits_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.dispatcher.starting.CANDIDATES", 3)
    _wait_for_room(world, monkeypatch, size=2)
    for _ in range(2):
        world.finish()
        world.clock.added += 1.0
        world.step_all()
        assert _begun(world) == ["new", "old"]


@pytest.mark.usefixtures("small_batches")
def test_a_new_leader_settles_before_it_starts_all_that_is_late(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    late = [job(f"l{number:03}") for number in range(110)]
    world.adopt(*late, job("often", every=timedelta(seconds=1)), back=2 * HOUR)
    _no_time_passes(world, monkeypatch)
    world.pool.size = 10
    started: list[str] = []

    def step() -> int:
        world.dispatcher.step()
        begun = [attempt.job_id for attempt in world.pool.taken.values()]
        started.extend(begun)
        world.finish()
        return len(begun)

    assert [step(), step(), step()] == [10, 0, 0]
    _come_due(world, ["often"], BRIEFLY)
    assert step() == 1  # what has just come due does not wait for that
    assert started[-1] == "often"
    world.clock.added += 0.75
    assert step() == 10  # nor does what is late for longer than this
    while step() or world.dispatcher._agenda.ready:
        pass
    assert len(started) == 111


@pytest.mark.usefixtures("small_batches")
def test_a_job_that_a_new_leader_cannot_settle_yet_delays_no_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [job(f"l{number:02}") for number in range(30)]
    world.adopt(job("held"), *others, back=2 * HOUR)
    world.leave_waiting("held", ago=MINUTE)
    world.execute(update(run).values(state="running", attempt=1))
    ((run_id,),) = world.execute(select(run.c.id))
    attempt = {"run_id": run_id, "attempt": 1, "term": 1, "instance_id": OTHER, "state": "running"}
    world.execute(insert(run_attempt).values(started_at=world.now() - MINUTE, **attempt))
    _no_time_passes(world, monkeypatch)
    world.pool.size = 0
    for _ in range(3):
        world.dispatcher.step()
    assert "settling_held" in world.names()
    assert world.dispatcher._states.untried
    world.pool.size = 1
    begun = 0
    for _ in range(10):  # though there is always something to settle
        world.dispatcher.due("l00", world.now() + MINUTE)
        world.dispatcher.wake()
        world.dispatcher.step()
        begun += len(world.pool.taken)
        world.finish()
    assert begun == 10


def test_when_what_was_read_is_used_up_and_others_wait_they_are_read_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.dispatcher.starting.CANDIDATES", 5)
    _no_time_passes(world, monkeypatch)
    world.pool.size = 3
    world.adopt(*(job(f"j{number}") for number in range(9)), back=HOUR)
    world.step_all()
    assert len(world.pool.taken) == 3
    world.pool.size = 20
    world.dispatcher.wake()
    world.step_all()
    assert len(world.pool.taken) == 9


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("decided_ago", [timedelta(0), HOUR], ids=["yielding", "yielding no more"])
def test_what_a_new_leader_settles_on_time_starts_when_all_is_settled(
    world: World, monkeypatch: pytest.MonkeyPatch, decided_ago: timedelta
) -> None:
    late = [job(f"l{number:02}") for number in range(15)]
    punctual = [job(f"t{number:02}", every=timedelta(seconds=1)) for number in range(40)]
    world.adopt(*late, *punctual, back=HOUR)
    just = world.now() - timedelta(seconds=1.2)
    world.execute(update(job_state).where(job_state.c.job_id.like("t%")).values(settled_until=just))
    world.pool.size = 0
    world.dispatcher.step()
    world.execute(update(run).values(decided_at=world.now() - decided_ago))
    world.pool.size = 10**6
    world.dispatcher.wake()
    now = world.clock.monotonic() + 1.0
    monkeypatch.setattr(world.clock, "monotonic", lambda: now)  # no second passes
    while world.dispatcher._is_woken():
        world.dispatcher.step()
    assert "waiting" not in {row.state for row in world.execute(select(run.c.state).where(run.c.job_id.like("t%")))}


@pytest.mark.usefixtures("small_batches")
def test_starts_keep_pace_with_what_is_settled_though_all_of_it_is_late_and_no_end_in_sight(world: World) -> None:
    ids = [f"j{number:02}" for number in range(60)]
    world.configure(*(job(one, every=timedelta(seconds=1), misfire_grace=timedelta(0)) for one in ids))
    world.elect(1)
    world.pool.size = 10**6
    world.step_all()
    for _ in range(3):
        for table in (run_attempt, run):  # no tick was decided before, however long this takes
            world.execute(delete(table))
        moment = world.now()
        world.execute(update(job_state).values(settled_until=moment - timedelta(seconds=1.5)))
        world.dispatcher._read_again(set(ids))
        world.clock.added += 0.3
        for one in ids:
            world.dispatcher.due(one, moment)
        world.dispatcher.step()
        assert world.dispatcher._agenda.ready
        assert len(world.pool.taken) >= 20
        assert "waiting" not in {row.state for row in world.execute(select(run.c.state))}
        world.finish()


def test_a_run_marked_lost_is_asked_to_stop_where_it_goes_on(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.cut.ledger.mark_lost(world.leadership.lease, ME, None, {})
    world.housekeeping.step()
    assert world.pool.stopped == [(next(iter(world.pool.taken)), "lost")]


def marked_lost(world: World) -> tuple[Attempt, JobSpec]:
    """Return an attempt that goes on here and was marked lost, and its job, which runs again."""
    spec = job(on_crash=OnCrash.RERUN)
    world.adopt(spec, back=HOUR)
    world.step_all()
    (attempt,) = world.pool.taken.values()
    world.cut.ledger.mark_lost(world.leadership.lease, ME, None, world.dispatcher.starts_limits())
    return attempt, spec


def test_a_run_that_stops_because_it_was_marked_lost_takes_back_no_rerun(world: World) -> None:
    attempt, spec = marked_lost(world)
    assert world.runs() == [("waiting", "rerun")]
    world.housekeeping.step()
    task = Task(attempt, spec, weight=1, taken_at=0.0)
    task.stopping.request(world.pool.stopped[0][1])
    stopped = Outcome(State.CANCELLED, 0.0, "stopped: lost")
    world.cut.ledger.finish([Finished(attempt, task.in_the_end(stopped))])
    assert world.runs() == [("waiting", "retry")]
    world.pool.taken.clear()
    world.clock.added += 1  # until the next poll
    world.step_all()
    assert [one.attempt for one in world.pool.taken.values()] == [2]


def test_a_run_that_stops_because_it_was_marked_lost_leaves_alone_what_another_has_begun(world: World) -> None:
    attempt, _ = marked_lost(world)
    world.pool.taken.clear()
    world.clock.added += 1  # until the next poll
    world.step_all()
    world.cut.ledger.finish([Finished(attempt, Outcome(State.CANCELLED, 0.0, "stopped: lost", retry_seconds=0.0))])
    assert world.runs() == [("running", None)]
    held = select(run_attempt.c.attempt, run_attempt.c.state).order_by(run_attempt.c.attempt)
    assert [tuple(row) for row in world.execute(held)] == [(1, "cancelled"), (2, "running")]
    assert [row.slot_held for row in world.execute(select(run.c.slot_held))] == [True]


def test_an_attempt_that_nobody_here_runs_waits_again(world: World) -> None:
    """A start that was given up here and committed late."""
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.pool.taken.clear()
    world.housekeeping.step()
    assert world.runs() == [("waiting", "queued")]
    assert world.execute(select(run_attempt)) == []
    world.step_all()
    assert world.runs() == [("running", None)]


def test_a_claim_on_its_way_is_left_alone(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.cut.cuts["start"] = "reply"
    world.dispatcher.step()
    world.housekeeping.step()
    assert world.runs() == [("running", None)]
    world.dispatcher.step()
    assert len(world.pool.taken) == 1


@pytest.mark.parametrize("begins", [True, False])
def test_what_a_start_without_an_answer_began_waits_again_once_nothing_begins_here(world: World, begins: bool) -> None:
    world.adopt(job(), back=HOUR)
    world.cut.cuts["start"] = "reply"
    world.dispatcher.step()
    assert world.dispatcher.open_claims()
    world.housekeeping.reconcile(begins=begins)
    assert world.runs() == [("running", None) if begins else ("waiting", "queued")]
    assert len(world.execute(select(run_attempt))) == begins


def test_a_run_whose_function_has_not_returned_does_not_wait_again_though_its_end_was_forgotten(world: World) -> None:
    """As by a standby that was promoted before it heard of it."""
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.pool.given_up = [*world.pool.taken.values()]
    world.pool.taken.clear()
    world.housekeeping.step()
    assert world.runs() == [("running", None)]
    (stuck,) = world.pool.given_up
    world.pool.given_up = [of_that_number_before(stuck)]
    world.housekeeping.step()
    assert world.runs() == [("waiting", "queued")]


def test_a_run_whose_number_a_forgotten_one_has_here_waits_again_and_its_cancel_stops_nothing(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    (attempt,) = world.pool.taken.values()
    world.pool.taken = {attempt.id: of_that_number_before(attempt)}  # it goes on here, and the other is not begun
    Requests(world.database, LOCK).cancel(attempt.run_id, by="ann")
    world.housekeeping.step()
    assert world.runs() == [("cancelled", None)], "it does not wait for the end of the other"
    assert world.pool.stopped == []
    assert world.execute(select(run_attempt)) == []


def of_that_number_before(attempt: Attempt) -> Attempt:
    """What a database that was promoted since forgot, with its number."""
    return replace(attempt, run_id=attempt.run_id + 1, started_at=attempt.started_at - MINUTE)


def test_a_huge_backlog_is_settled_in_parts_and_every_tick_once(world: World) -> None:
    spec = job(every=timedelta(milliseconds=20), catch_up=CatchUp.ALL, misfire_grace=HOUR)
    others = [job(f"o{number}", every=timedelta(milliseconds=50), catch_up=CatchUp.ALL) for number in range(4)]
    world.pool.size = 0
    world.adopt(spec, *others, back=timedelta(seconds=50))
    before = {row.job_id: row.settled_until for row in world.execute(select(job_state))}
    world.step_all()
    for one in [spec, *others]:
        (state,) = world.execute(select(job_state).where(job_state.c.job_id == one.id))
        rows = world.execute(select(run.c.scheduled_at, run.c.state).where(run.c.job_id == one.id))
        assert {row.state for row in rows} == {"waiting"}
        ticks = one.schedule.between(before[one.id], state.settled_until)
        assert sorted(row.scheduled_at for row in rows) == ticks
        assert len(ticks) >= 1000


def test_a_timer_that_goes_off_early_loses_no_tick(world: World) -> None:
    world.adopt(job(), back=timedelta(seconds=1))
    world.step_all()
    moment = world.now() + timedelta(milliseconds=300)
    world.dispatcher.due("a", moment)
    for _ in range(1_000_000):
        seconds = world.dispatcher.step()
        (state,) = world.execute(select(job_state))
        if state.settled_until >= moment:
            break
        assert seconds <= 0.5
    else:
        pytest.fail("the job never got to the moment it was woken for")
    assert not world.dispatcher._agenda


def test_settling_goes_on_after_rows_were_deleted_by_hand(world: World) -> None:
    world.adopt(job(), back=timedelta(seconds=1))
    world.step_all()
    world.execute(delete(job_state))
    world.dispatcher.due("a", world.now())
    for _ in range(5):
        world.clock.added += 1
        world.dispatcher.step()
    assert len(world.execute(select(job_state))) == 1


def test_nothing_is_sent_while_the_lease_is_suspect(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.leadership.lease = None
    for verb in ("recall", "survey"):
        world.cut.before[verb] = lambda: pytest.fail("a statement without a trusted lease")
    assert world.dispatcher.step() < 1
    assert world.runs() == []


@pytest.mark.parametrize(
    ("last", "never"),
    [("recall", "settle"), ("survey", "settle"), ("settle", "poll"), ("poll", "start")],
)
def test_a_lease_that_turns_suspect_between_two_statements_stops_the_next(world: World, last: str, never: str) -> None:
    world.adopt(job(), back=HOUR)
    if last == "survey":  # what is edited is not recalled, but adopted first
        world.dispatcher.configure([job(every=MINUTE)])
        world.dispatcher.step()

    def suspect() -> None:
        world.leadership.lease = None

    world.cut.before[last] = suspect
    world.cut.before[never] = lambda: pytest.fail(f"{never} was sent without a trusted lease")
    world.dispatcher.step()
    assert world.leadership.lease is None, f"{last} was never sent"
    assert world.pool.taken == {}


def test_jobs_that_overlap_run_side_by_side(world: World) -> None:
    spec = job(every=timedelta(seconds=10), catch_up=CatchUp.ALL, overlap=Overlap.ALLOW)
    world.adopt(spec, back=timedelta(seconds=59))
    world.step_all()
    assert len(world.pool.taken) >= 5


def other_signs_in(world: World, config_hash: str, *, later: int = 0) -> None:
    """Let the other replica give a sign of life that many seconds from now."""
    world.cut.ledger.sign_in(Replica(OTHER, "host", 2, "1", config_hash))
    seen_at = world.now() + timedelta(seconds=later)
    world.execute(update(replica).where(replica.c.instance_id == OTHER).values(seen_at=seen_at))


@pytest.mark.parametrize("signs", [["another"] * 2, ["hash", "another", 6, 7]], ids=["from the start", "after an edit"])
def test_drift_is_told_once_and_its_end_too(world: World, signs: list[str | int]) -> None:
    world.configure()
    for sign in signs:
        if isinstance(sign, str):
            other_signs_in(world, sign)
        else:
            other_signs_in(world, "another", later=sign)
        world.housekeeping.step()
    assert world.names() == ["config_drift"]
    other_signs_in(world, "hash", later=8)
    world.housekeeping.step()
    assert world.names() == ["config_drift", "drift_ended"]


def test_a_replica_that_was_told_and_changes_again_is_drift_still(world: World) -> None:
    world.configure()
    for config_hash, seconds in (("another", 0), ("another", 6), ("yet another", 0), ("yet another", 6), ("hash", 7)):
        other_signs_in(world, config_hash, later=seconds)
        world.housekeeping.step()
    assert world.names() == ["config_drift", "config_drift", "drift_ended"]


def test_an_edit_that_reaches_one_replica_after_the_other_is_no_drift(world: World) -> None:
    world.configure()
    for config_hash in ("hash", "another", "another", "yet another", "hash"):
        other_signs_in(world, config_hash)
        world.housekeeping.step()
    world.housekeeping.configure("edited", [])
    for config_hash in ("hash", "hash", "edited"):
        other_signs_in(world, config_hash)
        world.housekeeping.step()
    assert world.names() == []


def test_two_services_that_share_a_lock_id_are_warned(world: World) -> None:
    world.configure(job("mine"))
    for _ in range(2):
        other_signs_in(world, "another")
        world.housekeeping.step()
    assert world.names() == ["config_drift", "lock_id_shared"]
    world.adopt(job("mine"), back=HOUR)
    world.told.clear()
    other_signs_in(world, "another")
    world.housekeeping.step()
    assert world.names() == ["config_drift"]


def test_drift_is_told_once_though_the_question_about_its_jobs_gets_no_answer(world: World) -> None:
    world.configure(job("mine"))
    other_signs_in(world, "another")
    for _ in range(2):
        world.cut.cuts["job_states"] = "reply"
        world.housekeeping.step()
    world.housekeeping.step()
    told = [name for name in world.names() if not name.startswith("store_")]
    assert told == ["config_drift", "lock_id_shared"]


def leave_history(world: World, rows: dict[str, int]) -> None:
    """Let there be these jobs, with so many runs each that are too old to be kept."""
    old = world.now() - timedelta(days=31)
    jobs = [
        {"lock_id": LOCK, "job_id": job_id, "schedule": "every 1h", "timezone": "UTC", "enabled": True,
         "accountable_from": old - HOUR, "settled_until": old, "present_at": old}
        for job_id in rows
    ]  # fmt: skip
    runs = [
        {"lock_id": LOCK, "job_id": job_id, "scheduled_at": old - number * MINUTE, "due_at": old, "decided_at": old,
         "kind": "scheduled", "state": "succeeded"}
        for job_id, count in rows.items() for number in range(count)
    ]  # fmt: skip
    world.execute(insert(job_state).values(jobs))
    for begin in range(0, len(runs), 100):
        world.execute(insert(run).values(runs[begin : begin + 100]))


def prune_until(world: World, count: int) -> float:
    """Step until so many rows are left; return how long that takes."""
    began = world.clock.added
    while len(world.runs()) > count:
        assert world.clock.added - began < HOUR.total_seconds(), world.runs()
        world.clock.added += world.housekeeping.step()
    return world.clock.added - began


def visits(world: World) -> list[Sequence[str]]:
    """Collect which jobs are visited by prunings from now on."""
    seen: list[Sequence[str]] = []
    prune = world.cut.ledger.prune
    world.cut.ledger.prune = lambda lease, job_ids, *others: seen.append(job_ids) or prune(lease, job_ids, *others)
    return seen


def test_each_job_has_its_turn_to_be_pruned(world: World) -> None:
    world.elect()
    leave_history(world, {f"quiet-{number:02}": 1 for number in range(90)})
    assert prune_until(world, 0) < 5 * 23, "at most four visits of 25 jobs, 20 s apart, and a step is 3 s"


def test_a_busy_job_among_quiet_ones_is_pruned_to_the_end(world: World) -> None:
    world.elect()
    leave_history(world, {f"quiet-{number:02}": 0 for number in range(90)} | {"busy": 1000})
    assert prune_until(world, 0) < 5 * 23 + 2 * 20, "twenty visits, nearly all of them a second apart"


def test_busy_jobs_do_not_take_the_turns_of_others(world: World) -> None:
    world.elect()
    leave_history(world, {f"busy-{number:02}": 60 for number in range(40)} | {"quiet": 1})
    seen = visits(world)
    prune_until(world, 1401)  # twice as many as may go at once
    assert [len(jobs) for jobs in seen] == [25, 25]
    assert len({*seen[0], *seen[1]}) == 41, "five of the second are visited again"


def test_a_visit_that_fails_is_made_again_once_before_others_have_their_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.elect()
    leave_history(world, {f"quiet-{number:02}": 0 for number in range(90)})
    seen: list[Sequence[str]] = []

    def refuse(_: Any, job_ids: Sequence[str], *others: Any) -> None:
        seen.append(job_ids)
        raise StoreUnavailable("somebody holds a row")

    monkeypatch.setattr(world.cut.ledger, "prune", refuse)
    while len(seen) < 4 and world.clock.added < HOUR.total_seconds():
        world.clock.added += world.housekeeping.step()
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert not {*seen[1]} & {*seen[2]}


def test_another_term_visits_the_jobs_anew(world: World) -> None:
    world.elect()
    leave_history(world, {f"quiet-{number:02}": 0 for number in range(90)} | {"busy": 1000})
    prune_until(world, 900)
    world.elect(2)
    world.execute(delete(job_state).where(job_state.c.job_id != "busy"))
    world.execute(delete(run).where(run.c.id.not_in(select(run.c.id).limit(10))))
    seen = visits(world)
    prune_until(world, 0)
    assert seen == [["busy"]]


def rows_of(world: World, table: Any) -> Sequence[Any]:
    return world.execute(select(table))


def test_signing_in_writes_one_row(world: World) -> None:
    world.configure()
    world.housekeeping.step()
    world.housekeeping.step()
    assert [row.instance_id for row in rows_of(world, replica)] == [ME]


def test_a_second_leader_change_after_a_long_outage_loses_no_tick(world: World) -> None:
    """The first leader settles one job; the other is held by a dead replica's run, as after a power cut."""
    held, free = job("held", catch_up=CatchUp.ALL), job("free", catch_up=CatchUp.ALL)
    world.adopt(held, free, back=2 * HOUR)
    world.execute(update(job_state).values(present_at=world.now() - 2 * HOUR))
    old = world.now() - 3 * HOUR
    ((dead,),) = world.execute(
        insert(run)
        .values(
            lock_id=LOCK, job_id="held", scheduled_at=old, due_at=old, kind="scheduled", state="running",
            attempt=1, slot_held=True, exclusive=True, decided_at=old, decided_by="dead",
        )
        .returning(run.c.id)
    )  # fmt: skip
    world.execute(
        insert(run_attempt).values(run_id=dead, attempt=1, term=1, instance_id="dead", started_at=old, state="running")
    )
    world.step_all()
    assert not world.execute(select(run).where(run.c.job_id == "held", run.c.state != "running"))
    world.execute(update(run).where(run.c.id == dead).values(state="lost", slot_held=False))
    world.elect(3)
    world.step_all()
    (state,) = world.execute(select(job_state).where(job_state.c.job_id == "held"))
    assert state.accountable_from < world.now() - HOUR
    assert len(world.execute(select(run).where(run.c.job_id == "held", run.c.id != dead))) >= 2


def test_what_is_cancelled_with_its_job_is_told_with_it_and_why(world: World) -> None:
    world.adopt(job("a"), job("gone"), job("off"), job("off-too"), back=timedelta(0))
    for job_id in ("gone", "off", "off", "off-too"):
        world.leave_waiting(job_id, ago=(len(world.runs()) + 1) * MINUTE)
    away(world, "gone")
    world.told.clear()
    world.configure(job("a"), job("off", enabled=False), job("off-too", enabled=False))
    lease = world.elect(3)
    world.leadership.lease = replace(lease, acquired_at=lease.acquired_at - 11 * MINUTE)
    world.step_all()
    told = [event.fields for event in world.told if event.name == "runs_cancelled"]
    assert told == [
        {"jobs": "gone", "count": 1, "reason": "not in the configuration any more"},
        {"jobs": "off, off-too", "count": 3, "reason": "disabled in the configuration"},
    ]


def test_a_disabled_job_starts_nothing_that_it_owed(world: World) -> None:
    world.adopt(job(every=MINUTE, catch_up=CatchUp.ALL), back=5 * MINUTE)
    world.pool.size = 0
    world.step_all()
    world.execute(update(job_state).values(settled_until=world.now() - 70 * timedelta(seconds=1)))
    world.pool.size = 20
    world.configure(job(every=MINUTE, catch_up=CatchUp.ALL, enabled=False))
    world.elect(3)
    world.step_all()
    assert world.pool.taken == {}
    assert {state for state, _ in world.runs()} <= {"cancelled", "missed"}


def test_a_stored_schedule_that_nobody_can_read_stops_no_other_job(world: World) -> None:
    world.adopt(job("a"), job("b"), back=HOUR)
    world.execute(update(job_state).where(job_state.c.job_id == "a").values(timezone="Mars/Base", schedule="0 * * * *"))
    world.configure(job("a"), job("b"))
    world.elect(3)
    world.step_all()
    assert world.names().count("schedule_unreadable") == 1
    assert {attempt.job_id for attempt in world.pool.taken.values()} == {"a", "b"}


def test_runs_that_cannot_start_do_not_keep_others_from_it(world: World) -> None:
    many = {"every": timedelta(seconds=10), "catch_up": CatchUp.ALL}
    world.adopt(job("a", overlap=Overlap.ALLOW, **many), job("b"), back=timedelta(seconds=59))
    world.pool.size = 0
    world.step_all()
    world.execute(update(job_state).where(job_state.c.job_id == "b").values(settled_until=world.now() - HOUR))
    world.configure(job("a", **many), job("b"))
    world.elect(3)
    world.pool.size = 2
    world.step_all()
    assert {attempt.job_id for attempt in world.pool.taken.values()} == {"a", "b"}


def test_a_batch_that_is_too_much_for_one_statement_is_sent_in_smaller_ones(world: World) -> None:
    world.adopt(*(job(f"j{number}") for number in range(8)), back=HOUR)
    ledger = world.cut.ledger
    settle, sizes = ledger.settle, []

    def only_few(lease: Lease, settlements: Sequence[Any]) -> Any:
        sizes.append(len(settlements))
        if len(settlements) > 2:
            raise StoreUnavailable("canceling statement due to statement timeout")
        return settle(lease, settlements)

    ledger.settle = only_few
    for _ in range(60):
        world.dispatcher.step()
        world.clock.added += 1
    assert len(world.execute(select(run.c.job_id).distinct())) == 8
    assert sizes[0] == 8


def test_what_waits_is_read_once_for_several_starts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[tuple[Any, ...]] = []
    poll = world.cut.ledger.poll
    monkeypatch.setattr(world.cut.ledger, "poll", lambda *words: polls.append(words) or poll(*words))
    monkeypatch.setattr(world.clock, "monotonic", lambda: 1000.0)  # no second passes
    world.pool.size = 2
    world.adopt(*(job(name) for name in "abcdef"), back=HOUR)
    polls.clear()
    begun: list[str] = []
    for _ in range(3):
        world.step_all()
        begun += [attempt.job_id for attempt in world.pool.taken.values()]
        world.finish()
    assert (begun, len(polls)) == (list("abcdef"), 1)


def test_a_slow_reading_of_what_waits_is_not_repeated_before_what_it_found_is_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    polls: list[tuple[Any, ...]] = []
    poll = world.cut.ledger.poll

    def slow(*words: Any) -> Any:
        clock[0] += 2.0
        polls.append(words)
        return poll(*words)

    monkeypatch.setattr(world.cut.ledger, "poll", slow)
    monkeypatch.setattr(world.clock, "monotonic", lambda: clock[0])
    world.pool.size = 1
    world.adopt(*(job(name) for name in "abc"), back=HOUR)
    polls.clear()
    for _ in range(3):
        world.step_all()
        world.finish()
        clock[0] += 1.5
    assert len(polls) == 1
    for _ in range(3):  # and where nothing is known to wait, it is asked for as often as ever
        world.step_all()
        clock[0] += 1.5
    assert len(polls) == 4


@pytest.mark.parametrize("deed", ["paused", "cancelled", "edited away"])
def test_what_was_read_a_moment_ago_is_looked_at_again_before_it_starts(world: World, deed: str) -> None:
    world.pool.size = 1
    world.adopt(job("a"), job("b"), job("c"), back=HOUR)
    world.step_all()
    assert world.dispatcher._starter.has_candidates
    if deed == "paused":
        world.execute(update(job_state).where(job_state.c.job_id == "b").values(paused_at=world.now()))
    elif deed == "cancelled":
        world.execute(update(run).where(run.c.job_id == "b").values(cancel_requested_at=world.now()))
    else:
        world.dispatcher.configure([job("a"), job("c")])
    world.finish()
    world.step_all()
    assert [attempt.job_id for attempt in world.pool.taken.values()] == ["c"]


def test_a_rush_lasts_until_all_is_started_for_which_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.clock, "monotonic", lambda: 1000.0)  # what waits is not read again without room
    world.pool.size = 2
    world.adopt(*(job(name) for name in "abc"), back=HOUR)
    world.step_all()
    assert (len(world.pool.taken), world.rush.going_on) == (2, True)
    world.finish()
    world.step_all()
    assert (len(world.pool.taken), world.rush.going_on) == (1, False)
    world.dispatcher.due("a", world.now())
    assert world.rush.going_on


def test_a_rush_is_over_when_the_dispatcher_has_ended(world: World) -> None:
    world.adopt(job(), back=HOUR)
    assert world.rush.going_on
    world.dispatcher.stop()
    world.dispatcher.run()
    assert not world.rush.going_on


@pytest.mark.parametrize("end", ["outage", "suspicion", "retirement"])
def test_a_rush_ends_when_nothing_can_be_started(world: World, end: str) -> None:
    world.pool.size = 1
    world.adopt(job("a"), job("b"), back=HOUR)
    world.step_all()
    world.dispatcher.due("a", world.now())
    assert world.rush.going_on
    if end == "outage":
        world.cut.cuts["survey"] = "request"
    else:
        world.leadership.lease = None
    if end == "retirement":
        world.dispatcher.retire(2)
    world.dispatcher.step()
    assert not world.rush.going_on
