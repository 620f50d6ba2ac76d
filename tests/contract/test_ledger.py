"""What both ledgers promise, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, insert, select, update

from scheduler_service import schedule as schedules
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.ledger import Finished, Replica, open_ledger
from scheduler_service.model import Lease, Overlap, Reason, State
from scheduler_service.tables import job_state, leader_lease, leader_term, replica, run, run_attempt, run_output
from tests.contract.ledger_world import LOCK, ME, MINUTE, OTHER, World, outcome, specs


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_new_jobs_are_accountable_from_now(world: World) -> None:
    before = world.now()
    adopted = world.ledger.adopt(world.lease, specs("a", "b"))
    assert adopted is not None
    assert sorted(adopted.added) == ["a", "b"]
    assert all(state.settled_until == state.accountable_from >= before for state in adopted.states)


def test_a_leader_change_moves_nothing(world: World) -> None:
    state = world.adopt("a")["a"]
    world.lease = world.elect(OTHER, 2)
    adopted = world.ledger.adopt(world.lease, specs("a"))
    assert adopted is not None
    assert adopted.states == (state,)
    assert adopted.added == adopted.returned == ()


def test_a_job_enabled_again_owes_nothing_for_its_absence(world: World) -> None:
    world.adopt("a", enabled=False)
    adopted = world.ledger.adopt(world.lease, specs("a"))
    assert adopted is not None
    assert adopted.returned == ("a",)
    assert world.now() - adopted.states[0].settled_until < MINUTE


def test_a_job_absent_for_long_owes_nothing_while_others_went_on(world: World) -> None:
    world.adopt("a", "b")
    world.execute(
        update(job_state).where(job_state.c.job_id == "a").values(present_at=world.now() - timedelta(minutes=11))
    )
    adopted = world.ledger.adopt(world.lease, specs("a", "b"))
    assert adopted is not None
    assert adopted.returned == ("a",)


def noted(world: World) -> dict[str, datetime]:
    return {row.job_id: row.present_at for row in world.execute(select(job_state.c.job_id, job_state.c.present_at))}


def test_all_jobs_of_a_configuration_are_noted_with_one_moment(world: World) -> None:
    world.adopt("a", "b", "gone", enabled=False)
    world.adopt("b", "c")  # enabled again, and new
    world.adopt("a", "b", "c")  # new to nobody
    moments = noted(world)
    assert moments["gone"] < moments["a"] == moments["b"] == moments["c"]


def test_a_clock_set_back_does_not_note_jobs_before_those_that_are_gone(world: World) -> None:
    world.adopt("a", "gone")
    later = world.now() + timedelta(hours=1)
    world.execute(update(job_state).values(present_at=later))
    adopted = world.ledger.adopt(world.lease, specs("a", "b"))
    assert adopted is not None
    assert adopted.returned == ()
    moments = noted(world)
    assert moments["gone"] == later < moments["a"] == moments["b"]
    assert all(state.accountable_from <= world.now() for state in adopted.states)


def test_all_replicas_down_for_a_week_is_no_absence(world: World) -> None:
    world.adopt("a", "b", back=timedelta(days=7))
    world.execute(update(job_state).values(present_at=world.now() - timedelta(days=7)))
    adopted = world.ledger.adopt(world.lease, specs("a", "b"))
    assert adopted is not None
    assert adopted.returned == ()


def age(world: World, job_id: str, by: timedelta) -> None:
    """Let a job have been in the configuration, and settled, so long ago."""
    row = world.row(job_state, job_id=job_id)
    older = {name: getattr(row, name) - by for name in ("present_at", "settled_until")}
    world.execute(update(job_state).where(job_state.c.job_id == job_id).values(**older))


@pytest.mark.parametrize("kind", ["scheduled", "manual"])
@pytest.mark.parametrize("reason", ["queued", "retry"])
def test_waiting_runs_of_a_job_that_has_only_just_left_go_on_waiting(world: World, kind: str, reason: str) -> None:
    (waiting,) = world.waiting_runs("a")
    world.execute(update(run).values(kind=kind, reason=reason))
    world.ledger.adopt(world.lease, specs("b"))
    age(world, "a", timedelta(minutes=9))
    adopted = world.ledger.adopt(world.lease, specs("b"))
    assert adopted is not None
    assert adopted.cancelled == {}
    assert world.row(run, id=waiting.id).state == "waiting"


def test_all_replicas_down_for_a_week_do_not_cancel_what_waits_of_a_job_that_the_next_leader_lacks(
    world: World,
) -> None:
    world.adopt("a", "b")
    world.waiting_runs("a")
    for job_id in ("a", "b"):
        age(world, job_id, timedelta(days=7))
    adopted = world.ledger.adopt(world.lease, specs("b"))
    assert adopted is not None
    assert adopted.cancelled == {}


@pytest.mark.parametrize("kind", ["scheduled", "manual"])
def test_waiting_runs_of_a_job_that_is_gone_are_cancelled(world: World, kind: str) -> None:
    (waiting,) = world.waiting_runs("a")
    world.execute(update(run).values(kind=kind))
    world.ledger.adopt(world.lease, specs("b"))
    age(world, "a", timedelta(minutes=11))
    lease = replace(world.lease, acquired_at=world.lease.acquired_at - timedelta(minutes=11))
    adopted = world.ledger.adopt(lease, specs("b"))
    assert adopted is not None
    assert adopted.cancelled == {"a": 1}
    row = world.row(run, id=waiting.id)
    assert (row.state, row.cancel_requested_by) == ("cancelled", "the configuration that no longer has the job")
    assert row.cancel_requested_at >= row.decided_at


def test_waiting_runs_of_a_job_that_is_disabled_are_cancelled(world: World) -> None:
    world.waiting_runs("a", count=2)
    adopted = world.ledger.adopt(world.lease, specs("a", enabled=False))
    assert adopted is not None
    assert adopted.cancelled == {"a": 2}
    rows = world.execute(select(run.c.state, run.c.cancel_requested_by))
    assert {tuple(row) for row in rows} == {("cancelled", "the configuration that disables the job")}


def test_who_asked_for_the_end_of_a_run_before_the_configuration_is_kept(world: World) -> None:
    world.waiting_runs("a")
    asked_at = world.now() - MINUTE
    world.execute(update(run).values(cancel_requested_at=asked_at, cancel_requested_by="ann"))
    world.ledger.adopt(world.lease, specs("a", enabled=False))
    row = world.row(run, job_id="a")
    assert (row.state, row.cancel_requested_by, row.cancel_requested_at) == ("cancelled", "ann", asked_at)


def test_settling_writes_the_decisions_and_moves_settled_until(world: World) -> None:
    state = world.adopt("a")["a"]
    settlement = world.settlement(state, State.MISSED, State.WAITING)
    assert world.ledger.settle(world.lease, [settlement]) == {"a"}
    assert world.ledger.job_states(["a"]) == (settlement.applied(),)
    rows = world.execute(select(run.c.state, run.c.reason, run.c.decided_by).order_by(run.c.scheduled_at))
    assert [tuple(row) for row in rows] == [("missed", "coalesced", ME), ("waiting", "queued", ME)]


def test_a_span_is_decided_once(world: World) -> None:
    state = world.adopt("a")["a"]
    settlement = world.settlement(state, State.WAITING)
    assert world.ledger.settle(world.lease, [settlement]) == {"a"}
    assert world.ledger.settle(world.lease, [settlement]) == frozenset()
    assert world.execute(select(func.count()).select_from(run))[0][0] == 1


def test_settling_never_goes_past_the_databases_time(world: World) -> None:
    state = world.adopt("a")["a"]
    early = world.settlement(state, until=world.now() + MINUTE)
    assert world.ledger.settle(world.lease, [early]) == frozenset()


def test_what_is_settled_stays_so(world: World) -> None:
    state = world.adopt("a")["a"]
    back = world.settlement(state, State.WAITING, until=state.settled_until - MINUTE)
    assert world.ledger.settle(world.lease, [back]) == frozenset()
    assert world.ledger.job_states(["a"]) == (state,)
    assert world.execute(select(run)) == []


def test_a_pause_committed_between_computing_and_settling_is_seen(world: World) -> None:
    state = world.adopt("a")["a"]
    settlement = world.settlement(state, State.WAITING)
    world.execute(update(job_state).values(paused_at=world.now()))
    assert world.ledger.settle(world.lease, [settlement]) == frozenset()
    assert world.execute(select(func.count()).select_from(run))[0][0] == 0


def test_a_resume_committed_between_computing_and_settling_is_seen(world: World) -> None:
    world.adopt("a")
    world.execute(update(job_state).values(paused_at=world.now() - MINUTE))
    (state,) = world.ledger.job_states(["a"])
    world.execute(update(job_state).values(paused_until=world.now()))
    assert world.ledger.settle(world.lease, [world.settlement(state)]) == frozenset()


def test_settling_clears_a_pause_that_is_over(world: World) -> None:
    world.adopt("a")
    world.execute(update(job_state).values(paused_at=world.now() - MINUTE, paused_until=world.now(), paused_by="eve"))
    (state,) = world.ledger.job_states(["a"])
    settlement = world.settlement(state, resumed=True)
    assert world.ledger.settle(world.lease, [settlement]) == {"a"}
    assert world.row(job_state, job_id="a").paused_by is None
    assert world.ledger.job_states(["a"]) == (settlement.applied(),)


def test_one_changed_job_does_not_hold_up_the_batch(world: World) -> None:
    states = world.adopt("a", "b", "c")
    batch = [world.settlement(state, State.WAITING) for state in states.values()]
    world.execute(update(job_state).where(job_state.c.job_id == "b").values(paused_at=world.now()))
    assert world.ledger.settle(world.lease, batch) == {"a", "c"}


def test_an_edit_is_stored_with_the_ticks_of_the_former_schedule(world: World) -> None:
    state = world.adopt("a")["a"]
    new = schedules.cron("0 3 * * *", "Europe/Berlin")
    settlement = replace(world.settlement(state, State.MISSED), schedule=new.canonical, timezone=new.timezone)
    assert world.ledger.settle(world.lease, [settlement]) == {"a"}
    (stored,) = world.ledger.job_states(["a"])
    assert schedules.parse(stored.schedule, stored.timezone) == new


def test_a_stale_waiting_run_is_withdrawn_with_its_reason(world: World) -> None:
    (waiting,) = world.waiting_runs("a")
    (state,) = world.ledger.job_states(["a"])
    settlement = world.settlement(state, until=state.settled_until, withdrawn=((waiting.id, Reason.WINDOW),))
    assert world.ledger.settle(world.lease, [settlement]) == {"a"}
    row = world.row(run, id=waiting.id)
    assert (row.state, row.reason) == ("missed", "window")


@pytest.mark.parametrize(
    "write",
    [
        lambda world, lease: world.ledger.adopt(lease, specs("a")),
        lambda world, lease: world.ledger.settle(lease, []),
        lambda world, lease: world.ledger.start(lease, "claim", [], 0.0),
        lambda world, lease: world.ledger.mark_lost(lease, OTHER, None, {}),
        lambda world, lease: world.ledger.prune(lease, ["a"], MINUTE, 1, 10),
    ],
    ids=["adopt", "settle", "start", "mark_lost", "prune"],
)
@pytest.mark.parametrize("how", ["term", "leader", "expired", "row"])
def test_what_a_leader_writes_is_fenced_when_its_term_is_over(
    world: World, write: Callable[[World, Lease], object], how: str
) -> None:
    assert write(world, world.lease) is not None
    changes = {
        "term": update(leader_lease).values(term=2),
        "leader": update(leader_lease).values(leader_id=OTHER),
        "expired": update(leader_lease).values(
            created_at=world.now() - 2 * MINUTE, expires_at=world.now() - timedelta(seconds=1)
        ),
        "row": delete(leader_lease),
    }
    world.execute(changes[how])
    assert write(world, world.lease) is None


def test_a_deposed_leader_settles_and_starts_nothing(world: World) -> None:
    (waiting,) = world.waiting_runs("a")
    stale, world.lease = world.lease, world.elect(OTHER, 2)
    (state,) = world.ledger.job_states(["a"])
    assert world.ledger.settle(stale, [world.settlement(state, State.WAITING)]) is None
    assert world.ledger.start(stale, "claim", [(waiting, 1)], 0.0) is None
    assert world.ledger.job_states(["a"]) == (state,)
    assert world.row(run, id=waiting.id).state == "waiting"


@pytest.mark.parametrize(
    "write",
    [
        lambda world, lease: world.ledger.adopt(lease, specs("b")),
        lambda world, lease: world.ledger.mark_lost(lease, ME, None, {}),
        lambda world, lease: world.ledger.prune(lease, ["a", "b"], timedelta(0), 0, 100),
    ],
    ids=["adopt", "mark_lost", "prune"],
)
def test_a_deposed_leader_adopts_loses_and_prunes_nothing(
    world: World, write: Callable[[World, Lease], object]
) -> None:
    world.started("a")
    state = world.adopt("b")["b"]
    assert world.ledger.settle(world.lease, [world.settlement(state, State.MISSED)]) == {"b"}
    (state,) = world.ledger.job_states(["b"])
    waiting = world.settlement(state, State.WAITING, until=world.now())
    assert world.ledger.settle(world.lease, [waiting]) == {"b"}
    stale = world.lease
    world.elect(OTHER, 2)
    tables = (job_state, run, run_attempt)
    before = [world.execute(select(table).order_by(*table.primary_key)) for table in tables]
    assert write(world, stale) is None
    assert [world.execute(select(table).order_by(*table.primary_key)) for table in tables] == before
    assert write(world, Lease(LOCK, OTHER, 2, stale.acquired_at, float("inf"))) is not None
    assert [world.execute(select(table).order_by(*table.primary_key)) for table in tables] != before


def test_the_oldest_due_starts_first(world: World) -> None:
    first, *others = world.waiting_runs("a", 3, overlap=Overlap.ALLOW)
    assert [one.scheduled_at for one in (first, *others)] == sorted(one.scheduled_at for one in (first, *others))
    assert world.ledger.poll(2).runs == (first, others[0])
    # Jitter, a retry: what was decided first is not always due first.
    world.execute(update(run).where(run.c.id == first.id).values(due_at=world.now() - timedelta(seconds=1)))
    assert [one.id for one in world.ledger.poll(2).runs] == [one.id for one in others]


def test_what_is_on_time_starts_before_what_is_caught_up_on(world: World) -> None:
    late, *others = world.waiting_runs("a", 3, overlap=Overlap.ALLOW)
    world.execute(update(run).where(run.c.id == late.id).values(kind="catch_up"))
    assert [one.id for one in world.ledger.poll(3).runs] == [*(one.id for one in others), late.id]
    assert [one.id for one in world.ledger.poll(1).runs] == [others[0].id]
    # Not for ever: where workers are never at rest, it would wait for good.
    world.execute(update(run).where(run.c.id == late.id).values(decided_at=world.now() - 11 * MINUTE))
    assert [one.id for one in world.ledger.poll(3).runs] == [late.id, *(one.id for one in others)]


def test_what_waits_of_some_jobs_can_be_read(world: World) -> None:
    world.waiting_runs("a", 3, overlap=Overlap.ALLOW)
    runs = world.waiting_runs("b", 2, overlap=Overlap.ALLOW)
    of_b = tuple(one for one in runs if one.job_id == "b")
    assert len(of_b) == 2
    assert world.ledger.poll(10, (), ["b"]).runs == of_b
    assert world.ledger.poll(1, (), ["b"]).runs == of_b[:1]
    assert world.ledger.poll(10, ["b"], ["a", "b"]).runs == tuple(one for one in runs if one.job_id == "a")
    assert world.ledger.poll(10, (), []).runs == ()


def test_the_oldest_tick_of_a_job_starts_first(world: World) -> None:
    older, newer = world.waiting_runs("a", 2, overlap=Overlap.QUEUE, max_running=2)
    world.execute(update(run).where(run.c.id == older.id).values(scheduled_at=newer.scheduled_at + MINUTE))
    world.execute(update(job_state).values(max_running=1))
    assert [one.id for one in world.ledger.poll(10).runs] == [newer.id]
    begun = world.ledger.start(world.lease, "claim", [(older, 1), (newer, 1)], 0.0)
    assert begun is not None
    if world.database.dialect == "postgresql":  # which reads what is oldest; SQLite's is told by who asks
        assert [one.run_id for one in begun] == [newer.id]


def test_an_exclusive_job_offers_one_run_at_a_time(world: World) -> None:
    runs = world.waiting_runs("a", 3)
    assert len(runs) == 1
    begun = world.ledger.start(world.lease, "claim", [(runs[0], 1)], 0.0)
    assert begun is not None
    assert len(begun) == 1
    assert world.ledger.poll(10).runs == ()


def test_two_runs_of_an_exclusive_job_never_start_together(world: World) -> None:
    runs = world.waiting_runs("a", 2, overlap=Overlap.ALLOW)
    assert len(runs) == 2
    begun = world.ledger.start(world.lease, "claim", [(one, 1) for one in runs], 0.0)
    assert begun is not None
    assert [one.run_id for one in begun] == [runs[0].id]


@pytest.mark.parametrize("limit", [1, None], ids=["alone", "beside others"])
def test_a_run_that_is_started_twice_starts_once(world: World, limit: int | None) -> None:
    (waiting,) = world.waiting_runs("a")
    first = world.ledger.start(world.lease, "one", [(waiting, limit)], 0.0)
    assert first is not None
    assert len(first) == 1
    assert world.ledger.start(world.lease, "two", [(waiting, limit)], 0.0) == []


def test_what_a_start_did_whose_reply_was_lost_is_found_by_its_claim(world: World) -> None:
    (waiting,) = world.waiting_runs("a")
    begun = world.ledger.start(world.lease, "claim", [(waiting, 1)], 3.0)
    assert world.ledger.claimed("claim", [waiting], 3.0) == begun
    assert world.ledger.claimed("never sent", [waiting], 3.0) == []


def test_waiting_runs_of_a_paused_job_wait(world: World) -> None:
    (waiting,) = world.waiting_runs("a")
    world.execute(update(job_state).values(paused_at=world.now()))
    assert world.ledger.poll(10).runs == ()
    assert world.ledger.start(world.lease, "claim", [(waiting, 1)], 0.0) == []
    world.execute(update(job_state).values(paused_until=world.now()))
    assert len(world.ledger.poll(10).runs) == 1
    assert len(world.ledger.start(world.lease, "claim", [(waiting, 1)], 0.0) or ()) == 1


def test_a_run_of_a_job_whose_pause_is_yet_to_come_starts(world: World) -> None:
    (waiting,) = world.waiting_runs("a")
    world.execute(update(job_state).values(paused_at=world.now() + timedelta(hours=1)))
    assert len(world.ledger.start(world.lease, "claim", [(waiting, 1)], 0.0) or ()) == 1


def test_a_run_that_is_not_due_yet_waits(world: World) -> None:
    (waiting,) = world.waiting_runs("a")
    world.execute(update(run).values(due_at=world.now() + timedelta(hours=1)))
    assert world.ledger.poll(10).runs == ()
    assert world.ledger.start(world.lease, "claim", [(waiting, 1)], 0.0) == []


def test_a_fence_number_is_never_given_again(world: World) -> None:
    attempt = world.started()
    assert world.ledger.unstart(ME, [attempt.id]) == 1
    (waiting,) = world.ledger.poll(10).runs
    begun = world.ledger.start(world.lease, "again", [(waiting, 1)], 0.0)
    assert begun is not None
    assert begun[0].id > attempt.id
    assert begun[0].attempt == attempt.attempt == 1


def test_an_attempt_of_another_is_not_unstarted(world: World) -> None:
    attempt = world.started()
    assert world.ledger.unstart(OTHER, [attempt.id]) == 0
    assert world.ledger.still_open(attempt.id)


def test_finish_closes_the_attempt_and_the_run(world: World) -> None:
    attempt = world.started()
    told = outcome(State.FAILED, error="boom", exit_code=3, result="None", output="said\x00so", truncated=True)
    world.ledger.finish([Finished(attempt, told)])
    closed = world.row(run_attempt, id=attempt.id)
    assert (closed.state, closed.error, closed.exit_code) == ("failed", "boom", 3)
    assert closed.finished_at - closed.started_at == timedelta(seconds=1.5)
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("failed", False)
    kept = world.row(run_output, attempt_id=attempt.id)
    assert kept.text.startswith("said")
    assert kept.truncated
    assert not world.ledger.still_open(attempt.id)


def test_finish_sent_again_changes_nothing(world: World) -> None:
    attempt = world.started()
    world.ledger.finish([Finished(attempt, outcome(output="x"))])
    world.ledger.finish([Finished(attempt, outcome(State.FAILED, output="y"))])
    assert world.row(run, id=attempt.run_id).state == "succeeded"
    assert world.row(run_attempt, id=attempt.id).state == "succeeded"


def test_a_forgotten_attempt_ends_nothing_of_another_that_was_given_its_number(world: World) -> None:
    attempt = world.started()
    forgotten = replace(attempt, started_at=attempt.started_at - timedelta(seconds=1))
    world.ledger.finish([Finished(forgotten, outcome(State.FAILED, error="boom", output="words"))])
    assert world.row(run_attempt, id=attempt.id).state == "running"
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("running", True)
    assert world.execute(select(run_output)) == []


def test_a_deposed_replica_finishes_its_runs(world: World) -> None:
    attempt = world.started()
    world.elect(OTHER, 2)
    world.ledger.finish([Finished(attempt, outcome())])
    assert world.row(run, id=attempt.run_id).state == "succeeded"


def test_a_thread_that_goes_on_keeps_its_slot(world: World) -> None:
    attempt = world.started()
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, returned=False))])
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("timed_out", True)


def test_the_open_attempts_of_a_vanished_replica_are_closed_as_lost(world: World) -> None:
    attempt = world.started()
    lost = world.ledger.mark_lost(world.lease, ME, None, {})
    assert lost is not None
    assert [(one.attempt_id, one.job_id) for one in lost] == [(attempt.id, "a")]
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("lost", False)
    assert world.ledger.lost_among([attempt.id]) == {attempt.id}


def test_a_replica_that_signed_in_meanwhile_loses_nothing(world: World) -> None:
    attempt = world.started()
    me = Replica(ME, "host", 1, "1", "hash")
    seen = world.ledger.sign_in(me).now
    world.execute(update(replica).values(seen_at=seen + timedelta(seconds=1)))
    assert world.ledger.mark_lost(world.lease, ME, seen, {}) == []
    assert world.ledger.still_open(attempt.id)


def test_a_late_result_turns_lost_into_what_really_happened(world: World) -> None:
    attempt = world.started()
    world.ledger.mark_lost(world.lease, ME, None, {})
    world.ledger.finish([Finished(attempt, outcome())])
    assert world.row(run_attempt, id=attempt.id).state == "succeeded"
    assert world.row(run, id=attempt.run_id).state == "succeeded"


def test_a_late_result_changes_only_its_own_row_once_a_newer_attempt_runs(world: World) -> None:
    attempt = world.started()
    world.ledger.mark_lost(world.lease, ME, None, {})
    world.execute(update(run).values(state="waiting", reason="rerun"))
    (again,) = world.ledger.poll(10).runs
    newer = world.ledger.start(world.lease, "again", [(again, 1)], 0.0)
    assert newer is not None
    assert newer[0].attempt == 2
    world.ledger.finish([Finished(attempt, outcome())])
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("running", True)
    assert world.row(run_attempt, id=attempt.id).state == "succeeded"
    assert world.ledger.still_open(newer[0].id)


def test_a_late_time_out_does_not_take_back_a_slot_that_was_given_on(world: World) -> None:
    attempt = world.started()
    world.ledger.mark_lost(world.lease, ME, None, {})
    state = world.ledger.job_states(["a"])[0]
    assert world.ledger.settle(world.lease, [world.settlement(state, State.WAITING)]) == {"a"}
    (newer,) = world.ledger.poll(10).runs
    assert world.ledger.start(world.lease, "newer", [(newer, 1)], 0.0)
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, returned=False))])
    assert world.row(run, id=attempt.run_id).slot_held is False
    assert world.row(run, id=newer.id).slot_held is True


def test_a_vanished_replica_frees_the_slot_that_a_stuck_thread_held(world: World) -> None:
    attempt = world.started()
    world.ledger.finish([Finished(attempt, outcome(State.TIMED_OUT, returned=False))])
    assert world.ledger.mark_lost(world.lease, ME, None, {}) == []
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("timed_out", False)


def test_signing_in_tells_what_is_open_here_and_who_else_is_there(world: World) -> None:
    attempt = world.started()
    world.ledger.sign_in(Replica(OTHER, "host", 2, "1", "another"))
    signed_in = world.ledger.sign_in(Replica(ME, "host", 1, "1", "hash"))
    assert [(one.attempt_id, one.claim_id) for one in signed_in.held] == [(attempt.id, "claim")]
    assert [(one.instance_id, one.open_count, one.config_hash) for one in signed_in.peers] == [(OTHER, 0, "another")]
    seen = world.ledger.sign_in(Replica(OTHER, "host", 2, "1", "another"))
    assert [(one.instance_id, one.open_count) for one in seen.peers] == [(ME, 1)]


def test_a_sign_in_that_hangs_is_given_up_as_soon_as_an_attempt_of_the_election(store_url: str) -> None:
    statement_seconds = 20.0
    database = Database(store_url, attempt_seconds=0.3, statement_seconds=statement_seconds)
    ledger, me = open_ledger(database, LOCK), Replica(ME, "host", 1, "1", "hash")
    ledger.sign_in(me)
    with database.transaction() as connection:
        connection.execute(update(replica).values(host="held"))
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            ledger.sign_in(me)
        assert time.monotonic() - began < statement_seconds / 2
    ledger.sign_in(me)
    database.dispose()


def test_a_holder_without_a_row_is_a_peer_never_seen(world: World) -> None:
    world.started()
    (peer,) = world.ledger.sign_in(Replica(OTHER, "host", 2, "1", "hash")).peers
    assert (peer.instance_id, peer.seen_at, peer.open_count) == (ME, None, 1)


@pytest.mark.parametrize("signed_in", [True, False])
def test_signing_out_leaves_nothing_open(world: World, signed_in: bool) -> None:
    attempt = world.started()
    if signed_in:
        world.ledger.sign_in(Replica(ME, "host", 1, "1", "hash"))
    world.ledger.sign_out(ME, {})
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held) == ("lost", False)
    assert world.execute(select(replica)) == []


def test_a_survey_shows_who_runs_what_and_when_they_were_seen(world: World) -> None:
    attempt = world.started()
    world.ledger.sign_in(Replica(ME, "host", 1, "1", "hash"))
    survey = world.ledger.survey(["a"])
    ((one),) = survey.open_runs
    assert (one.run.id, one.run.state, one.run.instance_id) == (attempt.run_id, State.RUNNING, ME)
    assert one.holder_seen_at is not None
    assert one.holder_seen_at <= survey.now


def test_what_is_recalled_is_surveyed(world: World) -> None:
    attempt = world.started()
    world.ledger.sign_in(Replica(ME, "host", 1, "1", "hash"))
    world.adopt("a", "b", "c")
    world.waiting_runs("b")
    states, survey = world.ledger.recall(10)
    assert [(one.settled_until, one.job_id) for one in states] == sorted(
        ((one.settled_until, one.job_id) for one in world.ledger.job_states(["a", "b", "c"])),
        key=lambda one: (-one[0].timestamp(), one[1]),
    )
    assert survey.open_runs == world.ledger.survey(["a", "b", "c"]).open_runs
    assert {one.run.job_id for one in survey.open_runs} == {"a", "b"}
    assert attempt.run_id in {one.run.id for one in survey.open_runs}
    ((latest,), some) = world.ledger.recall(1)
    assert latest == states[0]
    assert {one.run.job_id for one in some.open_runs} <= {latest.job_id}
    assert world.ledger.recall(0)[0] == ()


def test_a_survey_of_nothing_tells_the_time(world: World) -> None:
    survey = world.ledger.survey(["nobody"])
    assert survey.open_runs == ()
    assert abs(survey.now - datetime.now(UTC)) < timedelta(hours=2)


def pruned(world: World, keep_for: timedelta, keep_runs: int, limit: int) -> int:
    """Prune all jobs; return how many rows went."""
    answer = world.ledger.prune(world.lease, world.ledger.job_ids(), keep_for, keep_runs, limit)
    assert answer is not None
    return answer.count


def test_pruning_removes_old_closed_runs_and_nothing_else(world: World) -> None:
    attempt = world.started("a")
    state = world.adopt("b")["b"]
    assert world.ledger.settle(world.lease, [world.settlement(state, *[State.MISSED] * 4, State.WAITING)])
    assert pruned(world, timedelta(days=1), 3, 100) == 2
    left = world.execute(select(run.c.job_id, run.c.state).order_by(run.c.id))
    assert [tuple(row) for row in left] == [("a", "running"), ("b", "missed"), ("b", "missed"), ("b", "waiting")]
    world.execute(update(run).values(decided_at=world.now() - timedelta(days=2)))
    assert pruned(world, timedelta(days=1), 1000, 100) == 2
    assert world.ledger.still_open(attempt.id)


def test_pruning_takes_no_more_than_it_may(world: World) -> None:
    state = world.adopt("b")["b"]
    world.ledger.settle(world.lease, [world.settlement(state, *[State.MISSED] * 9)])
    assert pruned(world, timedelta(days=1), 1, 3) == 3


def test_pruning_looks_at_the_jobs_that_are_named(world: World) -> None:
    states = world.adopt("a", "b")
    world.ledger.settle(world.lease, [world.settlement(state, *[State.MISSED] * 2) for state in states.values()])
    answer = world.ledger.prune(world.lease, ["b", "gone"], timedelta(0), 0, 100)
    assert answer is not None
    assert answer.count == 2
    assert [row.job_id for row in world.execute(select(run.c.job_id))] == ["a", "a"]


def test_pruning_tells_which_jobs_are_likely_to_have_more(world: World) -> None:
    (oldest,) = world.waiting_runs("busy")  # stays, however old it is
    states = world.adopt("busy", "quiet")
    world.ledger.settle(
        world.lease,
        [
            world.settlement(states["quiet"], *[State.MISSED] * 5),
            world.settlement(states["busy"], *[State.MISSED] * 60),
        ],
    )
    answers = [world.ledger.prune(world.lease, ["quiet", "busy"], timedelta(0), 0, 500) for _ in range(3)]
    assert [(one.count, one.busy) for one in answers if one is not None] == [(54, ("busy",)), (11, ()), (0, ())]
    assert world.row(run).id == oldest.id


def test_pruning_gives_the_first_jobs_their_turn_where_not_all_can_have_one(world: World) -> None:
    states = world.adopt("a", "b", "c")
    world.ledger.settle(world.lease, [world.settlement(state, *[State.MISSED] * 9) for state in states.values()])
    answer = world.ledger.prune(world.lease, ["c", "a", "b"], timedelta(0), 0, 12)
    assert answer is not None
    assert answer.count == 12
    left = world.execute(select(run.c.job_id, func.count()).group_by(run.c.job_id).order_by(run.c.job_id))
    assert [tuple(row) for row in left] == [("a", 6), ("b", 9)]


def test_pruning_leaves_what_is_not_settled(world: World) -> None:
    """A row above `settled_until` is the only proof that its tick was decided."""
    state = world.adopt("b")["b"]
    world.ledger.settle(world.lease, [world.settlement(state, *[State.MISSED] * 4)])
    settled = state.settled_until + timedelta(seconds=2)
    world.execute(update(job_state).values(settled_until=settled))
    assert pruned(world, timedelta(0), 0, 100) == 2
    assert [row.scheduled_at > settled for row in world.execute(select(run.c.scheduled_at))] == [True, True]


def test_runs_that_were_asked_for_of_a_disabled_job_are_pruned(world: World) -> None:
    """They are no ticks, and such a job is settled no more."""
    world.adopt("a", enabled=False)
    now = world.now()
    for state in ("succeeded", "waiting"):
        world.execute(
            insert(run).values(
                lock_id=LOCK, job_id="a", scheduled_at=now, due_at=now, kind="manual", state=state, decided_at=now
            )
        )
    assert pruned(world, timedelta(0), 0, 100) == 1
    assert [row.state for row in world.execute(select(run.c.state))] == ["waiting"]


def test_pruning_leaves_the_term_that_leads(world: World) -> None:
    """From it the next term is counted, should the lease's row be gone."""
    world.lease = world.elect(ME, 2)
    old = world.now() - timedelta(days=2)
    for term in (1, 2):
        world.execute(insert(leader_term).values(lock_id=LOCK, term=term, leader_id=ME, acquired_at=old))
    assert pruned(world, timedelta(days=1), 1000, 100) == 0
    assert [row.term for row in world.execute(select(leader_term.c.term))] == [2]


def test_elections_do_not_see_each_other(world: World) -> None:
    world.waiting_runs("a")
    other = open_ledger(world.database, LOCK + 1)
    assert other.poll(10).runs == ()
    assert other.job_states(["a"]) == ()
    assert other.survey(["a"]).open_runs == ()
