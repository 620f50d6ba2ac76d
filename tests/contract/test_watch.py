"""The watch on a real ledger: what a leader owes, and how the jobs fare."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from scheduler_service import schedule as schedules
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.events import Event
from scheduler_service.ledger.sampling import MOST_ATTEMPTS, Sampler
from scheduler_service.model import JobSpec, Lease, Overlap
from scheduler_service.tables import job_state, replica, run, run_attempt
from scheduler_service.watch import BATCH_JOBS, LEAST_GRANTED, SAMPLE_SECONDS, Fortune, Seen, Watch
from tests.contract.dispatcher_world import HOUR, LOCK, MINUTE, OTHER, World, job

GRACE = timedelta(seconds=10)
OVER = 2 * GRACE.total_seconds() + 1.0
LOST_AFTER = 15.0


class Leadership:
    """Says what the test says."""

    instance_id = "me-1"

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.other: tuple[str, int] | None = (OTHER, 2)

    def current(self) -> Lease | None:
        return self.lease

    def observed(self) -> tuple[str, int] | None:
        return self.other


class Samples:
    """The real sampler, and what it was asked."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.asked: list[tuple[str, ...]] = []
        self.read: list[str] = []
        self.away = False
        self.before: Callable[[], None] | None = None

    def attempts(self) -> tuple[int, frozenset[int]]:
        return self.sampler.attempts()

    def records(self, job_ids: Any) -> Any:
        self.read += job_ids
        return self.sampler.records(job_ids)

    def sample(self, job_ids: Any, *rest: Any) -> Any:
        self.asked.append(tuple(job_ids))
        if self.away:
            raise StoreUnavailable("the database is away")
        return self.sampler.sample(job_ids, *rest)


class Watched(World):
    """A world with another replica's watch on it."""

    outages = 0  # that are meant

    def begin(self, *specs: JobSpec) -> None:
        self.samples = Samples(Sampler(self.database, LOCK, 5.0))
        self.leading = Leadership()
        self.watch = Watch(
            samples=self.samples,
            survey=self.cut.ledger.survey,
            leadership=self.leading,
            events=self.events,
            clock=self.clock,
            specs=specs,
            lost_after_seconds=LOST_AFTER,
            sign_in_seconds=3.0,
        )

    def look(self, after_seconds: float = 0.0) -> Seen:
        self.clock.added += after_seconds
        self.watch.step()
        assert self.samples.away or not self.heard("store_unavailable")[self.outages :]
        assert self.watch.seen is not None
        return self.watch.seen

    def heard(self, *names: str) -> list[Event]:
        return [event for event in self.told if event.name in (names or ("leader_idle", "leader_active"))]

    def fortune(self, job_id: str = "a") -> Fortune:
        return self.look().fortunes[job_id]

    def ran(self, state: str, *, attempt_state: str | None = None, holder: str = OTHER) -> int:
        """A run of now, with one attempt that is in the same state."""
        now = self.now()
        ((run_id,),) = self.execute(
            insert(run)
            .values(
                lock_id=LOCK, job_id="a", scheduled_at=now, due_at=now, kind="scheduled", state=state, attempt=1,
                decided_at=now, decided_by=OTHER,
            )
            .returning(run.c.id)
        )  # fmt: skip
        self.attempt(run_id, 1, attempt_state or state, holder)
        return run_id

    def attempt(self, run_id: int, number: int, state: str, instance_id: str = OTHER) -> None:
        now = self.now()
        ended = {} if state == "running" else {"finished_at": now}
        row = {"run_id": run_id, "attempt": number, "term": 2, "instance_id": instance_id, "started_at": now}
        self.execute(insert(run_attempt).values(**row, state=state, **ended))
        self.execute(update(run).where(run.c.id == run_id).values(attempt=number))

    def end(self, run_id: int, number: int, attempt_state: str, run_state: str | None = None) -> None:
        where = (run_attempt.c.run_id == run_id) & (run_attempt.c.attempt == number)
        self.execute(update(run_attempt).where(where).values(state=attempt_state, finished_at=self.now()))
        self.execute(update(run).where(run.c.id == run_id).values(state=run_state or attempt_state))


