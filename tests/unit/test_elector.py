"""The lease state machine, step by step: no thread, no socket, no waiting."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from freezegun import freeze_time

from scheduler_service.database import StoreUnavailable
from scheduler_service.elector import Announcement, Elected, Lost, Observed, Timing
from scheduler_service.elector.machine import Machine
from scheduler_service.events import Event, Events
from scheduler_service.leases import Acquired
from tests.simulation.memory_store import MemoryElection, MemoryLeaseStore, Session

TIMING = Timing()


class Hand:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Store(MemoryLeaseStore):
    """A store that notes what it is asked, and does what a test wants before or after it answers."""

    def __init__(self, election: MemoryElection) -> None:
        super().__init__(election)
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None

    def __getattribute__(self, name: str) -> Any:
        verb = super().__getattribute__(name)
        if name not in ("observe", "acquire", "renew", "release", "cleanup"):
            return verb

        def ask(*arguments: Any) -> Any:
            self.asked.append(name)
            self.before(name)
            answer = verb(*arguments)
            self.after(name)
            return answer

        return ask

    def fail(self, name: str | None = None) -> None:
        """Fail every question from now on, or one verb."""
        self.before = lambda verb: unavailable() if name in (None, verb) else None

    def lose_replies(self) -> None:
        """Do what is asked and never answer."""
        self.after = lambda _: unavailable()

    def mend(self) -> None:
        """Answer again."""
        self.before = self.after = lambda _: None


def unavailable() -> None:
    raise StoreUnavailable("no answer")


class Bench:
    """One machine, its database, its clock and what it told."""

    def __init__(self, *, timing: Timing = TIMING, name: str | None = None, **parts: Any) -> None:
        self.clock = Hand()
        self.election = MemoryElection(self.clock.monotonic, timing.lease_seconds)
        self.store = Store(self.election)
        self.events: list[Event] = []
        events = Events()
        events.subscribe(self.events.append)
        self.told: list[Announcement] = []
        self.watched: list[int | None] = []
        self.machine = Machine(
            self.store,
            lock_id=7,
            instance_id=f"{name or 'me'}-aaaaaa",
            timing=timing,
            clock=self.clock,
            rng=random.Random(1),
            events=events,
            announce=self.told.append,
            watch=self.watched.append,
            name=name,
            **parts,
        )

    def lead(self) -> None:
        self.machine.step()
        assert self.machine.is_leader()

    def let_another_lead(self, leader_id: str = "other-bbbbbb", session: Session | None = None) -> Acquired:
        acquired = self.election.acquire(leader_id, session)
        assert acquired is not None
        return acquired

    def replace_leader(self) -> Acquired:
        self.election.row = None
        return self.let_another_lead()

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    @property
    def announced(self) -> list[tuple[str, int]]:
        """Elected and Lost, with their terms."""
        return [
            (type(message).__name__, message.lease.term) for message in self.told if not isinstance(message, Observed)
        ]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# Winning, and how long to believe


def test_the_free_lease_is_won_and_trusted_until_a_margin_before_it_expires(bench: Bench) -> None:
    bench.lead()
    lease = bench.machine.current()
    assert lease is not None
    assert (lease.lock_id, lease.term, lease.leader_id) == (7, 1, bench.machine.instance_id)
    assert lease.trusted_until == bench.clock.now + TIMING.lease_seconds - TIMING.margin_seconds
    assert bench.announced == [("Elected", 1)]
    (event,) = bench.named("leader_elected")
    assert event.fields == {"term": 1, "lock_id": 7, "how": "free", "crash_detection": False}


def test_trust_runs_out_by_itself(bench: Bench) -> None:
    bench.lead()
    bench.clock.now += 8.999
    assert bench.machine.is_leader()
    bench.clock.now += 0.001
    assert bench.machine.current() is None


@pytest.mark.parametrize("verb", ["acquire", "renew"])
def test_trust_counts_from_before_the_request(bench: Bench, verb: str) -> None:
    if verb == "renew":
        bench.lead()

    def take_long(asked: str) -> None:
        bench.clock.now += 1.5 if asked == verb else 0.0

    bench.store.before = bench.store.after = take_long
    sent = bench.clock.now
    bench.machine.step()
    lease = bench.machine.current()
    assert lease is not None
    assert lease.trusted_until == sent + 9.0


def test_a_frozen_leader_does_not_lead_after_thawing(bench: Bench) -> None:
    bench.lead()
    bench.clock.now += 100.0
    assert bench.machine.current() is None
    bench.let_another_lead()
    bench.machine.step()
    bench.machine.step()
    assert bench.announced == [("Elected", 1), ("Lost", 1)]
    assert [event.fields["reason"] for event in bench.named("leadership_lost")] == ["trust_lapsed"]
    assert bench.machine.observation is not None
    assert bench.machine.observation.leader_id == "other-bbbbbb"


def test_renewals_keep_the_term(bench: Bench) -> None:
    bench.lead()
    for _ in range(100):
        bench.clock.now += bench.machine.step()
        assert bench.machine.is_leader()
    assert bench.announced == [("Elected", 1)]


def test_rounds_come_within_the_jitter_and_never_in_the_past() -> None:
    bench = Bench(timing=replace(TIMING, renewal_seconds=1.0, jitter_seconds=2.0))
    bench.lead()
    waits = [bench.machine.step() for _ in range(200)]
    assert 0.0 == min(waits) < 0.1 < 2.9 < max(waits) <= 3.0
    assert len(set(waits)) > 100


def test_the_databases_time_is_learnt_from_every_answer(bench: Bench) -> None:
    assert not bench.machine.database_time.known
    bench.lead()
    assert bench.machine.database_time.now().timestamp() == pytest.approx(bench.clock.now)


@pytest.mark.parametrize("seconds", [-3600.0, 5.0])
def test_a_step_of_the_databases_clock_is_told_once(bench: Bench, seconds: float) -> None:
    bench.lead()
    bench.election.now = lambda: bench.clock.now + seconds
    for _ in range(3):
        bench.machine.step()
    steps = [event.fields["seconds"] for event in bench.events if event.name == "database_clock_stepped"]
    assert steps == [pytest.approx(seconds)]


# Standing by


def test_a_standby_only_looks(bench: Bench) -> None:
    bench.let_another_lead()
    for _ in range(5):
        bench.machine.step()
        bench.clock.now += 1.0
    assert bench.store.asked == ["observe"] * 5


def test_a_standby_looks_again_when_the_lease_would_expire_if_that_is_sooner(bench: Bench) -> None:
    bench.let_another_lead()
    assert 1.0 <= bench.machine.step() <= 5.0
    bench.clock.now += 9.5
    assert bench.machine.step() == pytest.approx(0.5)
    bench.clock.now += 0.5
    bench.machine.step()
    assert bench.announced == [("Elected", 2)]
    assert bench.named("leader_elected")[0].fields["how"] == "expired"


def test_who_leads_is_judged_by_the_databases_time(bench: Bench) -> None:
    term = bench.let_another_lead().term
    bench.machine.step()
    with freeze_time("2001-01-01"):  # which is years after the lease, by the database's clock, and before it
        bench.clock.now += TIMING.lease_seconds - 0.5
        assert bench.machine.observed() == ("other-bbbbbb", term)
    with freeze_time("1969-01-01"):
        bench.clock.now += 1.0
        assert bench.machine.observed() is None


def test_who_leads_can_be_asked_in_the_middle_of_the_first_look(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    term = bench.let_another_lead().term
    learn, meanwhile = bench.machine.database_time.observe, []

    def asked_just_before(*told: Any) -> float:
        meanwhile.append(bench.machine.observed())
        return learn(*told)

    monkeypatch.setattr(bench.machine.database_time, "observe", asked_just_before)
    bench.machine.step()
    assert meanwhile == [None]
    assert bench.machine.observed() == ("other-bbbbbb", term)


def test_each_leader_and_term_is_told_of_once(bench: Bench) -> None:
    bench.let_another_lead()
    bench.machine.step()
    bench.machine.step()
    bench.replace_leader()
    bench.machine.step()
    assert [event.fields for event in bench.named("leader_observed")] == [
        {"leader": "other-bbbbbb", "term": 1},
        {"leader": "other-bbbbbb", "term": 2},
    ]
    assert [message.observation.term for message in bench.told if isinstance(message, Observed)] == [1, 2]  # type: ignore[union-attr]


def test_whoever_is_slower_looks_who_was_faster(bench: Bench) -> None:
    bench.store.before = lambda verb: bench.let_another_lead() and None if verb == "acquire" else None
    assert bench.machine.step() < 0.1
    bench.machine.step()
    assert bench.store.asked == ["observe", "acquire", "observe"]
    assert bench.announced == []
    assert bench.named("leader_observed")[0].fields["leader"] == "other-bbbbbb"


def test_the_end_of_the_leaders_session_is_used_at_once(bench: Bench) -> None:
    session = Session(boot=1)
    bench.let_another_lead(session=session)
    bench.machine.step()
    assert bench.watched == [1]
    session.ended = True
    bench.machine.session_gone(1)
    bench.machine.step()
    assert bench.announced == [("Elected", 2)]
    assert bench.named("leader_elected")[0].fields["how"] == "session_gone"
    assert bench.watched == [1, None]


def test_the_end_of_a_former_leaders_session_means_nothing(bench: Bench) -> None:
    bench.let_another_lead(session=Session(boot=1))
    bench.machine.step()
    bench.election.row = None
    bench.let_another_lead(session=Session(boot=1))
    bench.machine.session_gone(1)
    bench.machine.step()
    assert bench.store.asked == ["observe", "observe"]
    assert bench.watched == [1, 2]


def test_a_leader_that_cannot_be_watched_is_not_watched(bench: Bench) -> None:
    bench.let_another_lead()
    bench.machine.step()
    bench.machine.session_gone(1)
    bench.machine.step()
    assert "acquire" not in bench.store.asked
    assert set(bench.watched) == {None}


def test_a_reply_lost_after_acquiring_leads_to_one_term_that_is_told(bench: Bench) -> None:
    bench.store.after = lambda verb: unavailable() if verb == "acquire" else None
    bench.machine.step()
    assert bench.election.row is not None
    assert bench.machine.current() is None
    bench.store.mend()
    bench.machine.step()
    assert bench.announced == [("Elected", 2)]
    assert bench.named("leader_elected")[0].fields["how"] == "reply_lost"
    assert [term.ended for term in bench.election.terms] == ["replaced_by_itself", None]


# Suspicion


def test_an_error_ends_trust_at_once_and_an_answer_resumes_the_same_term(bench: Bench) -> None:
    bench.lead()
    bench.store.fail()
    assert bench.machine.step() == 0.0
    assert bench.machine.current() is None
    bench.clock.now += 2.0
    assert 0.0 < bench.machine.step() <= 0.05
    bench.store.mend()
    bench.machine.step()
    lease = bench.machine.current()
    assert lease is not None
    assert lease.term == 1
    assert [event.name for event in bench.events] == [
        "leader_elected",
        "leadership_suspect",
        "renewal_failed",
        "leadership_renewed",
        "leadership_resumed",
    ]
    assert bench.named("leadership_resumed")[0].fields == {"term": 1, "suspect_seconds": 2.0}
    assert bench.announced == [("Elected", 1)]


def test_suspicion_ends_with_trust(bench: Bench) -> None:
    bench.lead()
    bench.store.fail()
    began = bench.clock.now
    while not bench.named("leadership_lost"):
        bench.clock.now += bench.machine.step()
    assert bench.clock.now == began + 9.0
    assert bench.named("leadership_lost")[0].fields == {"term": 1, "reason": "trust_lapsed"}
    assert bench.announced == [("Elected", 1), ("Lost", 1)]


def test_our_own_row_is_taken_over_in_a_new_term_after_trust_has_lapsed(bench: Bench) -> None:
    bench.lead()
    bench.clock.now += 9.5
    bench.machine.step()
    bench.machine.step()
    assert bench.announced == [("Elected", 1), ("Lost", 1), ("Elected", 2)]


def test_a_suspect_that_was_replaced_steps_down(bench: Bench) -> None:
    bench.lead()
    bench.store.fail()
    bench.machine.step()
    bench.store.mend()
    bench.replace_leader()
    assert bench.machine.step() == 0.0
    assert bench.named("leadership_lost")[0].fields["reason"] == "deposed"


def test_an_error_while_cleaning_up_is_an_error(bench: Bench) -> None:
    bench.lead()
    bench.store.fail("cleanup")
    while not bench.named("leadership_suspect"):
        bench.clock.now += bench.machine.step()
    assert "cleanup" in bench.store.asked
    bench.machine.step()
    assert bench.machine.is_leader()


def test_the_leader_cleans_up_every_six_leases(bench: Bench) -> None:
    bench.lead()
    began = bench.clock.now
    while bench.clock.now < began + 600:
        bench.clock.now += bench.machine.step()
    assert bench.store.asked.count("cleanup") in (9, 10)


# Losing


def test_a_renewal_that_finds_no_row_ends_the_term(bench: Bench) -> None:
    bench.lead()
    bench.replace_leader()
    assert bench.machine.step() == 0.0
    assert bench.machine.current() is None
    bench.machine.step()
    assert bench.announced == [("Elected", 1), ("Lost", 1)]
    assert bench.named("leader_observed")[0].fields["term"] == 2


def test_a_fenced_statement_ends_the_term_at_once(bench: Bench) -> None:
    bench.lead()
    bench.replace_leader()
    bench.machine.deposed(1)
    assert bench.machine.current() is None
    bench.machine.step()
    assert bench.announced == [("Elected", 1), ("Lost", 1)]
    assert bench.named("leadership_lost")[0].fields["reason"] == "fenced"
    assert "renew" not in bench.store.asked


def test_a_fenced_statement_of_a_former_term_ends_nothing(bench: Bench) -> None:
    bench.lead()
    bench.clock.now += 9.5
    bench.machine.step()
    bench.machine.step()
    bench.machine.deposed(1)
    assert bench.machine.is_leader()


# Giving back


def test_release_ends_trust_before_the_row_is_deleted(bench: Bench) -> None:
    bench.lead()
    bench.machine.release()
    assert bench.machine.current() is None
    assert bench.election.row is not None
    bench.machine.step()
    assert bench.election.row is None
    assert bench.announced == [("Elected", 1), ("Lost", 1)]
    assert bench.named("leadership_released")[0].fields == {"term": 1, "reason": "released"}
    assert bench.election.terms[0].ended == "released"
    assert not bench.named("leadership_lost")


def test_whoever_released_stands_back_one_round_and_may_lead_again(bench: Bench) -> None:
    bench.lead()
    bench.machine.release()
    released = bench.clock.now
    assert bench.machine.step() == 0.0  # to see who is next
    pause = bench.machine.step()
    while not bench.machine.is_leader():
        assert bench.clock.now - released <= 5.0
        bench.clock.now += min(pause, 0.25)  # it may be woken at any time
        pause = bench.machine.step()
    assert bench.clock.now - released >= 1.0
    assert bench.announced == [("Elected", 1), ("Lost", 1), ("Elected", 2)]


def test_whoever_released_stands_back_no_longer_when_another_has_led(bench: Bench) -> None:
    bench.lead()
    bench.machine.release()
    bench.machine.step()
    session = Session(boot=1)
    term = bench.let_another_lead(session=session).term
    bench.machine.step()
    session.ended = True
    bench.machine.session_gone(term)
    bench.machine.step()
    assert bench.machine.is_leader()


def test_release_is_tried_again_while_a_statement_of_ours_holds_the_row(bench: Bench) -> None:
    bench.lead()
    bench.machine.release()
    bench.store.fail("release")
    for _ in range(3):
        bench.clock.now += bench.machine.step()
        assert bench.machine.current() is None
    bench.store.mend()
    bench.machine.step()
    assert bench.election.row is None
    assert bench.announced == [("Elected", 1), ("Lost", 1)]


def test_release_gives_up_when_the_lease_must_have_expired(bench: Bench) -> None:
    bench.lead()
    bench.machine.release()
    bench.store.fail()
    began = gave_up = bench.clock.now
    while not bench.named("leadership_lost"):
        gave_up = bench.clock.now
        bench.clock.now += bench.machine.step()
    assert 10.0 <= gave_up - began <= 11.0
    assert bench.named("leadership_lost")[0].fields["reason"] == "release_unanswered"
    assert bench.announced == [("Elected", 1), ("Lost", 1)]


def test_release_by_a_standby_changes_nothing(bench: Bench) -> None:
    bench.machine.release()
    bench.lead()


def test_a_suspect_gives_back_too(bench: Bench) -> None:
    bench.lead()
    bench.store.fail()
    bench.machine.step()
    bench.machine.release()
    bench.store.mend()
    bench.machine.step()
    assert bench.election.row is None
    assert bench.announced == [("Elected", 1), ("Lost", 1)]


def test_a_request_to_resign_is_obeyed(bench: Bench) -> None:
    bench.lead()
    assert bench.election.row is not None
    bench.election.row.resign_term = 1
    assert bench.machine.step() == 0.0
    assert bench.machine.current() is None
    bench.machine.step()
    assert bench.named("resign_requested")[0].fields == {"term": 1}
    assert bench.named("leadership_released")[0].fields == {"term": 1, "reason": "resigned"}
    assert bench.election.terms[0].ended == "resigned"


def test_a_request_to_a_former_leader_to_resign_is_not(bench: Bench) -> None:
    bench.let_another_lead()
    assert bench.election.row is not None
    bench.clock.now += 10.0
    bench.lead()
    bench.election.row.resign_term = 1
    bench.machine.step()
    assert bench.machine.is_leader()


def test_whoever_withdraws_gives_back_and_goes_on_looking(bench: Bench) -> None:
    bench.lead()
    bench.machine.withdraw()
    for _ in range(10):
        bench.clock.now += bench.machine.step()
    assert bench.store.asked.count("acquire") == 1
    assert bench.announced == [("Elected", 1), ("Lost", 1)]
    bench.let_another_lead()
    bench.machine.step()
    assert bench.named("leader_observed")


def test_a_term_won_after_withdrawing_is_given_back_and_nobody_hears_of_it(bench: Bench) -> None:
    bench.store.before = lambda verb: bench.machine.withdraw() if verb == "acquire" else None
    assert bench.machine.step() == 0.0
    assert bench.election.row is not None
    bench.machine.step()
    assert bench.election.row is None
    assert bench.announced == []


def test_whoever_cannot_serve_another_term_does_not_stand() -> None:
    bench = Bench(ready=lambda: False)
    bench.machine.step()
    assert bench.store.asked == ["observe"]


def test_an_abandoned_term_is_told_once_and_left_to_expire(bench: Bench) -> None:
    bench.lead()
    bench.machine.abandon("crashed")
    bench.machine.abandon("crashed")
    assert bench.machine.current() is None
    assert bench.announced == [("Elected", 1), ("Lost", 1)]
    assert bench.election.row is not None


def test_a_term_abandoned_while_it_is_given_back_is_told_as_lost_and_announced_once(bench: Bench) -> None:
    bench.lead()
    bench.machine.release()
    bench.store.fail("release")
    bench.machine.step()
    bench.machine.abandon("release_unanswered")
    bench.machine.abandon("release_unanswered")
    assert [event.fields for event in bench.named("leadership_lost")] == [{"term": 1, "reason": "release_unanswered"}]
    assert bench.announced == [("Elected", 1), ("Lost", 1)]
    assert bench.election.row is not None


# Outages


def test_an_outage_is_told_when_it_begins_once_a_minute_and_when_it_ends(bench: Bench) -> None:
    bench.store.fail()
    waits = []
    began = bench.clock.now
    while bench.clock.now < began + 130:
        waits.append(bench.machine.step())
        bench.clock.now += waits[-1]
    assert waits[0] <= 0.05
    assert max(waits) <= 3.0
    assert min(waits[8:]) >= 1.5
    told = bench.named("store_unavailable")
    assert [event.fields["part"] for event in told] == ["elector"] * 3
    assert told[0].fields["error"] == "no answer"
    assert told[1].fields["count"] > 10
    bench.store.mend()
    bench.machine.step()
    (recovered,) = bench.named("store_recovered")
    assert recovered.fields["outage_seconds"] >= 130
    assert bench.machine.is_leader()


def test_a_store_that_may_be_read_and_not_written_is_one_outage_until_it_can_be_written(bench: Bench) -> None:
    bench.store.fail("acquire")
    for _ in range(10):
        bench.clock.now += bench.machine.step()
        assert bench.machine.problem == "no answer"
    assert len(bench.named("store_unavailable")) == 1
    assert not bench.named("store_recovered")
    bench.store.mend()
    bench.machine.step()
    assert len(bench.named("store_recovered")) == 1
    assert bench.machine.problem is None


def test_it_is_over_too_when_another_could_write(bench: Bench) -> None:
    bench.store.fail("acquire")
    bench.machine.step()
    bench.let_another_lead()
    bench.machine.step()
    assert [event.name for event in bench.events] == ["store_unavailable", "store_recovered", "leader_observed"]
    assert bench.machine.problem is None


def test_what_must_be_prepared_is_tried_until_it_succeeds() -> None:
    answers: list[Callable[[], None]] = [unavailable, unavailable, lambda: None]

    def prepare() -> None:
        answers.pop(0)()

    bench = Bench(prepare=prepare)
    bench.machine.step()
    bench.machine.step()
    assert bench.store.asked == []
    bench.machine.step()
    assert bench.machine.is_leader()
    bench.machine.step()
    assert answers == []


# Names


def test_a_living_leader_with_our_configured_name_is_told_of() -> None:
    bench = Bench(name="web")
    other = bench.let_another_lead("web-cccccc")
    bench.machine.step()
    bench.clock.now += 3.0
    bench.machine.step()
    assert not bench.named("instance_id_shared")  # it may be what this replica was before it was killed
    bench.election.renew(other.term, "web-cccccc")
    bench.machine.step()
    bench.election.renew(other.term, "web-cccccc")
    bench.machine.step()
    assert [event.fields for event in bench.named("instance_id_shared")] == [{"other": "web-cccccc"}]


@pytest.mark.parametrize(("name", "leader"), [(None, "me-cccccc"), ("web", "web-1-cccccc"), ("web-1", "web-cccccc")])
def test_other_names_are_nothing_to_tell(name: str | None, leader: str) -> None:
    bench = Bench(name=name)
    other = bench.let_another_lead(leader)
    bench.machine.step()
    bench.clock.now += 3.0
    bench.election.renew(other.term, leader)
    bench.machine.step()
    assert not bench.named("instance_id_shared")


def test_why_a_session_cannot_be_watched_is_told_when_it_changes(bench: Bench) -> None:
    bench.store.unguarded_reason = "a pooler"
    bench.lead()
    bench.machine.step()
    bench.store.unguarded_reason = None
    bench.machine.step()
    bench.store.unguarded_reason = "a pooler"
    bench.machine.step()
    assert [event.fields for event in bench.named("crash_detection_off")] == [{"reason": "a pooler"}] * 2


def test_an_observation_of_our_own_lost_row_is_no_leader_to_tell_of(bench: Bench) -> None:
    bench.lead()
    bench.clock.now += 9.5
    bench.machine.step()
    bench.machine.step()
    assert not bench.named("leader_observed")


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lease_seconds": 9.9},
            "lease_duration is 9.9s, too short for two attempts to renew it: raise it to at least 10s",
        ),
        ({"attempt_seconds": 2.25}, "raise it to at least 10.5s"),
        ({"renewal_seconds": 0.0}, "renewal_interval is 0s: it must be over 0"),
        ({"jitter_seconds": -1.0}, "jitter_range is -1s: it must be at least 0"),
        ({"attempt_seconds": float("nan")}, "attempt_timeout is nans: it must be over 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_what_would(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Timing(**settings)


def test_the_least_lease_that_works_is_accepted() -> None:
    assert Timing(lease_seconds=3.0 + 2.0 + 2 * 2.0 + 1.0).lease_seconds == 10.0
    assert Timing(lease_seconds=0.8, renewal_seconds=0.1, jitter_seconds=0.1, attempt_seconds=0.2, margin_seconds=0.2)


def test_lost_tells_the_lease_and_why(bench: Bench) -> None:
    bench.lead()
    lease = bench.machine.current()
    bench.machine.release("drained")
    bench.machine.step()
    assert lease is not None
    assert bench.told == [Elected(lease), Lost(lease, "drained")]
