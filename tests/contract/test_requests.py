"""What people may ask of the ledger, and what becomes of it in a race: on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from scheduler_service.leases import Resignation, open_store
from scheduler_service.ledger import Finished
from scheduler_service.ledger.requests import (
    CancelledRun,
    Ended,
    KeyTaken,
    NoSuchJob,
    NoSuchRun,
    NotConfigured,
    NotInFuture,
    NotPaused,
    NotSettled,
    Paused,
    Requests,
    Resumed,
    StopRequested,
    Triggered,
)
from scheduler_service.model import Overlap, State
from scheduler_service.tables import job_state, leader_lease, run
from tests.contract.ledger_world import LOCK, ME, MINUTE, World, outcome

THREADS = 8


class Asking(World):
    """A ledger with a leader, and people who ask."""

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self.requests = Requests(database, LOCK)

    def triggered(self, job_id: str = "a", **asked: Any) -> Triggered:
        answer = self.requests.trigger(job_id, by="ann@desk", **asked)
        assert isinstance(answer, Triggered), answer
        return answer

    def job(self, job_id: str = "a") -> Any:
        return self.row(job_state, job_id=job_id)

    def at_once(self, ask: Callable[[int], Any]) -> list[Any]:
        """Let many ask at the same moment; return their answers."""
        begin = threading.Barrier(THREADS)
        answers: list[Any] = [None] * THREADS

        def one(number: int) -> None:
            begin.wait(20)
            answers[number] = ask(number)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return answers


@pytest.fixture
def world(database: Any) -> Asking:
    return Asking(database)


# trigger


def test_a_triggered_run_waits_from_now_on_and_says_who_asked(world: Asking) -> None:
    world.adopt("a")
    before = world.now()
    answer = world.triggered(arguments='{"days": 3}', key="k-1")
    assert (answer.new, answer.paused) == (True, False)
    row = world.row(run, id=answer.run_id)
    assert (row.kind, row.state, row.reason, row.attempt) == ("manual", "waiting", "requested", 0)
    assert (row.requested_by, row.request_key, row.arguments) == ("ann@desk", "k-1", '{"days": 3}')
    assert row.scheduled_at == row.due_at == row.decided_at
    assert before <= row.scheduled_at <= world.now()
    assert (row.exclusive, row.slot, row.decided_by, row.slot_held) == (False, None, None, False)
    (waiting,) = world.ledger.poll(10).runs
    assert (waiting.id, waiting.arguments) == (answer.run_id, '{"days": 3}')


def test_two_requests_without_a_key_are_two_runs(world: Asking) -> None:
    world.adopt("a")
    assert world.triggered().run_id != world.triggered().run_id


def test_the_same_key_is_one_run_however_many_ask_at_once(world: Asking) -> None:
    world.adopt("a")
    answers = world.at_once(lambda _: world.triggered(key="nightly-2026-11-26"))
    assert len({answer.run_id for answer in answers}) == 1
    assert [answer.new for answer in answers].count(True) == 1
    assert world.execute(select(func.count()).select_from(run))[0][0] == 1


def test_the_same_key_for_another_job_is_refused_and_names_its_run(world: Asking) -> None:
    world.adopt("a", "b")
    first = world.triggered("a", key="k")
    assert world.requests.trigger("b", by="bob", key="k") == KeyTaken("k", first.run_id, "a")
    assert world.execute(select(func.count()).select_from(run))[0][0] == 1


def test_a_key_of_another_election_is_another_key(world: Asking) -> None:
    world.adopt("a")
    first = world.triggered(key="k")
    world.execute(update(run).values(lock_id=LOCK + 1))
    assert world.triggered(key="k").run_id != first.run_id


def test_a_job_that_no_leader_had_is_answered_with_those_that_one_had(world: Asking) -> None:
    world.adopt("a", "b")
    unknown = NoSuchJob("c", ("a", "b"))
    assert world.requests.trigger("c", by="ann") == unknown
    assert world.requests.pause("c", by="ann") == unknown
    assert world.requests.resume("c", by="ben") == unknown


def test_a_job_that_left_the_configuration_is_neither_triggered_nor_paused(world: Asking) -> None:
    world.adopt("a", "b")
    left_at = world.job("a").present_at
    world.adopt("b")  # a moment later
    assert world.requests.trigger("a", by="ann") == NotConfigured("a", left_at)
    assert world.requests.pause("a", by="ann") == NotConfigured("a", left_at)
    assert world.triggered("b").new


def test_a_disabled_job_may_be_triggered_and_a_new_leader_keeps_the_run(world: Asking) -> None:
    world.adopt("a", enabled=False)
    answer = world.triggered()
    world.adopt("a", enabled=False)
    assert world.row(run, id=answer.run_id).state == "waiting"


def test_a_run_of_a_paused_job_waits_until_it_is_resumed(world: Asking) -> None:
    world.adopt("a", overlap=Overlap.ALLOW)
    world.requests.pause("a", by="ann")
    assert world.triggered().paused
    assert world.ledger.poll(10).runs == ()
    world.requests.resume("a", by="ben")
    assert not world.triggered().paused
    assert len(world.ledger.poll(10).runs) == 2


# pause and resume


def test_a_pause_begins_now_and_says_who_until_when_and_why(world: Asking) -> None:
    settled_until = world.adopt("a")["a"].settled_until
    before, until = world.now(), world.now() + MINUTE
    answer = world.requests.pause("a", by="ann", until=until, reason="stocktaking")
    row = world.job()
    assert answer == Paused("a", row.paused_at, until, "ann", "stocktaking")
    assert (row.paused_until, row.paused_by, row.pause_reason) == (until, "ann", "stocktaking")
    assert before <= row.paused_at <= world.now()
    assert row.settled_until == settled_until


def test_a_pause_of_a_paused_job_keeps_its_beginning(world: Asking) -> None:
    world.adopt("a")
    first = world.requests.pause("a", by="ann", until=world.now() + MINUTE)
    second = world.requests.pause("a", by="bob", reason="longer")
    assert isinstance(first, Paused)
    assert second == Paused("a", first.at, None, "bob", "longer")


def test_a_pause_cannot_end_in_the_past(world: Asking) -> None:
    world.adopt("a")
    answer = world.requests.pause("a", by="ann", until=world.now() - MINUTE)
    assert isinstance(answer, NotInFuture)
    assert world.job().paused_at is None


def test_a_pause_that_is_over_is_not_begun_anew_before_it_is_settled(world: Asking) -> None:
    world.adopt("a")
    world.requests.pause("a", by="ann", reason="first")
    resumed = world.requests.resume("a", by="ben")
    assert isinstance(resumed, Resumed)
    assert world.requests.pause("a", by="bob", reason="second") == NotSettled("a", resumed.at)
    assert (world.job().paused_by, world.job().pause_reason) == ("ann", "first")
    (state,) = world.ledger.job_states(["a"])
    settlement = world.settlement(state, until=world.now(), resumed=True)
    assert world.ledger.settle(world.lease, [settlement]) == {"a"}
    again = world.requests.pause("a", by="bob", reason="second")
    assert isinstance(again, Paused)
    assert again.at > resumed.at


def test_a_disabled_job_is_paused_again_though_nobody_settled_its_last_pause(world: Asking) -> None:
    world.adopt("a", enabled=False)
    first = world.requests.pause("a", by="ann")
    world.requests.resume("a", by="ben")
    again = world.requests.pause("a", by="bob")
    assert isinstance(first, Paused)
    assert isinstance(again, Paused)
    assert again.at > first.at
    assert world.row(job_state, job_id="a").paused_until is None


def test_resuming_ends_the_pause_and_leaves_the_rest_to_the_leader(world: Asking) -> None:
    settled_until = world.adopt("a")["a"].settled_until
    paused = world.requests.pause("a", by="ann", until=world.now() + MINUTE)
    answer = world.requests.resume("a", by="ben")
    assert isinstance(paused, Paused)
    assert isinstance(answer, Resumed)
    assert paused.at == answer.since <= answer.at <= world.now()
    assert (answer.by, answer.reason) == ("ann", None)
    row = world.job()
    assert (row.paused_at, row.paused_until, row.settled_until) == (paused.at, answer.at, settled_until)


def test_resuming_twice_does_not_move_the_end(world: Asking) -> None:
    world.adopt("a")
    assert world.requests.resume("a", by="ben") == NotPaused("a")
    world.requests.pause("a", by="ann")
    first = world.requests.resume("a", by="ben")
    assert isinstance(first, Resumed)
    assert world.requests.resume("a", by="ben") == NotPaused("a")
    assert world.job().paused_until == first.at


def test_a_pause_and_a_settlement_at_once_leave_no_tick_undecided(world: Asking) -> None:
    """Whoever comes first: the span that is settled ends before the pause, or was not settled."""
    jobs = [f"job-{number}" for number in range(THREADS)]
    states = world.adopt(*jobs)

    def ask(number: int) -> Any:
        if number % 2:
            return world.requests.pause(jobs[number - 1], by="ann")
        settlement = world.settlement(states[jobs[number]], State.WAITING, until=world.now())
        return world.ledger.settle(world.lease, [settlement])

    answers = world.at_once(ask)
    for number in range(0, THREADS, 2):
        row = world.job(jobs[number])
        assert isinstance(answers[number + 1], Paused)
        assert row.paused_at is not None
        settled = answers[number] == {jobs[number]}
        assert settled == (row.settled_until > states[jobs[number]].settled_until)
        decided = world.execute(select(func.count()).select_from(run).where(run.c.job_id == jobs[number]))[0][0]
        assert decided == int(settled)
        if not settled:  # the leader reads the pause, and decides the same span under it
            (state,) = world.ledger.job_states([jobs[number]])
            assert world.ledger.settle(world.lease, [world.settlement(state, State.SKIPPED, until=world.now())])


# cancel


def test_a_waiting_run_is_cancelled_at_once(world: Asking) -> None:
    (waiting,) = world.waiting_runs("a")
    answer = world.requests.cancel(waiting.id, by="ann")
    row = world.row(run, id=waiting.id)
    assert (row.state, row.reason, row.cancel_requested_by) == ("cancelled", None, "ann")
    assert row.cancel_requested_at is not None
    assert answer == CancelledRun(waiting.id, "a", row.cancel_requested_at, "ann")
    again = world.requests.cancel(waiting.id, by="bob")
    assert again == Ended(waiting.id, "a", State.CANCELLED, row.cancel_requested_at, "ann")
    assert world.ledger.start(world.lease, "claim", [(waiting, 1)], 0.0) == []


def test_a_running_run_is_asked_to_stop_and_the_first_who_asked_is_kept(world: Asking) -> None:
    attempt = world.started()
    first = world.requests.cancel(attempt.run_id, by="ann")
    assert isinstance(first, StopRequested)
    assert first.by == "ann"
    assert world.requests.cancel(attempt.run_id, by="bob") == first
    row = world.row(run, id=attempt.run_id)
    assert (row.state, row.slot_held, row.cancel_requested_by) == ("running", True, "ann")


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_run_that_has_ended_is_left_as_it_is(world: Asking, state: State) -> None:
    attempt = world.started()
    world.ledger.finish([Finished(attempt, outcome(state))])
    assert world.requests.cancel(attempt.run_id, by="ann") == Ended(attempt.run_id, "a", state, None, None)
    assert world.row(run, id=attempt.run_id).cancel_requested_at is None


def test_a_run_of_another_election_is_not_found(world: Asking) -> None:
    (waiting,) = world.waiting_runs("a")
    elsewhere = Requests(world.database, LOCK + 1)
    assert elsewhere.cancel(waiting.id, by="ann") == NoSuchRun(waiting.id)
    assert world.requests.cancel(waiting.id + 1, by="ann") == NoSuchRun(waiting.id + 1)
    assert world.row(run, id=waiting.id).state == "waiting"


def test_a_cancel_and_a_start_at_once_agree_on_who_came_first(world: Asking) -> None:
    world.adopt("a", overlap=Overlap.ALLOW)
    asked = [world.triggered().run_id for _ in range(THREADS // 2)]
    runs = {one.id: one for one in world.ledger.poll(THREADS).runs}

    def ask(number: int) -> Any:
        run_id = asked[number // 2]
        if number % 2:
            return world.requests.cancel(run_id, by="ann")
        return world.ledger.start(world.lease, f"claim-{number}", [(runs[run_id], None)], 0.0)

    answers = world.at_once(ask)
    for number in range(0, THREADS, 2):
        run_id, begun, cancelled = asked[number // 2], answers[number], answers[number + 1]
        row = world.row(run, id=run_id)
        if begun:
            assert isinstance(cancelled, StopRequested)
            assert (row.state, row.attempt) == ("running", 1)
        else:
            assert isinstance(cancelled, CancelledRun)
            assert (row.state, row.attempt) == ("cancelled", 0)
        assert row.cancel_requested_by == "ann"


# resign


def test_a_leader_is_asked_to_resign_by_name(world: Asking) -> None:
    assert world.requests.resign(by="ann") == Resignation(ME, 1)
    assert world.requests.resign(by="bob") == Resignation(ME, 1)
    row = world.row(leader_lease, id=LOCK)
    assert (row.resign_term, row.resign_by) == (1, "ann")


def test_where_nobody_leads_nobody_is_asked(world: Asking) -> None:
    ended = world.now() - timedelta(seconds=1)
    world.execute(update(leader_lease).values(created_at=ended - MINUTE, expires_at=ended))
    assert world.requests.resign(by="ann") is None
    assert Requests(world.database, LOCK + 1).resign(by="ann") is None
    assert world.row(leader_lease, id=LOCK).resign_term is None


def test_the_leader_learns_who_asked_and_the_next_term_is_not_meant(world: Asking) -> None:
    store = open_store(world.database, lock_id=LOCK, lease_seconds=60.0, attempt_seconds=5.0, guarded=False)
    try:
        world.requests.resign(by="ann")
        renewal = store.renew(1, ME)
        assert renewal is not None
        assert (renewal.resign_requested, renewal.resign_by) == (True, "ann")
        assert store.release(1, ME, "resigned")
        acquired = store.acquire(ME)
        assert acquired is not None
        renewal = store.renew(acquired.term, ME)
        assert renewal is not None
        assert (renewal.resign_requested, renewal.resign_by) == (False, None)
        assert world.requests.resign(by="bob") == Resignation(ME, acquired.term)
        assert world.row(leader_lease, id=LOCK).resign_by == "bob"
    finally:
        store.close()