@pytest.fixture
def world(database: Database) -> Watched:
    return Watched(database)


def owing(world: Watched, **changes: Any) -> JobSpec:
    """A job that the leader was to settle four minutes ago."""
    spec = job(every=MINUTE, misfire_grace=GRACE, **changes)
    world.adopt(spec, back=5 * MINUTE)
    world.begin(spec)
    return spec


# --- the leader


def test_a_leader_that_settles_nothing_is_told_of_after_twice_the_grace_and_when_it_goes_on(world: Watched) -> None:
    owing(world)
    seen = world.look()
    assert seen.oldest is not None
    assert seen.oldest.job_id == "a"
    assert 4 * MINUTE <= seen.now - seen.oldest.due_at <= 5 * MINUTE + GRACE
    before = world.look(OVER - 2.0)
    assert (before.idle, before.late) == (None, ())
    after = world.look(2.0)
    idle = after.idle
    assert idle is not None
    assert after.late == (idle.oldest,)
    assert (idle.leader, idle.term, idle.oldest.job_id) == (OTHER, 2, "a")
    (event,) = world.heard()
    assert event.name == "leader_idle"
    assert event.fields["leader"] == OTHER
    assert event.fields["scheduled_at"] == seen.oldest.scheduled_at
    assert event.fields["age_seconds"] >= 240.0
    world.step_all()
    seen = world.look(1.0)
    assert (seen.oldest, seen.idle, seen.late) == (None, None, ())
    assert [event.name for event in world.heard()] == ["leader_idle", "leader_active"]


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(milliseconds=100)])
def test_a_job_without_grace_lets_no_leader_seem_idle_that_is_about_to_settle(world: Watched, grace: timedelta) -> None:
    spec = job(every=MINUTE, misfire_grace=grace)
    world.adopt(spec, back=5 * MINUTE)
    world.begin(spec)
    for _ in range(2):
        assert world.look(2.0).idle is None, "a sample in the moment between a tick and its decision"
    assert world.look(LEAST_GRANTED.total_seconds()).idle is not None


def test_it_is_told_of_again_each_minute(world: Watched) -> None:
    owing(world)
    world.look()
    for _ in range(20):
        world.look(SAMPLE_SECONDS)
    assert [event.name for event in world.heard()] == ["leader_idle"] * 3


def test_a_new_leader_has_its_time(world: Watched) -> None:
    owing(world)
    world.look()
    world.leading.other = ("third-3", 3)
    assert world.look(OVER).late == ()
    assert world.heard() == []
    world.look(OVER)
    assert [event.fields["leader"] for event in world.heard()] == ["third-3"]


def test_a_leader_that_could_not_reach_the_database_either_has_its_time(world: Watched) -> None:
    owing(world)
    world.look()
    world.samples.away = True
    world.look(OVER)
    world.samples.away = False
    world.outages = 1
    world.look(SAMPLE_SECONDS)
    assert world.heard() == []
    assert [event.fields["part"] for event in world.heard("store_unavailable", "store_recovered")] == ["watch"] * 2
    world.look(OVER)
    assert len(world.heard()) == 1


def test_where_nobody_leads_nobody_is_idle(world: Watched) -> None:
    owing(world)
    world.leading.other = None
    world.look()
    assert world.look(10 * OVER).oldest is not None
    assert world.heard() == []


def test_a_replica_that_leads_alone_watches_itself(world: Watched) -> None:
    owing(world)
    world.leading.lease = world.leadership.lease
    world.look()
    world.look(OVER)
    assert [event.fields["leader"] for event in world.heard()] == ["me-1"]


