"""A new leader on a real ledger: what it does first, what may be stale, and what it does when it can do nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from scheduler_service import schedule as schedules
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.model import CatchUp, Overlap
from scheduler_service.tables import job_state, run
from tests.contract.dispatcher_world import HOUR, MINUTE, World, job
from tests.waiting import wait_until

BRIEF = timedelta(seconds=1)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


# --- what is as it was, and what is not


def test_what_is_as_it_was_is_settled_and_started_before_the_jobs_are_adopted(world: World) -> None:
    world.adopt(job("a"), back=HOUR)
    world.configure(job("a"), job("new"))
    world.elect(3)
    world.told.clear()
    assert world.dispatcher.step() == 0.0, "the rest waits for nothing"
    assert [attempt.job_id for attempt in world.pool.taken.values()] == ["a"]
    assert "jobs_adopted" not in world.names()
    world.dispatcher.step()
    assert {state.job_id for state in world.cut.ledger.job_states(["a", "new"])} == {"a", "new"}


def test_what_came_due_while_nobody_led_is_settled_before_what_did_not(world: World) -> None:
    world.adopt(job("due", every=BRIEF), job("quiet", every=24 * HOUR), back=2 * BRIEF)
    before = {state.job_id: state.settled_until for state in world.cut.ledger.job_states(["due", "quiet"])}
    world.dispatcher.step()
    after = {state.job_id: state.settled_until for state in world.cut.ledger.job_states(["due", "quiet"])}
    assert [attempt.job_id for attempt in world.pool.taken.values()] == ["due"]
    assert after["due"] > before["due"]
    assert after["quiet"] == before["quiet"], "it would only have made the statement longer"
    world.step_all()
    (quiet,) = world.cut.ledger.job_states(["quiet"])
    assert quiet.settled_until > before["quiet"]


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.QUEUE])
def test_what_a_former_leader_left_waiting_is_started_beside_what_came_due(world: World, overlap: Overlap) -> None:
    world.adopt(job("due", every=BRIEF), job("left", every=24 * HOUR, overlap=overlap), back=2 * BRIEF)
    world.leave_waiting("left", ago=2 * BRIEF)
    world.dispatcher.step()
    assert {attempt.job_id for attempt in world.pool.taken.values()} == {"due", "left"}


def test_where_nothing_came_due_all_is_settled_at_once(world: World) -> None:
    world.adopt(job("a", every=24 * HOUR), job("b", every=24 * HOUR), back=BRIEF)
    before = {state.settled_until for state in world.cut.ledger.job_states(["a", "b"])}
    world.dispatcher.step()
    assert min(state.settled_until for state in world.cut.ledger.job_states(["a", "b"])) > max(before)


@pytest.mark.parametrize(
    "changed",
    [
        {"schedule": schedules.every(timedelta(hours=2))},
        {"enabled": False},
        {"overlap": Overlap.ALLOW},
    ],
    ids=["schedule", "disabled", "slots"],
)
def test_what_is_not_as_it_was_waits_for_the_adoption(world: World, changed: dict[str, Any]) -> None:
    spec = job("a", catch_up_window=BRIEF, misfire_grace=BRIEF)
    world.adopt(spec, back=BRIEF)
    world.leave_waiting("a")
    world.configure(spec.model_copy(update=changed))
    world.elect(3)
    world.dispatcher.step()
    assert world.runs()[0] == ("waiting", "queued"), "it was neither started nor decided"
    world.step_all()
    assert world.runs()[0] == (("missed", "window") if "enabled" not in changed else ("cancelled", None))
    assert world.pool.taken == {}


def test_what_was_settled_last_is_settled_before_the_other_jobs_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.dispatcher.adopting.RECALLED_JOBS", 1)
    world.adopt(job("a"), job("b", every=MINUTE), job("c"), back=HOUR)
    lately = world.now() - 5 * MINUTE
    world.execute(update(job_state).where(job_state.c.job_id == "b").values(settled_until=lately))
    for each in "ac":
        world.dispatcher.due(each, world.now())
    world.told.clear()
    world.dispatcher.step()
    assert set(world.dispatcher._states) == {"b"}
    assert {attempt.job_id for attempt in world.pool.taken.values()} == {"b"}
    world.step_all()
    assert {attempt.job_id for attempt in world.pool.taken.values()} == {"a", "b", "c"}
    assert "jobs_adopted" not in world.names(), "they are none that are new"


@pytest.mark.usefixtures("small_batches")
def test_nor_do_those_that_are_read_with_the_others_wait_for_them(world: World) -> None:
    world.adopt(*(job(f"j{number:03}", overlap=Overlap.ALLOW) for number in range(120)), back=3 * HOUR)
    often = [f"j{number:03}" for number in range(70, 110)]  # two batches
    world.execute(update(job_state).where(job_state.c.job_id.in_(often)).values(settled_until=world.now() - 2 * HOUR))
    world.step_all()
    # `id` rises with each batch.
    first = {row.job_id for row in world.execute(select(run.c.job_id).order_by(run.c.id).limit(len(often) * 2))}
    assert first == set(often)


def test_a_pause_that_was_told_of_is_no_news_in_the_next_term(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler_service.dispatcher.adopting.RECALLED_JOBS", 1)
    world.adopt(job("a"), job("b"), job("c"), back=HOUR)
    world.step_all()
    world.execute(update(job_state).where(job_state.c.job_id != "a").values(paused_at=world.now(), paused_by="ann"))
    for term in (3, 4, 5):
        world.elect(term)
        world.step_all()
    told = [event.fields["job"] for event in world.told if event.name == "job_paused"]
    assert sorted(told) == ["b", "c"]


def test_a_job_that_was_away_for_long_is_not_settled_before_it_is_adopted(world: World) -> None:
    world.adopt(job("a"), job("b"), back=HOUR)
    long_ago = world.now() - timedelta(minutes=11)
    world.execute(
        update(job_state).where(job_state.c.job_id == "b").values(present_at=long_ago, settled_until=long_ago)
    )
    world.dispatcher.step()
    assert set(world.dispatcher._states) == {"a"}
    world.step_all()
    assert {attempt.job_id for attempt in world.pool.taken.values()} == {"a"}
    told = [event.fields for event in world.told if event.name == "jobs_adopted"]
    assert told[-1]["enabled"] == "b"


def test_of_many_new_jobs_no_more_are_named_than_can_be_read(world: World) -> None:
    world.adopt(*(job(f"job-{number:02}") for number in range(25)), back=HOUR)
    (told,) = (event.fields["new"] for event in world.told if event.name == "jobs_adopted")
    assert told == ", ".join(f"job-{number:02}" for number in range(20)) + " and 5 more"


# --- what may be stale


def test_a_stale_waiting_run_does_not_start_under_the_next_leader(world: World) -> None:
    spec = job(catch_up_window=BRIEF, misfire_grace=BRIEF)
    world.adopt(spec, back=BRIEF)
    world.leave_waiting("a")
    world.step_all()
    assert world.runs()[0] == ("missed", "window")
    assert world.pool.taken == {}


@pytest.mark.usefixtures("small_batches")
def test_no_stale_waiting_run_starts_before_its_job_had_its_turn(world: World) -> None:
    specs = [job(f"j{number:02}", catch_up_window=BRIEF, misfire_grace=BRIEF) for number in range(50)]
    world.adopt(*specs, back=BRIEF)
    for spec in specs:
        world.leave_waiting(spec.id)
    world.pool.size = 10**6
    world.step_all()
    assert set(world.runs()) == {("missed", "window")}
    assert world.pool.taken == {}


def test_what_was_left_waiting_and_a_trigger_behind_it_start_though_the_clock_was_set_back(world: World) -> None:
    world.adopt(job(overlap=Overlap.QUEUE), back=HOUR)
    world.execute(update(job_state).values(settled_until=world.now() + 2 * HOUR))
    world.leave_waiting("a", 10 * MINUTE)
    world.leave_waiting("a", MINUTE, kind="manual")
    for _ in range(2):
        world.step_all()
        world.finish()
    assert set(world.runs()) == {("succeeded", None)}


@pytest.mark.parametrize(("window", "starts"), [(HOUR, True), (BRIEF, False)], ids=["fresh", "stale"])
def test_what_waits_of_a_job_that_cannot_be_settled_starts_unless_it_is_stale(
    world: World, monkeypatch: pytest.MonkeyPatch, window: timedelta, starts: bool
) -> None:
    world.adopt(job(overlap=Overlap.QUEUE, catch_up_window=window, misfire_grace=BRIEF), back=BRIEF)
    world.leave_waiting("a", 10 * MINUTE)

    def refuse(*_: Any) -> None:
        raise StoreUnavailable("somebody holds a row")

    monkeypatch.setattr(world.cut.ledger, "settle", refuse)
    for _ in range(20):
        world.dispatcher.step()
    assert bool(world.pool.taken) is starts


def test_a_clock_that_is_a_little_behind_starts_nothing_stale(world: World) -> None:
    world.adopt(job(catch_up_window=BRIEF, misfire_grace=BRIEF), back=BRIEF)
    world.leave_waiting("a")
    world.execute(update(job_state).values(settled_until=world.now() + timedelta(seconds=0.3)))
    world.dispatcher.step()
    assert world.pool.taken == {}


def test_others_start_while_a_huge_backlog_is_settled_in_parts(world: World) -> None:
    often = timedelta(milliseconds=20)
    big = job("big", every=often, catch_up=CatchUp.ALL, misfire_grace=HOUR, overlap=Overlap.ALLOW)
    world.adopt(big, job("b"), back=timedelta(seconds=60))  # three parts
    world.leave_waiting("b", MINUTE, kind="manual")
    world.dispatcher.step()
    assert len(world.pool.taken) == world.pool.size


@pytest.mark.parametrize("most", [1000, 1], ids=["more than one statement takes", "after statements that failed"])
def test_ticks_that_are_settled_in_parts_do_not_refuse_each_other(
    world: World, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("scheduler_service.dispatcher.JOB_ROWS", most)
    count = most + 7
    wait_until(lambda: world.now().microsecond < 200_000)  # none comes due while the job is made known, and starts
    world.adopt(job(every=timedelta(seconds=1), catch_up=CatchUp.ALL, misfire_grace=HOUR), back=count * BRIEF)
    until = world.now()
    world.step_all()
    states = [one.state for one in world.execute(select(run).where(run.c.scheduled_at <= until))]
    assert len(states) >= count
    assert (states.count("running"), states.count("waiting")) == (1, len(states) - 1)


def test_nor_do_they_if_the_answer_to_the_first_part_is_lost_in_the_middle_of_a_term(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.adopt(job(every=timedelta(seconds=1), catch_up=CatchUp.ALL, misfire_grace=HOUR), back=2 * BRIEF)
    world.step_all()
    while world.pool.taken:
        world.finish()
        world.step_all()
    settled = world.execute(select(job_state.c.settled_until))[0][0]
    wait_until(lambda: world.now() > settled + 5 * BRIEF)
    monkeypatch.setattr("scheduler_service.dispatcher.JOB_ROWS", 2)
    world.cut.cuts["settle"] = "reply"
    until = world.now()
    world.dispatcher.due("a", until)
    world.step_all()
    states = [one.state for one in world.execute(select(run).where(run.c.scheduled_at.between(settled, until)))]
    assert (states.count("running"), states.count("waiting")) == (1, len(states) - 1)


def test_what_a_former_leader_left_waiting_is_decided_when_the_pause_is_over(world: World) -> None:
    """It was decided, and its job settled and paused, before that leader ended."""
    world.adopt(job(catch_up_window=HOUR, misfire_grace=BRIEF), back=2 * HOUR)
    world.leave_waiting("a")
    now = world.now()
    world.execute(update(job_state).values(paused_at=now - 2.5 * HOUR, paused_until=now - MINUTE))
    world.step_all()
    assert world.runs()[0] == ("missed", "window")


@pytest.mark.parametrize("later", [60.0, 1.5], ids=["all is settled", "what waits is read"])
@pytest.mark.parametrize(("window", "starts"), [(5 * HOUR, True), (BRIEF, False)], ids=["fresh", "stale"])
def test_what_a_former_leader_left_waiting_waits_for_the_end_of_a_pause_and_starts_unless_it_is_stale_then(
    world: World, window: timedelta, starts: bool, later: float
) -> None:
    world.adopt(job(catch_up_window=window, misfire_grace=BRIEF), back=BRIEF)
    world.leave_waiting("a", 3 * HOUR)
    world.execute(update(job_state).values(paused_at=world.now() - HOUR))
    world.step_all()
    assert world.runs()[0] == ("waiting", "queued"), "the pause goes on"
    world.execute(update(job_state).values(paused_until=world.now()))
    world.clock.added += later
    world.step_all()
    assert world.runs()[0] == (("running", None) if starts else ("missed", "window"))


@pytest.mark.usefixtures("small_batches")
def test_what_waits_behind_many_that_may_be_stale_starts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler_service.dispatcher.starting.CANDIDATES", 10)
    brief = {"catch_up_window": BRIEF, "misfire_grace": BRIEF, "overlap": Overlap.ALLOW}
    *ids, last = (f"j{number:02}" for number in range(60))
    world.adopt(*(job(one, **brief) for one in (*ids, last)), back=BRIEF)
    for number in range(20):
        world.leave_waiting(last, 3 * HOUR + number * MINUTE)
    world.leave_waiting(ids[0], MINUTE, kind="manual")
    before = world.now() - MINUTE
    world.execute(update(job_state).where(job_state.c.job_id == last).values(settled_until=before))
    world.dispatcher.step()  # the last job's turn is yet to come
    assert [attempt.kind for attempt in world.pool.taken.values()] == ["manual"]


# --- a term, and the words of it


def test_a_term_is_not_taken_over_before_what_is_edited_is_settled(world: World) -> None:
    told: list[tuple[int, int, list[str]]] = []
    world.adopt(job(), job("quiet", every=23 * HOUR), back=HOUR)
    world.configure(job(every=MINUTE), job("quiet", every=24 * HOUR))

    def note(term: int) -> None:
        schedule = [state.schedule for state in world.cut.ledger.job_states(["quiet"])]
        told.append((term, len(world.pool.taken), schedule))

    world.dispatcher.on_taken_over = note
    world.elect(3)
    world.step_all()
    assert told == [(3, 1, ["every 1d"])]


def test_jobs_that_a_reload_brings_before_the_adoption_are_told_of(world: World) -> None:
    world.adopt(job("a"), back=HOUR)
    world.configure(job("a"), job("new"))
    world.elect(3)
    world.told.clear()
    world.dispatcher.step()
    world.dispatcher.configure([job("a"), job("new")])
    world.step_all()
    assert [event.fields["new"] for event in world.told if event.name == "jobs_adopted"] == ["new"]


def test_a_timer_of_a_job_whose_row_is_gone_is_not_forgotten(world: World) -> None:
    world.adopt(job("a"), job("b"), back=HOUR)
    world.step_all()
    world.execute(delete(job_state).where(job_state.c.job_id == "a"))
    world.dispatcher.due("a", world.now())
    world.dispatcher.step()  # it finds that the row is gone
    moment = world.now() + timedelta(milliseconds=200)
    world.dispatcher.due("a", moment)  # a timer that goes off early
    world.dispatcher.step()
    assert not world.dispatcher.at_rest

    def settled() -> bool:
        world.dispatcher.step()
        found = world.execute(select(job_state.c.settled_until).where(job_state.c.job_id == "a"))
        return bool(found) and bool(found[0][0] >= moment)

    wait_until(settled)


def test_the_rush_is_not_over_before_the_jobs_are_adopted(world: World) -> None:
    world.adopt(job("a"), back=HOUR)
    world.configure(job("new"))
    world.elect(3)
    world.dispatcher.step()
    assert world.rush.going_on
    world.step_all()
    assert not world.rush.going_on


# --- when nothing can be done


MANY_STEPS = 1000


def steps_before_it_rests(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """Do what the dispatcher's thread does until it would wait; return how many steps it took, at most MANY_STEPS."""
    step, taken = world.dispatcher.step, 0

    def counted() -> float:
        nonlocal taken
        taken += 1
        if taken == MANY_STEPS:
            world.dispatcher.stop()
        return step()

    monkeypatch.setattr(world.dispatcher, "step", counted)

    def rest(seconds: float) -> None:
        if seconds > 0:
            world.dispatcher.stop()

    monkeypatch.setattr(world.dispatcher._changed, "wait", rest)
    world.dispatcher.run()
    return taken


