"""Electors under years of bad luck keep I1, I2 and I6; and electors made wrong on purpose are found out.

A world that breaks tells its seed: `World(seed, …).live(hours)` lives it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scheduler_service.clock import DatabaseTime
from scheduler_service.database import StoreUnavailable
from scheduler_service.elector import Role, Timing
from scheduler_service.elector.machine import Machine
from scheduler_service.elector.standing import Standing
from scheduler_service.model import Lease
from tests.simulation.memory_store import MemoryElection, Row
from tests.simulation.world import BAD, InvariantError, World

USUAL = Timing()
# The same election, a hundred times slower: the latencies stay, and as much happens in a hundredth of the time.
SLOW = Timing(*(100 * value for value in dataclasses.astuple(USUAL)))
SEEDS = (0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 10)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("timing", "hours"), [(USUAL, 10), (SLOW, 1000)], ids=["usual", "slow"])
def test_no_two_replicas_trust_a_lease_at_once_and_terms_only_grow(timing: Timing, hours: float, seed: int) -> None:
    world = World(seed, timing=timing)
    world.live(hours)
    # A world in which nothing happened would prove nothing.
    assert world.term_count > 100
    assert world.timeline.switches > 500  # as often somebody acted while somebody else waited for an answer


@pytest.mark.parametrize("seed", SEEDS)
def test_terms_only_grow_though_sessions_end_rows_are_deleted_and_the_clock_is_set_back(seed: int) -> None:
    world = World(seed, guarded=True, luck=replace(BAD, row_deleted=0.003, clock_set_back=0.003))
    world.live(5)
    assert world.term_count > 100


def test_one_of_nine_leads() -> None:
    world = World(9, replica_count=9)
    world.live(3)
    assert world.term_count > 100


def test_a_world_can_be_lived_again() -> None:
    def lived(seed: int) -> tuple[int, int, float]:
        world = World(seed)
        world.live(0.5)
        return world.step_count, world.term_count, world.rng.random()

    assert lived(5) == lived(5) != lived(6)


def test_no_wall_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a wall clock was asked (I10)")

    monkeypatch.setattr("time.time", refuse)
    monkeypatch.setattr(DatabaseTime, "ahead_of_wall", refuse)
    monkeypatch.setattr("scheduler_service.clock.datetime", type("NoWallClock", (), {"now": refuse}))
    World(1).live(0.1)


# Electors made wrong: what a careless change could turn a method into.


def trust_from_the_reply(self: Machine, sent: float) -> float:
    return self._clock.monotonic() + self.timing.lease_seconds - self.timing.margin_seconds


def trust_without_a_margin(self: Machine, sent: float) -> float:
    return sent + self.timing.lease_seconds


def leader_by_a_stored_flag(self: Machine) -> Lease | None:
    standing = self._standing
    return standing.lease if standing.role is Role.LEADER else None


def trusted_after_release(self: Machine) -> Lease | None:
    lease = self._standing.lease
    return lease if lease is not None and lease.trusted(self._clock.monotonic()) else None


def untroubled_by_errors(self: Machine, lease: Lease, error: StoreUnavailable) -> float:
    return 0.1


def deaf_to_refusal(self: Machine, lease: Lease) -> bool:
    self._store.renew(lease.term, lease.leader_id)
    self._standing = Standing(Role.LEADER, replace(lease, trusted_until=self._trust_from(self._clock.monotonic())))
    return True


def suspect_no_more_before_the_answer(self: Machine, lease: Lease, since: float) -> float:
    self._standing = Standing(Role.LEADER, lease)
    return self._lead(lease)


def silent_about_lost_terms(self: Machine, lease: Lease, reason: str) -> float:
    self._standing = Standing(Role.STANDBY)
    return 0.0


def term_from_the_row_alone(self: MemoryElection, leader_id: str, session: Any = None) -> Any:
    self.terms.clear()
    return acquire(self, leader_id, session)


def never_expired(self: MemoryElection, row: Row) -> bool:
    return False


acquire = MemoryElection.acquire

MUTANTS: list[tuple[type, str, Callable[..., Any]]] = [
    (Machine, "_trust_from", trust_from_the_reply),
    (Machine, "_trust_from", trust_without_a_margin),
    (Machine, "current", leader_by_a_stored_flag),
    (Machine, "current", trusted_after_release),
    (Machine, "_doubt", untroubled_by_errors),
    (Machine, "_renew", deaf_to_refusal),
    (Machine, "_reassure", suspect_no_more_before_the_answer),
    (Machine, "_step_down", silent_about_lost_terms),
    (MemoryElection, "acquire", term_from_the_row_alone),
    (MemoryElection, "_expired", never_expired),
]


@pytest.mark.parametrize(("owner", "method", "wrong"), MUTANTS, ids=[wrong.__name__ for _, _, wrong in MUTANTS])
def test_the_world_notices_an_elector_that_is(
    owner: type, method: str, wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    World(1).live(0.2)  # the same luck meets nothing wrong in the right elector
    monkeypatch.setattr(owner, method, wrong)
    with pytest.raises(InvariantError):
        live_several()


def live_several() -> None:
    for seed in range(1, 9):
        World(seed).live(2)
