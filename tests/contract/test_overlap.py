"""Ticks that come due while the job still runs, new configurations, pauses and cancelling: on a real ledger."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from scheduler_service import schedule as schedules
from scheduler_service.database import Database
from scheduler_service.ledger import Finished
from scheduler_service.ledger.requests import Paused, Requests
from scheduler_service.model import CatchUp, Isolation, JobSpec, OnCrash, Outcome, Overlap, State
from scheduler_service.schedule import due_at
from scheduler_service.tables import job_state, run
from tests.contract.dispatcher_world import HOUR, LOCK, MINUTE, OTHER, World, a_successor, job
from tests.waiting import wait_until

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def tick(world: World, spec: JobSpec) -> datetime:
    """Let the job's newest tick come due: everything decided so far moves back by an hour, then it is settled."""
    (state,) = world.cut.ledger.job_states([spec.id])
    for row in world.execute(select(run.c.id, run.c.scheduled_at, run.c.due_at).order_by(run.c.scheduled_at)):
        back = {"scheduled_at": row.scheduled_at - HOUR, "due_at": row.due_at - HOUR}
        world.execute(update(run).where(run.c.id == row.id).values(**back))
    (newest,) = spec.schedule.latest(state.settled_until - 2 * HOUR, state.settled_until)
    world.execute(update(job_state).where(job_state.c.job_id == spec.id).values(settled_until=newest - MICROSECOND))
    world.dispatcher._read_again({spec.id})
    world.dispatcher.due(spec.id, newest)
    world.step_all()
    return newest


def jittered(world: World, every: timedelta = 24 * HOUR, ago: timedelta = timedelta(0), **changes: Any) -> JobSpec:
    """Return a job whose newest tick was a minute ago; the one that was `ago` before it is due in some hours."""
    late, newest = 20 * HOUR, world.now() - MINUTE
    schedule = schedules.every(every, (newest - datetime(1970, 1, 1, tzinfo=UTC)) % every)
    names = (f"j{number}" for number in itertools.count())
    name = next(one for one in names if due_at(one, newest - ago, late) > newest + 5 * HOUR)
    return job(name, schedule=schedule, jitter=late, **changes)


def decided(world: World) -> list[str]:
    """What became of each tick, oldest first: its state, with its reason where it has one."""
    return [state if reason is None else f"{state} {reason}" for state, reason in world.runs()]


def test_ticks_queue_up_to_the_limit_and_run_in_order(world: World) -> None:
    spec = job(overlap=Overlap.QUEUE, queue_limit=2)
    world.adopt(spec, back=HOUR)
    world.step_all()
    for _ in range(4):
        tick(world, spec)
    assert decided(world) == ["running", *["waiting queued"] * 2, *["skipped queue_limit"] * 2]
    order = []
    while world.pool.taken:
        order += [attempt.run_id for attempt in world.pool.taken.values()]
        world.finish()
        world.step_all()
    assert len(order) == 3
    assert order == sorted(order)


def test_a_queue_outlives_its_leader(world: World, database: Database) -> None:
    spec = job(overlap=Overlap.QUEUE, queue_limit=5, misfire_grace=SECOND)
    world.adopt(spec, back=HOUR)
    world.step_all()
    for _ in range(3):
        tick(world, spec)
    assert decided(world) == ["running", *["waiting queued"] * 3]
    successor = a_successor(database, spec)
    successor.step_all()
    assert decided(successor) == ["running", *["waiting queued"] * 3]


def test_what_waited_longer_than_the_window_is_not_started_by_a_new_leader(world: World, database: Database) -> None:
    spec = job(overlap=Overlap.QUEUE, catch_up_window=90 * 60 * SECOND)
    world.adopt(spec, back=HOUR)
    world.step_all()
    for _ in range(4):
        tick(world, spec)
    successor = a_successor(database, spec)
    successor.step_all()
    states = decided(successor)
    assert states[0] == "running"
    assert set(states[1:-2]) == {"missed window"}
    assert states[-1] == "waiting queued"


def test_a_tick_replaces_the_run_that_goes_on_and_starts_when_its_slot_is_free(world: World) -> None:
    spec = job(overlap=Overlap.REPLACE)
    world.adopt(spec, back=HOUR)
    woken: list[None] = []
    world.dispatcher.on_replaced = lambda: woken.append(None)
    world.step_all()
    ((first),) = world.pool.taken.values()
    newest = tick(world, spec)
    assert decided(world) == ["running", "waiting queued"]
    assert woken == [None]
    assert "run_replaced" in world.names()
    world.housekeeping.step()
    ((stopped, reason),) = world.pool.stopped
    assert stopped == first.id
    assert newest.strftime("%Y-%m-%dT%H:%M:%SZ") in reason
    world.finish(State.CANCELLED)
    world.step_all()
    assert decided(world) == ["cancelled", "running"]


