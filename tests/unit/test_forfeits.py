"""Which runs end with their term, and that those which reach a worker late are not overlooked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from scheduler_service import schedule as schedules
from scheduler_service.forfeits import REASONS, Forfeits
from scheduler_service.model import Attempt, JobSpec, Kind, OnLeadershipLost

NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)
TERM = 4


def spec(job_id: str, on_lost: OnLeadershipLost) -> JobSpec:
    return JobSpec(id=job_id, command="true", schedule=schedules.manual(), on_leadership_lost=on_lost)


CANCELS = spec("cancels", OnLeadershipLost.CANCEL)
FINISHES = spec("finishes", OnLeadershipLost.FINISH)


@dataclass
class Running:
    """Attempts at work, and those on their way."""

    attempts: dict[int, tuple[Attempt, JobSpec]] = field(default_factory=dict)
    coming: frozenset[str] = frozenset()
    stopped: list[int] = field(default_factory=list)

    def begin(self, attempt_id: int, job: JobSpec, term: int = TERM) -> None:
        attempt = Attempt(attempt_id, attempt_id, 1, job.id, NOON, NOON, Kind.SCHEDULED, term, "me", NOON, 0.0)
        self.attempts[attempt_id] = (attempt, job)

    def registry(self) -> dict[int, Attempt]:
        return {attempt_id: attempt for attempt_id, (attempt, _) in self.attempts.items()}

    def spec_of(self, attempt_id: int) -> JobSpec | None:
        return self.attempts[attempt_id][1] if attempt_id in self.attempts else None

    def stop_run(self, attempt_id: int, reason: str) -> None:
        assert reason == "leadership was lost"
        self.stopped.append(attempt_id)


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def forfeits(running: Running) -> Forfeits:
    return Forfeits(running, lambda: running.coming)


@pytest.mark.parametrize("reason", REASONS)
def test_a_term_that_was_taken_from_us_ends_its_runs_that_shall_not_go_on(
    forfeits: Forfeits, running: Running, reason: str
) -> None:
    running.begin(1, CANCELS)
    running.begin(2, FINISHES)
    running.begin(3, CANCELS, term=TERM - 1)  # which we gave back
    forfeits.lost(TERM, reason)
    forfeits.step()
    assert running.stopped == [1]


@pytest.mark.parametrize("reason", ["released", "resigned", "release_unanswered"])
def test_a_term_that_we_gave_back_ends_nothing(forfeits: Forfeits, running: Running, reason: str) -> None:
    running.begin(1, CANCELS)
    forfeits.lost(TERM, reason)
    forfeits.step()
    assert running.stopped == []


def test_a_run_that_reaches_its_worker_after_the_term_ended_is_ended_too(forfeits: Forfeits, running: Running) -> None:
    running.coming = frozenset({"claim"})
    forfeits.lost(TERM, "deposed")
    forfeits.step()
    running.begin(1, CANCELS)
    running.coming = frozenset()
    forfeits.step()
    assert running.stopped == [1]


def test_a_run_that_arrives_between_two_questions_is_not_overlooked(running: Running) -> None:
    def has_just_arrived() -> frozenset[str]:
        running.begin(1, CANCELS)
        return frozenset()

    forfeits = Forfeits(running, has_just_arrived)
    forfeits.lost(TERM, "fenced")
    forfeits.step()
    forfeits.step()
    assert running.stopped[0] == 1


def test_a_term_is_forgotten_when_nothing_of_it_can_come(forfeits: Forfeits, running: Running) -> None:
    forfeits.lost(TERM, "deposed")
    forfeits.step()
    running.begin(1, CANCELS)
    forfeits.step()
    assert running.stopped == []