def test_a_job_that_waits_for_a_vanished_replica_is_not_held_against_the_leader_until_it_must_be_lost(
    world: Watched,
) -> None:
    owing(world)
    world.ran("running", holder="third-3")
    world.step_all()
    assert "settling_held" in world.names()
    world.look()
    world.look(OVER)
    assert world.heard() == []
    world.look(4 * LOST_AFTER)
    assert len(world.heard()) == 1


def test_a_job_whose_run_is_well_is_held_against_the_leader(world: Watched) -> None:
    owing(world)
    world.ran("running", holder="third-3")
    now = world.now()
    row = {"instance_id": "third-3", "lock_id": LOCK, "host": "h", "pid": 1, "version": "1", "config_hash": "x"}
    world.execute(insert(replica).values(**row, config_loaded_at=now, started_at=now, seen_at=now))
    world.look()
    world.look(OVER)
    assert len(world.heard()) == 1


def test_a_job_that_may_overlap_waits_for_nobody(world: Watched) -> None:
    owing(world, overlap=Overlap.ALLOW)
    world.ran("running", holder="third-3")
    world.look()
    world.look(OVER)
    assert len(world.heard()) == 1


@pytest.mark.parametrize(
    "change",
    [{"enabled": False}, {"schedule": "manual"}, {"schedule": "no cron at all"}, {"settled_until": "now"}],
    ids=str,
)
def test_what_the_ledger_says_of_a_job_decides_whether_it_is_owed(world: Watched, change: dict[str, Any]) -> None:
    owing(world)
    world.execute(update(job_state).values(**{k: world.now() if v == "now" else v for k, v in change.items()}))
    assert world.look().oldest is None


def test_a_job_that_the_leader_has_no_more_is_not_owed(world: Watched) -> None:
    a, b = owing(world), job("b", misfire_grace=GRACE)
    world.configure(b)
    world.elect(3)
    world.step_all()
    world.begin(a, b)
    assert world.look().oldest is None
    world.execute(update(job_state).values(present_at=world.now()))  # it is back
    assert world.look(SAMPLE_SECONDS).oldest is not None


def test_a_paused_job_is_settled_and_not_owed(world: Watched) -> None:
    owing(world)
    now = world.now()
    world.execute(update(job_state).values(paused_at=now - HOUR))
    world.step_all()
    seen = world.look()
    assert seen.paused == {"a"}
    assert seen.oldest is None or seen.oldest.due_at > now, "a minute may have passed since it was settled"
    world.execute(update(job_state).values(paused_until=world.now()))
    assert world.look(1.0).paused == frozenset()


def test_ticks_with_jitter_are_owed_when_they_are_due(world: Watched) -> None:
    spec = job(every=HOUR, jitter=59 * MINUTE, misfire_grace=GRACE)
    world.adopt(spec, back=timedelta(0))
    world.begin(spec)
    now = world.now()
    tick = spec.schedule.latest(now - 2 * HOUR, now)[0]
    due = schedules.due_at("a", tick, spec.jitter)
    world.execute(update(job_state).values(settled_until=tick - timedelta(seconds=1)))
    oldest = world.look().oldest
    if due > now:
        assert oldest is None
    else:
        assert oldest is not None
        assert oldest.due_at == due


def test_a_settled_job_is_not_asked_for_before_its_next_tick_comes_due(world: Watched) -> None:
    seldom, often = job("seldom", 100 * 365 * 24 * HOUR), job("often", timedelta(seconds=1))
    world.adopt(seldom, often, back=timedelta(0))
    world.step_all()
    world.begin(seldom, often)
    for _ in range(3):
        world.look(SAMPLE_SECONDS)
    assert world.samples.asked == [("often", "seldom"), ("often",), ("often",)]


def test_one_sample_looks_at_a_bounded_number_of_jobs_and_the_next_goes_on(world: Watched) -> None:
    world.begin(*(job(f"job-{number}") for number in range(2 * BATCH_JOBS + 500)))
    for _ in range(3):
        world.look()
    assert [len(asked) for asked in world.samples.asked] == [BATCH_JOBS, BATCH_JOBS, 500]
    assert len(set().union(*world.samples.asked)) == 2 * BATCH_JOBS + 500