def test_of_several_ticks_that_wait_to_replace_a_run_the_newest_does(world: World) -> None:
    spec = job(overlap=Overlap.REPLACE)
    world.adopt(spec, back=HOUR)
    world.step_all()
    for _ in range(3):
        tick(world, spec)
    assert decided(world) == ["running", "missed coalesced", "missed coalesced", "waiting queued"]
    assert world.names().count("run_replaced") == 1


def test_a_replaced_run_that_fails_is_not_tried_again(world: World) -> None:
    spec = job(overlap=Overlap.REPLACE)
    world.adopt(spec, back=HOUR)
    world.step_all()
    tick(world, spec)
    failed = Outcome(State.FAILED, 0.1, retry_seconds=0.0)
    world.cut.ledger.finish([Finished(attempt, failed) for attempt in world.pool.taken.values()])
    world.pool.taken.clear()
    world.dispatcher.wake()
    world.step_all()
    assert decided(world) == ["failed", "running"]


def test_ticks_caught_up_together_replace_each_other(world: World) -> None:
    world.adopt(
        job(every=10 * SECOND, overlap=Overlap.REPLACE, catch_up=CatchUp.ALL, misfire_grace=HOUR), back=45 * SECOND
    )
    world.step_all()
    states = decided(world)
    assert states[-1] == "running"
    assert set(states[:-1]) == {"missed coalesced"}


def test_a_job_with_two_slots_skips_the_third_tick(world: World) -> None:
    spec = job(max_running=2)
    world.adopt(spec, back=HOUR)
    world.step_all()
    for _ in range(2):
        tick(world, spec)
    assert decided(world) == ["running", "running", "skipped overlap"]


def test_a_job_that_may_overlap_is_held_to_its_slots_if_it_names_them(world: World) -> None:
    spec = job(overlap=Overlap.ALLOW, max_running=2)
    world.adopt(spec, back=HOUR)
    world.step_all()
    for _ in range(3):
        tick(world, spec)
    assert decided(world) == ["running", "running", "waiting queued", "waiting queued"]


def test_jobs_that_need_a_process_do_not_keep_others_from_starting(world: World) -> None:
    world.pool.size, world.pool.processes = 3, 1
    isolated = [job(f"p{number}", isolation=Isolation.PROCESS) for number in range(6)]
    world.adopt(*isolated, job("thread"), back=HOUR)
    world.step_all()
    begun = sorted(attempt.job_id for attempt in world.pool.taken.values())
    assert "thread" in begun
    assert len(begun) == 2


def test_a_changed_schedule_holds_from_the_moment_it_is_taken_up(world: World) -> None:
    old, new = job(every=HOUR), job(every=timedelta(minutes=7))
    world.adopt(old, back=MICROSECOND)
    world.step_all()
    before = world.now()
    world.dispatcher.configure([new])
    world.step_all()
    (state,) = world.cut.ledger.job_states(["a"])
    assert state.schedule == new.schedule.canonical
    assert before <= state.settled_until
    assert not [one for one in world.runs() if one[0] == "missed"], "nothing is owed under the new schedule"


def test_what_was_due_before_an_edit_is_decided_under_the_old_schedule(world: World) -> None:
    old, new = job(every=timedelta(minutes=10), catch_up=CatchUp.NONE), job(every=timedelta(minutes=7))
    world.adopt(old, back=HOUR)
    world.dispatcher.configure([new])
    world.step_all()
    ticks = [row.scheduled_at for row in world.execute(select(run.c.scheduled_at).order_by(run.c.scheduled_at))]
    assert len(ticks) == 6
    assert all(one.minute % 10 == 0 for one in ticks)


def test_jobs_are_added_and_removed_while_others_go_on(world: World) -> None:
    world.adopt(job("stays"), job("goes"), back=HOUR)
    world.step_all()
    begun = {attempt.job_id for attempt in world.pool.taken.values()}
    assert begun == {"stays", "goes"}
    world.dispatcher.configure([job("stays"), job("comes")])
    world.step_all()
    assert {state.job_id for state in world.cut.ledger.job_states(["stays", "comes"])} == {"stays", "comes"}
    assert "jobs_adopted" in world.names()
    world.finish()
    assert {state for state, _ in world.runs()} == {"succeeded"}


