"""Functions for the leader alone: on a leader, on a standby, and when trust has run out."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from scheduler_service import Elector, NotLeaderError, leader_only
from scheduler_service.database import StoreUnavailable
from tests.simulation.memory_store import MemoryElection, MemoryLeaseStore

TRUSTED_SECONDS = 9.0  # of a lease of ten


class Hand:
    """A clock that goes when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Pair:
    """Two replicas of one election, stepped by hand."""

    def __init__(self) -> None:
        self.clock = Hand()
        self.election = MemoryElection(self.clock.monotonic, 10.0)
        self.one = self.elector("one")
        self.other = self.elector("other")

    def elector(self, name: str) -> Elector:
        return Elector(MemoryLeaseStore(self.election), instance_id=name, lock_id=7, clock=self.clock)

    def elect(self) -> Elector:
        """Let the first lead and the second know."""
        self.one.step()
        self.other.step()
        assert self.one.is_leader()
        return self.one


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_on_the_leader_the_function_is_called_and_its_result_returned(pair: Pair) -> None:
    @leader_only(pair.elect())
    def add(one: int, two: int = 2) -> int:
        """Add."""
        return one + two

    assert add(1) == 3
    assert add(1, two=5) == 6
    assert (add.__name__, add.__doc__) == ("add", "Add.")


def test_on_a_standby_it_is_not_called_and_the_error_says_who_leads(pair: Pair) -> None:
    leader, called = pair.elect(), []

    @leader_only(pair.other)
    def prune() -> None:
        called.append("prune")

    with pytest.raises(NotLeaderError) as caught:
        prune()
    assert called == []
    lease = leader.current()
    assert lease is not None
    assert (caught.value.lock_id, caught.value.leader_id, caught.value.term) == (7, lease.leader_id, lease.term)
    assert str(caught.value).endswith(
        f"prune is for the leader alone, and {pair.other.instance_id} does not lead election 7: "
        f"{lease.leader_id} does, in term {lease.term}"
    )


@pytest.mark.parametrize("value", [None, 0, "nothing done", print])
def test_on_a_standby_otherwise_is_returned_as_it_stands(pair: Pair, value: Any) -> None:
    pair.elect()

    def work() -> str:
        return "done"

    async def work_async() -> str:
        return "done"

    assert leader_only(pair.other, otherwise=value)(work)() is value
    assert asyncio.run(leader_only(pair.other, otherwise=value)(work_async)()) is value
    assert leader_only(pair.one, otherwise=value)(work)() == "done"
    assert asyncio.run(leader_only(pair.one, otherwise=value)(work_async)()) == "done"


def test_it_is_asked_at_each_call_and_trust_runs_out_by_itself(pair: Pair) -> None:
    work = leader_only(pair.elect())(lambda: "done")
    pair.clock.now += TRUSTED_SECONDS - 0.001
    assert work() == "done"
    pair.clock.now += 0.001
    with pytest.raises(NotLeaderError, match="its lease is over"):
        work()
    pair.one.step()
    pair.one.step()
    assert work() == "done"


def test_a_coroutine_function_stays_one_and_is_asked_when_it_is_awaited(pair: Pair) -> None:
    @leader_only(pair.elect())
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        return number

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(work(3)) == 3
    begun_later = work(4)
    pair.one.release()
    with pytest.raises(NotLeaderError):
        asyncio.run(begun_later)


def test_what_the_function_raises_passes_through_even_an_error_like_ours(pair: Pair) -> None:
    @leader_only(pair.elect(), otherwise="standby")
    def fail(error: Exception) -> str:
        raise error

    @leader_only(pair.elect(), otherwise="standby")
    async def fail_async(error: Exception) -> str:
        raise error

    for error in (ValueError("no"), NotLeaderError("another election's"), StoreUnavailable("away")):
        with pytest.raises(type(error), match=str(error)):
            fail(error)
        with pytest.raises(type(error), match=str(error)):
            asyncio.run(fail_async(error))


def test_the_function_learns_its_term_by_requiring_the_lease(pair: Pair) -> None:
    @leader_only(pair.elect())
    def write() -> int:
        return pair.one.require().term

    lease = pair.one.current()
    assert lease is not None
    assert write() == lease.term


def test_work_that_outlives_its_lease_is_told_so_where_it_requires_it(pair: Pair) -> None:
    @leader_only(pair.elect())
    def write() -> None:
        pair.clock.now += TRUSTED_SECONDS
        pair.one.require("the second half")

    with pytest.raises(NotLeaderError, match="the second half is for the leader alone"):
        write()


def test_methods_and_other_callables_are_wrapped_too(pair: Pair) -> None:
    elector = pair.elect()

    class Books:
        kept = "kept"

        @leader_only(elector)
        def own(self) -> str:
            return self.kept

        @classmethod
        @leader_only(elector)
        def of_class(cls) -> str:
            return cls.kept

        @staticmethod
        @leader_only(elector)
        def static() -> str:
            return "static"

        def __call__(self) -> str:
            return "called"

    assert (Books().own(), Books.of_class(), Books.static()) == ("kept", "kept", "static")
    assert leader_only(elector)(Books())() == "called"
    assert leader_only(elector)(functools.partial(max, 1))(2) == 2
    pair.one.release()
    for function in (Books().own, Books.of_class, Books.static, leader_only(elector)(Books())):
        with pytest.raises(NotLeaderError):
            function()


def numbers() -> Iterator[int]:
    yield 1


async def numbers_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (numbers, "numbers is a generator function: its body runs when somebody iterates"),
        (numbers_async, "numbers_async is a generator function"),
        (functools.partial(numbers), "is a generator function"),
        (Pair, "Pair is a class: put leader_only on those of its methods"),
        (staticmethod(numbers), "write @staticmethod above @leader_only"),
        (classmethod(numbers), "write @classmethod above @leader_only"),
        (3, "3 cannot be called"),
    ],
)
def test_what_runs_later_than_it_is_called_is_refused(pair: Pair, function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        leader_only(pair.one)(function)


@pytest.mark.parametrize("elector", [print, Elector, None])
def test_whoever_forgets_the_elector_is_told_how_to_write_it(elector: Any) -> None:
    with pytest.raises(TypeError, match=r"@leader_only\(elector\), not "):
        leader_only(elector)


def test_the_error_says_why_there_is_no_leader(pair: Pair) -> None:
    def why(elector: Elector) -> str:
        with pytest.raises(NotLeaderError) as caught:
            elector.require()
        assert caught.value.leader_id is None
        return str(caught.value).partition("election 7: ")[2]

    assert why(pair.one) == "the elector was not started"
    pair.elect()
    pair.one.release()
    assert why(pair.one) == "its lease is over"
    pair.one.stop()
    assert why(pair.one) == "the elector was stopped"


def test_the_error_says_that_the_database_does_not_answer(pair: Pair) -> None:
    class Away(MemoryLeaseStore):
        def renew(self, term: int, leader_id: str) -> Any:
            raise StoreUnavailable("no route to host")

    elector = Elector(Away(pair.election), lock_id=7, clock=pair.clock)
    elector.step()
    assert elector.is_leader()
    elector.step()
    with pytest.raises(NotLeaderError, match="no route to host"):
        elector.require()


def test_the_error_survives_the_way_to_another_process() -> None:
    error = NotLeaderError("prune is for the leader alone", lock_id=7, leader_id="web-1", term=12)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.lock_id, copy.leader_id, copy.term) == (str(error), 7, "web-1", 12)