def test_a_leader_that_was_deposed_rests_when_its_run_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.leadership.lease = None
    world.dispatcher.retire(2)
    world.dispatcher.wake()
    assert steps_before_it_rests(world, monkeypatch) == 1


def test_a_leader_in_doubt_rests_though_jobs_are_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.adopt(job(), back=HOUR)
    world.leadership.lease = None
    world.dispatcher.due("a", world.now())
    assert steps_before_it_rests(world, monkeypatch) == 1


@pytest.mark.parametrize("verb", ["recall", "adopt", "survey", "settle", "poll", "start"])
def test_an_outage_is_not_hammered(world: World, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    tries = []
    world.adopt(job(), back=HOUR)

    def refuse(*_: Any) -> None:
        tries.append(verb)
        raise StoreUnavailable("refused")

    monkeypatch.setattr(world.cut.ledger, verb, refuse)
    if verb == "survey":  # what is edited is not recalled, but adopted first
        world.dispatcher.configure([job(every=MINUTE)])
    assert steps_before_it_rests(world, monkeypatch) < MANY_STEPS
    # A connection that broke is replaced at once; what may have been too much for one statement is made less.
    assert len(tries) == (5 if verb == "settle" else 2)


def test_nor_is_it_when_timers_go_off_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    world.adopt(job(), back=HOUR)

    def refuse(*_: Any) -> None:
        tries.append(1)
        if len(tries) == MANY_STEPS:
            world.dispatcher.stop()
        raise StoreUnavailable("refused")

    def rest(_: float) -> None:
        for _ in range(100):
            world.dispatcher.due("a", now)
        if not world.dispatcher._is_woken():
            world.dispatcher.stop()

    now = world.now()
    monkeypatch.setattr(world.cut.ledger, "recall", refuse)
    monkeypatch.setattr(world.dispatcher._changed, "wait", rest)
    world.dispatcher.run()
    assert len(tries) == 2


def test_nor_is_it_when_a_configuration_comes_while_a_start_is_not_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.adopt(job(), back=HOUR)
    world.cut.cuts["start"] = "reply"
    world.dispatcher.step()

    def refuse(*_: Any) -> None:
        raise StoreUnavailable("refused")

    monkeypatch.setattr(world.cut.ledger, "claimed", refuse)
    world.dispatcher.configure([job()])
    assert steps_before_it_rests(world, monkeypatch) <= 2


@pytest.mark.parametrize("number", [0, 60, 100])
def test_others_do_not_wait_for_one_that_cannot_be_settled(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    ids = [f"j{one:03}" for one in range(101)]
    world.adopt(*(job(one) for one in ids), back=HOUR)
    settle, settled = world.cut.ledger.settle, set[str]()

    def one_bad(lease: Any, settlements: Any) -> Any:
        if any(one.state.job_id == ids[number] for one in settlements):
            raise StoreUnavailable("a value that the database cannot take")
        answer = settle(lease, settlements)
        settled.update(answer)
        return answer

    monkeypatch.setattr(world.cut.ledger, "settle", one_bad)
    assert steps_before_it_rests(world, monkeypatch) < MANY_STEPS
    assert settled == {*ids} - {ids[number]}


def second_outage_of_a_former_leader(world: World) -> None:
    """A replica that led, whose database has not answered twice, and that is about to rehearse."""
    world.adopt(job(), back=HOUR)
    world.step_all()
    for _ in range(2):
        world.cut.cuts["poll"] = "request"
        world.clock.added += 1
        world.dispatcher.step()
    world.leadership.lease = None
    world.dispatcher.retire(2)
    world.clock.added += 301


@pytest.mark.parametrize("cut", [None, "request"], ids=["answered", "unanswered"])
def test_an_election_during_a_rehearsal_is_acted_upon_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, cut: str | None
) -> None:
    second_outage_of_a_former_leader(world)
    if cut is not None:
        world.cut.cuts["rehearse"] = cut
    world.cut.before["rehearse"] = lambda: world.elect(3) and None
    world.dispatcher.step()
    assert world.rush.going_on, "all jobs are due"
    assert world.dispatcher._is_woken()
    world.dispatcher.step()
    assert world.dispatcher._term == 3


def test_an_election_just_after_the_lease_was_looked_at_is_acted_upon_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.leadership.lease = None
    world.dispatcher.retire(2)
    current = world.leadership.current

    def elected_meanwhile() -> Any:
        monkeypatch.setattr(world.leadership, "current", current)
        found = current()
        world.elect(3)
        return found

    monkeypatch.setattr(world.leadership, "current", elected_meanwhile)
    world.dispatcher.step()
    assert world.dispatcher._is_woken()


@pytest.mark.parametrize("verb", ["poll", "settle"])
def test_what_was_to_be_started_before_a_doubt_is_started_after_it(world: World, verb: str) -> None:
    world.adopt(job(), back=HOUR)
    world.step_all()
    world.finish()
    world.step_all()
    world.leave_waiting("a", MINUTE, kind="manual")
    world.dispatcher._poll_at = world.clock.monotonic() + 0.98
    world.dispatcher.due("a", world.now())
    lease = world.leadership.lease

    def doubt() -> None:
        world.leadership.lease = None

    world.cut.before[verb] = doubt
    world.dispatcher.step()
    assert not world.pool.taken
    world.dispatcher.step()
    world.leadership.lease = lease
    world.dispatcher.step()
    assert world.pool.taken
