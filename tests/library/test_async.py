"""An elector in a program with an event loop: nothing it does may hold the loop up."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from scheduler_service import Elector, NotLeaderError, leader_only
from scheduler_service.database import Database
from scheduler_service.model import Lease
from tests.electors import Heard, wait_until
from tests.relay import Relay

QUICK: dict[str, Any] = {"renewal_interval": 0.2, "jitter_range": 0.1}
IMPATIENT: dict[str, Any] = {**QUICK, "attempt_timeout": 0.5}
PATIENCE_SECONDS = 20.0


class Ticking:
    """Counts how often the event loop comes round, while something else is awaited."""

    def __init__(self) -> None:
        self.count = 0

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Ticking]:
        task = asyncio.create_task(self._tick())
        try:
            yield self
        finally:
            task.cancel()

    async def _tick(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0.001)

    async def further(self, ticks: int) -> None:
        """Wait until the loop has come round so many times more."""
        reached = self.count + ticks
        while self.count < reached:
            await asyncio.sleep(0.001)


def threads() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name in ("elector", "guard", "listeners", "journal") and thread.is_alive()
    ]


def test_an_elector_leads_in_its_async_block_and_gives_the_lease_back_at_its_end(database: Database) -> None:
    heard = Heard()

    async def program() -> None:
        async with Elector(database, events=heard.events) as elector:
            lease = await elector.wait_elected_async(PATIENCE_SECONDS)
            assert lease is not None
            assert lease.term == elector.require().term
        assert not elector.is_leader()

    asyncio.run(program())
    assert heard.names[-1] == "leadership_released"
    assert threads() == []


def test_an_error_in_the_block_passes_through_and_the_lease_is_given_back(database: Database) -> None:
    heard = Heard()

    async def program() -> None:
        async with Elector(database, events=heard.events) as elector:
            await elector.wait_elected_async(PATIENCE_SECONDS)
            raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        asyncio.run(program())
    assert heard.names[-1] == "leadership_released"


def test_starting_and_stopping_hold_no_loop_up_though_the_database_hangs(migrated_postgres_url: str) -> None:
    heard = Heard()

    async def program(relay: Relay) -> None:
        ticking = Ticking()
        async with ticking.beside():
            relay.stall()
            elector = Elector(relay.url, events=heard.events, **IMPATIENT)
            entering = asyncio.create_task(elector.__aenter__())
            await ticking.further(300)
            assert entering.done()
            assert await elector.wait_elected_async(0.05) is None
            relay.heal()
            assert await elector.wait_elected_async(PATIENCE_SECONDS) is not None
            relay.stall()
            leaving = asyncio.create_task(elector.__aexit__())
            await ticking.further(300)
            assert not elector.is_leader()
            assert not leaving.done()  # it goes on asking the database to take the lease back
            await asyncio.wait_for(leaving, PATIENCE_SECONDS)

    with Relay(migrated_postgres_url) as relay:
        asyncio.run(program(relay))
        wait_until(lambda: threads() == [], what="the end of a thread that was just connecting")


def test_trust_ends_at_once_though_the_loops_threads_are_all_busy(database: Database) -> None:
    heard, go_on = Heard(), threading.Event()

    async def program() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(1)
        loop.set_default_executor(pool)
        elector = Elector(database, events=heard.events)
        await elector.__aenter__()
        await elector.wait_elected_async(PATIENCE_SECONDS)
        busy = loop.run_in_executor(None, go_on.wait, 60)
        leaving = asyncio.create_task(elector.__aexit__())
        with ThreadPoolExecutor(1) as another:
            await asyncio.wrap_future(another.submit(heard.wait, "leadership_released"))
        assert not leaving.done()
        go_on.set()
        await asyncio.gather(busy, leaving)

    asyncio.run(program())


def test_a_cancelled_program_gives_the_lease_back(database: Database) -> None:
    heard = Heard()

    async def program() -> None:
        async with Elector(database, events=heard.events) as elector:
            await elector.wait_elected_async(PATIENCE_SECONDS)
            leading.set()
            await asyncio.Event().wait()

    async def all_of_it() -> None:
        task = asyncio.create_task(program())
        await leading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    leading = asyncio.Event()
    asyncio.run(all_of_it())
    assert heard.names[-1] == "leadership_released"
    assert threads() == []


def test_a_coroutine_that_waits_may_be_cancelled_and_leaves_nothing_behind(database: Database) -> None:
    async def program() -> None:
        leader, standby = Elector(database), Elector(database)
        async with leader:
            await leader.wait_elected_async(PATIENCE_SECONDS)
            await standby.__aenter__()
            waiting = asyncio.create_task(standby.wait_elected_async(60))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert standby._waiting._futures == set()
            waiting = asyncio.create_task(standby.wait_elected_async(60))
            await asyncio.sleep(0)
            await standby.__aexit__()
            assert await waiting is None

    asyncio.run(program())


def test_coroutine_listeners_run_on_the_loop_in_order_while_it_goes_on(database: Database) -> None:
    heard: list[Any] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()
        elector = Elector(database, **QUICK)

        @elector.on_elected
        async def begin(lease: Lease) -> None:
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0.01)
            heard.append(("begin", lease.term))

        @elector.on_elected
        def note(lease: Lease) -> None:
            heard.append(("note", lease.term))

        @elector.on_lost
        async def end(lease: Lease, reason: str) -> None:
            await asyncio.sleep(0.01)
            heard.append(("end", lease.term, reason))
            ended.set()

        ended = asyncio.Event()
        async with elector:
            first = await elector.wait_elected_async(PATIENCE_SECONDS)
            elector.release("once")
            await ended.wait()
            second = await elector.wait_elected_async(PATIENCE_SECONDS)
        assert first is not None
        assert second is not None
        assert heard == [
            *(("begin", first.term), ("note", first.term), ("end", first.term, "once")),
            *(("begin", second.term), ("note", second.term), ("end", second.term, "released")),
        ]

    asyncio.run(program())


def test_a_coroutine_listener_that_fails_is_called_again_and_then_costs_the_term(database: Database) -> None:
    heard = Heard()

    async def program() -> None:
        elector = Elector(database, events=heard.events, renewal_interval=3)

        @elector.on_elected
        async def begin(lease: Lease) -> None:
            raise OSError("the port is taken")

        async with elector:
            await asyncio.to_thread(heard.wait, "leadership_released", reason="listener_failed")

    asyncio.run(program())
    assert len(heard.all("listener_failed", error="OSError: the port is taken", term=1)) == 3


def test_a_coroutine_listener_that_never_returns_is_cancelled_when_stopping_gives_up(database: Database) -> None:
    cancelled: list[str] = []
    heard = Heard()

    async def program() -> None:
        elector, called = Elector(database, events=heard.events), asyncio.Event()

        @elector.on_elected
        async def work_for_ever(lease: Lease) -> None:
            called.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append("on_elected")
                raise

        ended = asyncio.Event()

        @elector.on_lost
        async def end(lease: Lease, reason: str) -> None:
            ended.set()

        await elector.__aenter__()
        await called.wait()
        await asyncio.to_thread(elector.stop, 0.2)
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)
        assert not elector.is_leader()

    asyncio.run(program())
    assert cancelled == ["on_elected"]


def test_a_loop_that_ended_without_leaving_the_block_costs_the_coroutine_and_leaks_none(database: Database) -> None:
    heard = Heard()
    elector = Elector(database, events=heard.events, **QUICK)

    @elector.on_lost
    async def end(lease: Lease, reason: str) -> None:
        raise AssertionError("its loop is closed")

    async def program() -> None:
        await elector.__aenter__()
        await elector.wait_elected_async(PATIENCE_SECONDS)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(program())
        assert elector.is_leader()
        elector.stop()
        gc.collect()
    assert "there is no event loop" in heard.all("listener_failed")[0].fields["error"]


def test_a_restricted_coroutine_runs_on_the_leader_alone(database: Database) -> None:
    async def program() -> None:
        async with Elector(database, **QUICK) as leader:
            await leader.wait_elected_async(PATIENCE_SECONDS)
            async with Elector(database, **QUICK) as standby:

                async def work(number: int) -> int:
                    return number

                assert await leader_only(leader)(work)(3) == 3
                with pytest.raises(NotLeaderError):
                    await leader_only(standby)(work)(3)
                await leader.__aexit__()
                await standby.wait_elected_async(PATIENCE_SECONDS)
                assert await leader_only(standby)(work)(4) == 4
                with pytest.raises(NotLeaderError, match="the elector was stopped"):
                    await leader_only(leader)(work)(3)

    asyncio.run(program())
