"""What becomes of a run whose attempt ended: tried again, run again, stuck; and the slots that runs hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from scheduler_service.database import Database
from scheduler_service.ledger import Finished, Replica
from scheduler_service.ledger.requests import Requests, Triggered
from scheduler_service.model import Attempt, Decision, Kind, Overlap, Reason, Run, State
from scheduler_service.tables import job_state, run, run_attempt, run_output
from tests.contract.ledger_world import LOCK, ME, OTHER, World, outcome

SECOND = timedelta(seconds=1)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def start(world: World, *runs: Run, limit: int | None = 1) -> list[Attempt]:
    begun = world.ledger.start(world.lease, f"claim-{runs[0].attempt}", [(one, limit) for one in runs], 1.0)
    assert begun is not None
    return begun


def make_due(world: World) -> None:
    world.execute(update(run).where(run.c.state == "waiting").values(due_at=world.now() - SECOND))


def held_slots(world: World) -> list[int | None]:
    return [row.slot for row in world.execute(select(run.c.slot).where(run.c.slot_held).order_by(run.c.slot))]


def test_a_run_to_be_tried_again_waits_so_long_after_its_end(world: World) -> None:
    attempt = world.started()
    world.ledger.finish([Finished(attempt, outcome(State.FAILED, error="no", retry_seconds=600.0))])
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.reason, row.slot_held) == ("waiting", "retry", False)
    assert row.due_at - world.row(run_attempt, id=attempt.id).finished_at == timedelta(seconds=600)
    assert world.ledger.poll(10).runs == ()
    make_due(world)
    (again,) = start(world, *world.ledger.poll(10).runs)
    assert (again.run_id, again.attempt, again.id > attempt.id) == (attempt.run_id, 2, True)


def test_an_end_of_nothing_is_taken_and_ends_nothing(world: World) -> None:
    """Whoever could not write one asks so whether any would be."""
    attempt = world.started()
    world.ledger.finish([])
    assert world.row(run_attempt, id=attempt.id).state == "running"


def test_a_failure_that_is_told_twice_is_tried_again_once(world: World) -> None:
    attempt = world.started()
    failed = [Finished(attempt, outcome(State.FAILED, retry_seconds=0.0))]
    world.ledger.finish(failed)
    make_due(world)
    (again,) = start(world, *world.ledger.poll(10).runs)
    world.ledger.finish(failed)
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.attempt, row.slot_held) == ("running", 2, True)
    assert world.row(run_attempt, id=again.id).state == "running"


def test_a_run_that_somebody_cancels_is_not_tried_again(world: World) -> None:
    attempt = world.started()
    world.execute(update(run).values(cancel_requested_at=world.now(), cancel_requested_by="anna"))
    world.ledger.finish([Finished(attempt, outcome(State.FAILED, retry_seconds=0.0))])
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("failed", False)


def test_a_cancelled_run_that_never_began_is_over(world: World) -> None:
    attempt = world.started()
    world.execute(update(run).values(cancel_requested_at=world.now(), cancel_requested_by="anna"))
    assert world.ledger.unstart(ME, [attempt.id]) == 1
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.reason, row.slot_held) == ("cancelled", None, False)


@pytest.mark.parametrize("reason", ["queued", "requested", "retry", "rerun"])
def test_a_run_that_never_began_waits_for_what_it_waited_for_before(world: World, reason: str) -> None:
    if reason == "requested":
        world.adopt("a")
        assert isinstance(Requests(world.database, LOCK).trigger("a", by="anna"), Triggered)
    elif reason == "queued":
        world.waiting_runs("a")
    elif reason == "retry":
        world.ledger.finish([Finished(world.started(), outcome(State.FAILED, retry_seconds=0.0))])
        make_due(world)
    else:
        world.started()
        world.ledger.mark_lost(world.lease, ME, None, {"a": 3})
    (waiting,) = world.ledger.poll(10).runs
    before = world.row(run, id=waiting.id)
    assert before.reason == reason
    (attempt,) = start(world, waiting)
    assert world.ledger.unstart(ME, [attempt.id]) == 1
    row = world.row(run, id=waiting.id)
    assert (row.state, row.reason, row.attempt, row.due_at) == ("waiting", reason, before.attempt, before.due_at)


def test_a_replica_learns_who_wants_its_runs_to_stop(world: World) -> None:
    attempt = world.started()
    me = Replica(ME, "host", 1, "1", "hash")
    assert [one.cancelled_by for one in world.ledger.sign_in(me).held] == [None]
    world.execute(update(run).values(cancel_requested_at=world.now(), cancel_requested_by="anna"))
    (held,) = world.ledger.sign_in(me).held
    assert (held.attempt_id, held.cancelled_by) == (attempt.id, "anna")


def test_a_stuck_thread_holds_its_slot_until_it_returns(world: World) -> None:
    attempt = world.started()
    timed_out = outcome(State.TIMED_OUT, returned=False, output="half")
    world.ledger.finish([Finished(attempt, timed_out)])
    assert held_slots(world) == [0]
    world.ledger.finish([Finished(attempt, timed_out)])
    assert held_slots(world) == [0]
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, output="half and the rest"))])
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("timed_out", False)
    assert world.row(run_output, attempt_id=attempt.id).text == "half and the rest"


def test_a_stuck_run_is_tried_again_only_when_its_thread_has_returned(world: World) -> None:
    attempt = world.started()
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, returned=False, retry_seconds=0.0))])
    make_due(world)
    assert world.row(run, id=attempt.run_id).state == "waiting"
    assert world.ledger.poll(10).runs == ()
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, retry_seconds=0.0))])
    (again,) = start(world, *world.ledger.poll(10).runs)
    assert again.attempt == 2
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, retry_seconds=0.0))])
    assert held_slots(world) == [0], "the slot is the second attempt's now"


def test_a_stuck_run_with_a_slot_to_spare_leaves_it_to_the_others(world: World) -> None:
    several = world.waiting_runs(count=2, overlap=Overlap.QUEUE, max_running=2)
    (attempt,) = start(world, several[0], limit=2)
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, returned=False, retry_seconds=0.0))])
    make_due(world)
    assert [one.id for one in world.ledger.poll(10).runs] == [several[1].id]
    # Started again it would give up the slot in which its thread goes on.
    assert [one.run_id for one in start(world, *several, limit=2)] == [several[1].id]
    assert held_slots(world) == [0, 1]


def test_a_stuck_run_that_waits_is_freed_with_its_lost_replica(world: World) -> None:
    attempt = world.started()
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, returned=False, retry_seconds=0.0))])
    assert world.ledger.mark_lost(world.lease, ME, None, {}) == []
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.reason, row.slot_held) == ("waiting", "retry", False)


@pytest.mark.parametrize(
    "end",
    [
        lambda world, limits: world.ledger.mark_lost(world.lease, ME, None, limits),
        lambda world, limits: world.ledger.sign_out(ME, limits),
    ],
    ids=["lost", "signed out"],
)
def test_a_run_of_a_vanished_replica_is_run_again_as_often_as_it_may(
    world: World, end: Callable[[World, dict[str, int]], object]
) -> None:
    attempt = world.started()
    end(world, {"a": 2, "b": 9})
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.reason, row.slot_held) == ("waiting", "rerun", False)
    assert world.row(run_attempt, id=attempt.id).state == "lost"
    (again,) = start(world, *world.ledger.poll(10).runs)
    assert again.attempt == 2
    end(world, {"a": 2, "b": 9})
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.reason, row.attempt) == ("lost", None, 2)


def test_the_loss_says_what_is_run_again(world: World) -> None:
    world.started()
    lost = world.ledger.mark_lost(world.lease, ME, None, {"a": 3})
    assert lost is not None
    assert [one.rerun for one in lost] == [True]


def test_a_cancelled_run_is_lost_and_not_run_again(world: World) -> None:
    attempt = world.started()
    world.execute(update(run).values(cancel_requested_at=world.now()))
    world.ledger.mark_lost(world.lease, ME, None, {"a": 3})
    assert world.row(run, id=attempt.run_id).state == "lost"


def test_a_late_result_ends_a_rerun_that_still_waits(world: World) -> None:
    attempt = world.started()
    world.ledger.mark_lost(world.lease, ME, None, {"a": 3})
    world.ledger.finish([Finished(attempt, outcome())])
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.reason, row.attempt) == ("succeeded", None, 1)
    assert world.ledger.poll(10).runs == ()


def test_as_many_runs_start_as_the_job_has_slots(world: World) -> None:
    world.waiting_runs("a", 5, max_running=3)
    runs = world.ledger.poll(10).runs
    assert len(runs) == 3
    begun = start(world, *runs, limit=3)
    assert [one.scheduled_at for one in begun] == sorted(one.scheduled_at for one in runs)
    assert held_slots(world) == [0, 1, 2]
    assert world.ledger.poll(10).runs == ()
    world.ledger.finish([Finished(begun[1], outcome())])
    (next_one,) = world.ledger.poll(10).runs
    start(world, next_one, limit=3)
    assert held_slots(world) == [0, 1, 2]


def test_a_start_takes_no_more_slots_than_the_configuration_has(world: World) -> None:
    runs = world.waiting_runs("a", 5, overlap=Overlap.ALLOW)
    assert len(start(world, *runs, limit=2)) == 2
    assert start(world, *runs, limit=2) == []
    assert held_slots(world) == [0, 1]


def test_a_job_with_fewer_slots_than_it_uses_waits_for_them(world: World) -> None:
    runs = world.waiting_runs("a", 4, overlap=Overlap.ALLOW)
    begun = start(world, *runs[:3], limit=3)
    world.ledger.finish([Finished(begun[0], outcome())])
    assert start(world, runs[3], limit=2) == []
    world.ledger.finish([Finished(begun[1], outcome())])
    assert len(start(world, runs[3], limit=2)) == 1
    assert held_slots(world) == [0, 2]


def test_runs_that_began_without_a_limit_count_once_there_is_one(world: World) -> None:
    runs = world.waiting_runs("a", 3, overlap=Overlap.ALLOW)
    assert len(start(world, *runs[:2], limit=None)) == 2
    assert held_slots(world) == [None, None]
    assert start(world, runs[2], limit=1) == []
    assert start(world, runs[2], limit=2) == []
    assert len(start(world, runs[2], limit=3)) == 1


def test_a_queue_keeps_its_order_while_its_first_run_waits_for_its_next_attempt(world: World) -> None:
    runs = world.waiting_runs("a", 3, overlap=Overlap.QUEUE)
    (first,) = start(world, runs[0])
    world.ledger.finish([Finished(first, outcome(State.FAILED, retry_seconds=600.0))])
    assert world.ledger.poll(10).runs == ()
    make_due(world)
    assert [one.id for one in world.ledger.poll(10).runs] == [first.run_id]


def test_what_a_person_asked_for_does_not_wait_for_another_runs_next_attempt(world: World) -> None:
    (first,) = start(world, *world.waiting_runs("a", 1))
    world.ledger.finish([Finished(first, outcome(State.FAILED, retry_seconds=600.0))])
    now = world.now()
    values = {"lock_id": 7, "job_id": "a", "scheduled_at": now, "due_at": now, "state": "waiting", "decided_at": now}
    world.execute(run.insert().values(kind="manual", reason="requested", arguments='{"days": 3}', **values))
    (asked,) = world.ledger.poll(10).runs
    assert asked.arguments == '{"days": 3}'
    (begun,) = start(world, asked)
    assert begun.arguments == '{"days": 3}'
    assert world.ledger.claimed("claim-0", [asked], 1.0) == [begun]


def test_what_a_person_asked_for_is_not_behind_a_queue_that_cannot_move(world: World) -> None:
    first, *_ = world.waiting_runs(count=3, overlap=Overlap.QUEUE)
    (attempt,) = start(world, first)
    world.ledger.finish([Finished(attempt, outcome(State.FAILED, retry_seconds=600.0))])
    asked = Requests(world.database, LOCK).trigger("a", by="anna")
    assert isinstance(asked, Triggered)
    assert [one.id for one in world.ledger.poll(10).runs] == [asked.run_id]


def test_a_poll_leaves_jobs_out_that_cannot_be_run_now(world: World) -> None:
    world.waiting_runs("a", 1)
    world.waiting_runs("b", 1)
    assert [one.job_id for one in world.ledger.poll(10, ["a"]).runs] == ["b"]
    assert world.ledger.poll(0).runs == ()


def test_a_poll_tells_of_pauses_that_began_or_ended(world: World) -> None:
    world.adopt("a", "b", "c")
    now = world.now()

    def pause(job_id: str, since: timedelta, until: timedelta | None) -> None:
        values = {"paused_at": now - since, "paused_until": None if until is None else now - until}
        world.execute(update(job_state).where(job_state.c.job_id == job_id).values(**values))

    pause("a", timedelta(0), None)
    pause("b", timedelta(hours=1), None)
    pause("c", timedelta(hours=1), timedelta(minutes=1))
    told = world.ledger.poll(10)
    assert (told.pauses, told.pauses_over) == (("a",), ("c",))


def test_a_newer_tick_replaces_what_waits_and_asks_what_runs_to_stop(world: World) -> None:
    runs = world.waiting_runs("a", 2, max_running=2)
    begun = start(world, *runs, limit=2)
    world.ledger.finish([Finished(begun[1], outcome(State.FAILED, retry_seconds=600.0))])
    (state,) = world.ledger.job_states(["a"])
    ids = [one.run_id for one in begun]
    settlement = world.settlement(state, State.WAITING, until=world.now(), replaced=tuple((i, "the next") for i in ids))
    assert world.ledger.settle(world.lease, [settlement]) == {"a"}
    rows = world.execute(select(run.c.state, run.c.cancel_requested_by).order_by(run.c.scheduled_at))
    assert [tuple(row) for row in rows] == [("running", "the next"), ("cancelled", "the next"), ("waiting", None)]


def test_a_pause_that_goes_on_is_one_row_for_each_leader(world: World) -> None:
    state = world.adopt("a")["a"]
    began = state.settled_until

    def settle(number: int) -> None:
        (known,) = world.ledger.job_states(["a"])
        tick = began + number * SECOND
        paused = Decision(tick, tick, Kind.RANGE, State.SKIPPED, Reason.PAUSED, tick)
        one = world.settlement(known, until=tick, decisions=(paused,))
        assert world.ledger.settle(world.lease, [one]) == {"a"}

    for number in (1, 2, 3):
        settle(number)
    world.lease = world.elect(OTHER, 2)
    for number in (4, 5):
        settle(number)
    rows = world.execute(select(run.c.scheduled_at, run.c.until).order_by(run.c.id))
    assert [((row[0] - began) // SECOND, (row[1] - began) // SECOND) for row in rows] == [(1, 3), (4, 5)]
    assert world.execute(select(func.count()).select_from(run).where(run.c.state == "skipped"))[0][0] == 2