def test_the_past_of_a_job_is_read_once_however_often_it_comes_due_before(
    world: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_service.watch.BATCH_RECORDS", 2)
    jobs = [job(f"job-{number}", timedelta(seconds=1)) for number in range(6)]
    world.adopt(*jobs, back=5 * MINUTE)
    world.begin(*jobs)
    for _ in range(6):
        assert len(world.look().fortunes) == min(6, len(world.samples.read))
    assert world.samples.read == [spec.id for spec in jobs]


def test_jobs_keep_their_turn_through_an_outage(world: Watched) -> None:
    owing(world)
    world.samples.away = True
    world.watch.step()
    world.samples.away, world.outages = False, 1
    assert world.look(SAMPLE_SECONDS).oldest is not None
    assert world.samples.asked == [("a",), ("a",)]


def test_an_unsettled_job_is_asked_for_once_in_each_sample(world: Watched) -> None:
    owing(world)
    for _ in range(5):
        world.look(SAMPLE_SECONDS)
    assert world.samples.asked == [("a",)] * 5
    assert len(world.watch._turns) == 1


# --- the service


def test_runs_and_replicas_of_the_service_are_counted(world: Watched) -> None:
    world.begin()
    now = world.now()
    for seconds, state in ((-5, "waiting"), (60, "waiting"), (-5, "running"), (-5, "succeeded")):
        due = now + timedelta(seconds=seconds)
        row = {"job_id": f"{state}{seconds}", "scheduled_at": due, "due_at": due, "decided_at": now}
        for lock_id in (LOCK, LOCK + 1):
            world.execute(insert(run).values(**row, lock_id=lock_id, kind="scheduled", state=state))
    for name, age in (("here", 0), ("gone", 60)):
        row = {"instance_id": name, "lock_id": LOCK, "host": "h", "pid": 1, "version": "1", "config_hash": "x"}
        seen_at = now - timedelta(seconds=age)
        world.execute(insert(replica).values(**row, config_loaded_at=now, started_at=now, seen_at=seen_at))
    seen = world.look()
    assert (seen.waiting_count, seen.due_count, seen.running_count, seen.replica_count) == (2, 1, 1, 1)


# --- how the jobs fare


def known(world: Watched, **changes: Any) -> JobSpec:
    """A job that a leader has taken up and settled."""
    spec = job(every=MINUTE, **changes)
    world.adopt(spec, back=timedelta(0))
    world.begin(spec)
    return spec


def test_failures_are_counted_until_the_next_success(world: Watched) -> None:
    known(world)
    accounted_from = world.fortune().counted_from
    for state in ("failed", "timed_out", "lost", "cancelled"):
        world.ran(state)
    assert (world.fortune().counted_from, world.fortune().failures_in_a_row) == (accounted_from, 3)
    world.ran("succeeded")
    fortune = world.fortune()
    assert fortune.failures_in_a_row == 0
    assert accounted_from < fortune.counted_from <= world.now()


def test_a_replica_that_starts_later_counts_the_same(world: Watched) -> None:
    spec = known(world)
    for state in ("failed", "succeeded", "failed", "timed_out", "cancelled"):
        world.ran(state)
    world.look()
    seen = world.fortune()
    world.begin(spec)
    assert world.fortune() == seen
    assert seen.failures_in_a_row == 2


def test_a_run_that_is_tried_again_counts_once(world: Watched) -> None:
    known(world)
    world.look()
    run_id = world.ran("waiting", attempt_state="failed")
    assert world.fortune().failures_in_a_row == 0
    world.attempt(run_id, 2, "failed")
    world.end(run_id, 2, "failed")
    assert world.fortune().failures_in_a_row == 1
    assert world.fortune().failures_in_a_row == 1


def test_a_run_that_went_on_when_the_replica_started_is_followed_to_its_end(world: Watched) -> None:
    known(world)
    run_id = world.ran("running")
    accounted_from = world.fortune().counted_from
    assert world.fortune().counted_from == accounted_from
    world.end(run_id, 1, "succeeded")
    assert world.fortune().counted_from > accounted_from


def test_a_job_without_a_success_counts_from_when_it_was_first_accounted_for(world: Watched) -> None:
    known(world)
    since = world.now() - HOUR
    world.execute(update(job_state).values(accountable_from=since))
    assert world.fortune() == Fortune(since, expected_from=since, overdue_at=world.fortune().overdue_at)


def test_a_job_is_overdue_when_three_of_its_ticks_and_its_grace_have_passed_without_a_success(world: Watched) -> None:
    spec = known(world, misfire_grace=GRACE, timeout=timedelta(seconds=5))
    since = world.now() - 10 * MINUTE
    world.execute(update(job_state).values(accountable_from=since))
    fortune, now = world.fortune(), world.now()
    tick = spec.schedule.between(since, now)[2]
    assert fortune.overdue_at == tick + GRACE + timedelta(seconds=5)
    assert fortune.overdue_seconds(now) == (now - fortune.overdue_at).total_seconds()
    world.ran("succeeded")
    assert world.fortune().overdue_seconds(world.now()) == 0.0
    assert world.fortune().overdue_seconds(world.now() + HOUR) == 0.0, "when it is overdue again is found in time"
    world.execute(update(job_state).values(settled_until=world.now()))
    assert world.look(MINUTE.total_seconds()).fortunes["a"].overdue_seconds(world.now()) == 0.0
    fortune = world.look(MINUTE.total_seconds()).fortunes["a"]
    assert fortune.overdue_seconds(world.now() + HOUR) > 3000.0


def test_a_paused_job_is_expected_to_succeed_only_after_its_pause(world: Watched) -> None:
    known(world)
    world.execute(update(job_state).values(accountable_from=world.now() - HOUR, paused_at=world.now() - MINUTE))
    fortune = world.fortune()
    assert fortune.overdue_seconds(world.now()) == 0.0
    assert fortune.overdue_seconds(world.now() + 10 * MINUTE) > 0.0


def overdue(world: Watched, after_seconds: float = 0.0) -> float:
    fortune = world.look(after_seconds).fortunes["a"]
    return fortune.overdue_seconds(world.now())


def succeeded_long_ago(world: Watched) -> JobSpec:
    """A job that succeeded ten hours before it is asked about, and ought to each minute."""
    spec = known(world, misfire_grace=GRACE)
    world.ran("succeeded")
    moment = world.now() - 10 * HOUR
    world.execute(update(run_attempt).values(started_at=moment, finished_at=moment))
    world.execute(update(run).values(scheduled_at=moment, due_at=moment))
    world.execute(update(job_state).values(settled_until=world.now(), accountable_from=moment - HOUR))
    assert overdue(world) > 0.0
    return spec


def test_a_job_whose_schedule_is_changed_is_expected_to_succeed_by_the_new_one(world: Watched) -> None:
    spec = succeeded_long_ago(world)
    hourly = spec.model_copy(update={"schedule": schedules.parse("0 * * * *", "UTC")})
    world.watch.configure([hourly])
    assert overdue(world) == 0.0
    fortune = world.fortune()
    assert fortune.overdue_at is not None
    assert fortune.overdue_at > world.now() + 2 * HOUR
    assert fortune.overdue_seconds(world.now() + 4 * HOUR) > 0.0


def test_a_longer_grace_is_granted_to_a_job_that_is_overdue(world: Watched) -> None:
    spec = succeeded_long_ago(world)
    world.watch.configure([spec.model_copy(update={"misfire_grace": 20 * HOUR})])
    assert overdue(world) == 0.0


def test_a_job_that_is_enabled_again_is_expected_to_succeed_from_then_on(world: Watched) -> None:
    spec = succeeded_long_ago(world)
    world.watch.configure([spec.model_copy(update={"enabled": False})])
    world.look()
    world.execute(update(job_state).values(enabled=False))
    world.watch.configure([spec])
    assert overdue(world) == 0.0, "the leader has not heard of it yet"
    world.execute(update(job_state).values(enabled=True, accountable_from=world.now(), settled_until=world.now()))
    assert overdue(world, SAMPLE_SECONDS + 1.0) == 0.0
    world.begin(spec)
    assert overdue(world) == 0.0, "a replica that starts later knows it too"
    assert world.fortune().overdue_seconds(world.now() + HOUR) > 0.0


@pytest.mark.parametrize("in_one_row", [False, True])
def test_a_replica_that_starts_after_a_pause_does_not_hold_it_against_the_job(world: Watched, in_one_row: bool) -> None:
    spec = succeeded_long_ago(world)
    now = world.now()
    first, last = now - 9 * HOUR, now - MINUTE
    row = {"lock_id": LOCK, "job_id": "a", "state": "skipped", "reason": "paused", "decided_at": now, "attempt": 0}
    if in_one_row:
        world.execute(insert(run).values(**row, kind="range", scheduled_at=first, due_at=first, until=last))
    else:
        for tick in (first, last):
            world.execute(insert(run).values(**row, kind="scheduled", scheduled_at=tick, due_at=tick))
    world.begin(spec)
    assert overdue(world) == 0.0
    assert world.fortune().overdue_seconds(now + HOUR) > 0.0


def test_a_job_without_ticks_is_never_overdue(world: Watched) -> None:
    spec = JobSpec(id="a", run="jobs:main", schedule=schedules.manual())
    world.adopt(spec, back=HOUR)
    world.begin(spec)
    world.execute(update(job_state).values(accountable_from=world.now() - HOUR))
    assert world.fortune().overdue_seconds(world.now() + 1000 * HOUR) == 0.0


def test_a_job_that_is_configured_no_more_is_forgotten_and_a_new_one_known(world: Watched) -> None:
    owing(world)
    assert world.look().oldest is not None
    world.watch.configure([job("b")])
    seen = world.look()
    assert (seen.oldest, dict(seen.fortunes)) == (None, {})
    world.configure(job("b"))
    world.elect(3)
    world.step_all()
    assert set(world.look(SAMPLE_SECONDS).fortunes) | set(world.look().fortunes) == {"b"}


def test_more_attempts_than_fit_into_one_sample_are_read_soon(world: Watched) -> None:
    known(world)
    world.look()
    now = world.now()
    runs = [
        {
            "lock_id": LOCK, "job_id": "a", "scheduled_at": now + timedelta(microseconds=number), "due_at": now,
            "kind": "scheduled", "state": "failed", "attempt": 1, "decided_at": now,
        }
        for number in range(MOST_ATTEMPTS + 10)
    ]  # fmt: skip
    world.execute(insert(run).values(runs[: len(runs) // 2]))
    world.execute(insert(run).values(runs[len(runs) // 2 :]))
    with world.database.connect() as connection:
        ids = connection.execute(select(run.c.id)).scalars().all()
        row = {"attempt": 1, "term": 1, "instance_id": OTHER, "started_at": now, "finished_at": now, "state": "failed"}
        connection.execute(insert(run_attempt), [{**row, "run_id": run_id} for run_id in ids])
    assert world.watch.step() < SAMPLE_SECONDS
    assert world.watch.step() == SAMPLE_SECONDS
    assert world.watch.seen is not None
    assert world.watch.seen.fortunes["a"].failures_in_a_row == MOST_ATTEMPTS + 10


def test_attempts_that_vanish_are_followed_no_longer(world: Watched) -> None:
    known(world)
    run_id = world.ran("running")
    world.look()
    world.execute(delete(run_attempt).where(run_attempt.c.run_id == run_id))
    world.look()
    assert world.watch._open_attempts == frozenset()
