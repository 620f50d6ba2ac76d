"""The public names as a type checker sees them.  Nobody runs this file: mypy reads it.

Each `type: ignore` is a mistake that must be found; one that is not found is an error of its own.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import assert_type

from scheduler_service import Elector, Lease, NotLeaderError, leader_only
from scheduler_service.database import Database

elector = Elector("sqlite:///election.db", lock_id=7, lease_duration=timedelta(seconds=10), renewal_interval=3)
Elector(Database("sqlite:///election.db"), logger=logging.getLogger("election"))
Elector("sqlite:///election.db", lock_id="seven")  # type: ignore[arg-type]
Elector("sqlite:///election.db", lease_duration="10s")  # type: ignore[arg-type]
Elector("sqlite:///election.db", 7)  # type: ignore[call-arg]


# A decorated function keeps its signature


@leader_only(elector)
def count(folder: str, *, days: int = 30) -> int:
    """Take a text, and a number by name."""
    return len(folder) + days


assert_type(count("a", days=3), int)
count()  # type: ignore[call-arg]
count("a", 3)  # type: ignore[call-arg]
count(1)  # type: ignore[arg-type]


@leader_only(elector)
async def count_async(folder: str) -> int:
    """Take a text."""
    return len(folder)


# `otherwise` adds its type to the result


@leader_only(elector, otherwise=None)
def maybe(folder: str) -> int:
    """Take a text."""
    return len(folder)


assert_type(maybe("a"), int | None)
maybe("a") + 1  # type: ignore[operator]
maybe()  # type: ignore[call-arg]


@leader_only(elector, otherwise=None)
async def maybe_async(folder: str) -> int:
    """Take a text."""
    return len(folder)


async def waits() -> None:
    """Await what the coroutine functions give."""
    assert_type(await count_async("a"), int)
    await count_async()  # type: ignore[call-arg]
    count_async("a")  # type: ignore[unused-coroutine]
    assert_type(await maybe_async("a"), int | None)
    assert_type(await elector.wait_elected_async(1.0), Lease | None)
    async with Elector("sqlite:///election.db") as entered:
        assert_type(entered, Elector)


class Books:
    """Methods are functions of their object."""

    @leader_only(elector)
    def balance(self, year: int) -> float:
        """Take a year."""
        return float(year)


assert_type(Books().balance(2026), float)
Books().balance("2026")  # type: ignore[arg-type]

leader_only(count)  # type: ignore[call-overload]
leader_only(elector, "none")  # type: ignore[call-overload]


# Listeners


@elector.on_elected
def begin(lease: Lease) -> None:
    """Take the lease."""


@elector.on_elected
async def begin_async(lease: Lease) -> None:
    """Take the lease."""


@elector.on_lost
def end(lease: Lease, reason: str) -> None:
    """Take the lease and why it ended."""


begin(3)  # type: ignore[arg-type]
elector.add_listener(on_elected=begin, on_lost=end)
elector.add_listener(on_elected=end)  # type: ignore[arg-type]
elector.on_lost(begin)  # type: ignore[type-var]


# What may be asked

with elector as entered:
    assert_type(entered, Elector)
assert_type(elector.current(), Lease | None)
assert_type(elector.require().term, int)
assert_type(elector.wait_elected(timeout_seconds=1.0), Lease | None)
elector.wait_elected()  # type: ignore[call-arg]


def who_leads(error: NotLeaderError) -> tuple[str | None, int | None]:
    """Take it from the error."""
    return error.leader_id, error.term