@pytest.mark.parametrize(
    ("gone", "becomes"),
    [([], ("waiting", "retry")), ([job("gone", enabled=False)], ("cancelled", None))],
    ids=["removed", "disabled"],
)
def test_a_retry_of_a_job_that_is_gone_starts_neither_itself_nor_in_others_way(
    world: World, gone: list[JobSpec], becomes: tuple[str, str | None]
) -> None:
    world.pool.size = 1
    world.adopt(job("gone"), back=HOUR)
    world.step_all()
    ((_, attempt),) = world.pool.taken.items()
    world.dispatcher.configure([*gone, job("b")])
    world.step_all()
    world.cut.ledger.finish([Finished(attempt, Outcome(State.FAILED, 0.0, retry_seconds=0.0))])
    world.pool.taken.clear()
    Requests(world.database, LOCK).trigger("b", by="anna")
    world.dispatcher.wake()
    world.step_all()
    assert [one.job_id for one in world.pool.taken.values()] == ["b"]
    assert becomes in world.runs()


def test_a_start_whose_reply_is_lost_is_run_though_its_job_is_gone(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.cut.cuts["start"] = "reply"
    world.dispatcher.step()
    world.dispatcher.configure([])
    world.step_all()
    assert [attempt.job_id for attempt in world.pool.taken.values()] == ["a"]


@pytest.mark.parametrize("cut", ["request", "reply"])
def test_a_configuration_whose_adoption_is_lost_is_adopted_again(world: World, cut: str) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.cut.cuts["adopt"] = cut
    world.dispatcher.configure([job(), job("b")])
    world.dispatcher.step()
    world.step_all()
    assert len(world.cut.ledger.job_states(["a", "b"])) == 2


def test_a_standby_that_was_given_a_new_configuration_leads_with_it(world: World) -> None:
    world.configure(job())
    world.dispatcher.configure([job("b")])
    world.dispatcher.step()
    world.elect(1)
    world.step_all()
    assert [state.job_id for state in world.cut.ledger.job_states(["a", "b"])] == ["b"]


def test_a_pause_is_told_and_its_end_is_settled_though_no_tick_is_near(world: World) -> None:
    world.adopt(job(), back=MICROSECOND)
    world.step_all()
    world.execute(update(job_state).values(paused_at=world.now() - SECOND, paused_by="anna", pause_reason="repairs"))
    world.clock.added += 1.0
    world.step_all()
    (paused,) = [event for event in world.told if event.name == "job_paused"]
    assert (paused.fields["by"], paused.fields["reason"]) == ("anna", "repairs")
    world.execute(update(job_state).values(paused_until=world.now()))
    world.clock.added += 1.0
    world.step_all()
    (state,) = world.cut.ledger.job_states(["a"])
    assert (state.paused_at, state.paused_until, state.paused_by) == (None, None, None)
    assert "job_resumed" in world.names()


def test_a_pause_whose_end_is_yet_to_come_does_not_keep_the_leader_busy(world: World) -> None:
    world.adopt(job(), back=MICROSECOND)
    world.step_all()
    world.execute(update(job_state).values(paused_at=world.now(), paused_until=world.now() + HOUR))
    world.clock.added += 1.0
    world.step_all()
    assert "job_paused" in world.names()


@pytest.mark.parametrize("noticed", [True, False], ids=["seen", "over before it is seen"])
@pytest.mark.parametrize(
    ("window", "kind", "starts"),
    [(5 * HOUR, "scheduled", True), (SECOND, "scheduled", False), (SECOND, "manual", True)],
    ids=["fresh", "stale", "asked for by a person"],
)
def test_what_waits_when_a_pause_begins_starts_after_it_unless_it_is_stale_then(
    world: World, window: timedelta, kind: str, starts: bool, noticed: bool
) -> None:
    world.adopt(job(catch_up_window=window, misfire_grace=SECOND), back=MICROSECOND)
    world.step_all()
    world.leave_waiting("a", 3 * HOUR, kind=kind)
    world.execute(update(job_state).values(paused_at=world.now() - SECOND))
    if noticed:
        world.clock.added += 1.0
        world.step_all()
        assert world.runs()[0][0] == "waiting"
    world.execute(update(job_state).values(paused_until=world.now()))
    world.clock.added += 1.0
    world.step_all()
    assert world.runs()[0] == (("running", None) if starts else ("missed", "window"))


def test_nor_does_it_start_stale_after_a_pause_that_ends_by_itself(world: World) -> None:
    world.adopt(job(catch_up_window=SECOND, misfire_grace=SECOND), back=MICROSECOND)
    world.step_all()
    world.leave_waiting("a", 3 * HOUR)
    until = world.now() + SECOND
    world.execute(update(job_state).values(paused_at=world.now() - SECOND, paused_until=until))
    world.clock.added += 60.0  # all is settled, too
    world.step_all()
    wait_until(lambda: world.now() > until)
    world.clock.added += 1.0
    world.step_all()
    assert world.runs()[0] == ("missed", "window")


@pytest.mark.parametrize("overlap", [Overlap.QUEUE, Overlap.ALLOW])
@pytest.mark.parametrize("ago", [SECOND, 2 * MINUTE], ids=["after a tick", "before it"])
@pytest.mark.parametrize(("window", "starts"), [(5 * HOUR, True), (SECOND, False)], ids=["fresh", "stale"])
def test_after_a_pause_nothing_waits_for_a_tick_that_jitter_makes_due_much_later(
    world: World, window: timedelta, starts: bool, ago: timedelta, overlap: Overlap
) -> None:
    spec = jittered(world, overlap=overlap, catch_up_window=window, misfire_grace=SECOND)
    world.adopt(spec, back=2 * HOUR)
    world.step_all()
    world.leave_waiting(spec.id, 3 * HOUR)
    world.execute(update(job_state).values(paused_at=world.now() - ago))
    world.clock.added += 1.0
    world.step_all()
    assert world.pool.taken == {}, "the pause goes on"
    world.execute(update(job_state).values(paused_until=world.now()))
    world.clock.added += 1.0
    world.step_all()
    assert world.runs()[0] == (("running", None) if starts else ("missed", "window"))


@pytest.mark.parametrize("ago", [SECOND, 2 * MINUTE], ids=["after a tick", "before it"])
def test_a_job_is_paused_again_though_jitter_makes_a_tick_due_much_later(world: World, ago: timedelta) -> None:
    spec = jittered(world)
    world.adopt(spec, back=2 * HOUR)
    world.step_all()
    world.execute(update(job_state).values(paused_at=world.now() - ago, paused_until=world.now()))
    world.clock.added += 1.0
    world.step_all()
    assert world.names().count("job_resumed") == 1
    requests = Requests(world.database, LOCK)
    assert isinstance(requests.pause(spec.id, by="ann"), Paused)
    requests.resume(spec.id, by="ann")
    world.clock.added += 1.0
    world.step_all()
    assert world.names().count("job_resumed") == 2
    covered = [("skipped", "paused")] if ago > MINUTE else []
    assert world.runs() == covered
    world.dispatcher.configure([spec.model_copy(update={"jitter": timedelta(0)})])  # the tick is due now
    world.clock.added += 60.0
    world.step_all()
    assert world.runs() == (covered or [("running", None)]), "the tick is decided, and once"


def test_a_pause_that_jitter_keeps_from_being_settled_covers_its_ticks_and_does_not_keep_the_leader_busy(
    world: World,
) -> None:
    spec = jittered(world, every=HOUR, ago=HOUR)  # one was due each hour before it was edited, say
    world.adopt(spec, back=90 * MINUTE)
    world.step_all()
    world.execute(update(job_state).values(paused_at=world.now() - 30 * MINUTE, paused_until=world.now()))
    for _ in range(2):
        world.clock.added += 1.0
        world.step_all()
    assert world.runs() == []
    assert "job_resumed" not in world.names()
    world.dispatcher.configure([spec.model_copy(update={"jitter": timedelta(0)})])  # both ticks are due now
    world.clock.added += 60.0
    world.step_all()
    assert len(world.runs()) == 2
    assert world.runs()[1] == ("skipped", "paused")
    (state,) = world.cut.ledger.job_states([spec.id])
    assert state.paused_at is None


def test_nor_if_its_job_could_not_be_settled_in_the_pause(world: World) -> None:
    world.adopt(job(catch_up_window=SECOND, misfire_grace=SECOND), back=MICROSECOND)
    world.step_all()
    world.leave_waiting("a", 3 * HOUR)
    until = world.now() + 2 * SECOND
    world.execute(update(job_state).values(paused_at=world.now() - HOUR, paused_until=until))
    world.clock.added += 1.0
    world.step_all()
    world.clock.added += 60.0
    for _ in range(10):  # until nothing less is left to be asked for
        world.cut.cuts["settle"] = "request"
        world.dispatcher.step()
    world.cut.cuts.clear()
    wait_until(lambda: world.now() > until)
    world.clock.added += 1.0
    world.step_all()
    assert world.pool.taken == {}
    world.clock.added += 60.0
    world.step_all()
    assert world.runs()[0] == ("missed", "window")


@pytest.mark.parametrize(
    ("left", "becomes"), [(HOUR, "running"), (2 * SECOND, "waiting")], ids=["fresh", "stale when it is over"]
)
def test_nor_if_the_clock_was_set_back_in_the_pause(world: World, left: timedelta, becomes: str) -> None:
    world.adopt(job(catch_up_window=5 * HOUR, misfire_grace=SECOND), back=MICROSECOND)
    world.step_all()
    world.leave_waiting("a", 5 * HOUR - left)
    until = world.now() + 2 * SECOND
    world.execute(update(job_state).values(paused_at=world.now() - HOUR, paused_until=until))
    world.clock.added += 1.0
    world.step_all()
    world.execute(update(job_state).values(settled_until=world.now() + HOUR))
    world.dispatcher._read_again({"a"})
    world.clock.added += 60.0
    world.step_all()
    wait_until(lambda: world.now() > until)
    world.clock.added += 1.0
    world.step_all()
    world.clock.added += 60.0
    for _ in range(2):  # it is looked at once more, and then what may start is read
        world.step_all()
    assert world.runs()[0][0] == becomes


def test_a_queue_keeps_its_order_through_a_pause(world: World) -> None:
    world.adopt(job(overlap=Overlap.QUEUE, catch_up_window=5 * HOUR, misfire_grace=SECOND), back=MICROSECOND)
    world.step_all()
    for ago in (3 * HOUR, 2 * HOUR, HOUR):
        world.leave_waiting("a", ago)
    world.execute(update(job_state).values(paused_at=world.now() - SECOND, paused_until=world.now()))
    world.clock.added += 1.0
    world.step_all()
    assert [state for state, _ in world.runs()] == ["running", "waiting", "waiting"]


def test_a_run_that_somebody_cancels_is_asked_to_stop_by_the_replica_that_runs_it(world: World) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.housekeeping.step()
    assert world.pool.stopped == []
    world.execute(update(run).values(cancel_requested_at=world.now(), cancel_requested_by="anna"))
    seconds = world.housekeeping.step()
    assert [reason for _, reason in world.pool.stopped] == ["cancelled by anna"]
    assert seconds <= 1.0, "it looks soon again while it runs something"


def test_a_lost_run_is_started_again_on_another_replica(world: World, database: Database) -> None:
    spec = job(on_crash=OnCrash.RERUN)
    world.adopt(spec, back=HOUR)
    world.step_all()
    successor = a_successor(database, spec)
    successor.step_all()
    successor.keep_house(0, 5, 5, 6)
    successor.step_all()
    ((again),) = successor.pool.taken.values()
    assert (again.attempt, again.instance_id) == (2, OTHER)
    assert [event.fields.get("rerun") for event in successor.told if event.name == "attempt_lost"] == [True]


def test_a_tick_that_comes_due_while_a_thread_is_stuck_is_skipped(world: World) -> None:
    spec = job()
    world.adopt(spec, back=HOUR)
    world.step_all()
    stuck = Outcome(State.TIMED_OUT, 0.1, returned=False)
    world.cut.ledger.finish([Finished(attempt, stuck) for attempt in world.pool.taken.values()])
    world.pool.taken.clear()
    tick(world, spec)
    assert decided(world) == ["timed_out", "skipped overlap"]


def test_who_paused_stands_with_the_skipped_ticks_and_who_resumed_is_told(world: World) -> None:
    spec = job()
    world.adopt(spec, back=MICROSECOND)
    world.execute(update(job_state).values(paused_at=world.now() - 3 * HOUR, paused_by="anna"))
    world.execute(update(job_state).values(settled_until=world.now() - 2 * HOUR))
    world.configure(spec)
    world.elect(3)
    world.step_all()
    (row,) = world.execute(select(run.c.reason, run.c.requested_by))
    assert tuple(row) == ("paused", "anna")
    world.execute(update(job_state).values(paused_until=world.now(), resumed_by="ben"))
    world.clock.added += 1.0
    world.step_all()
    (resumed,) = [event for event in world.told if event.name == "job_resumed"]
    assert resumed.fields["by"] == "ben"
