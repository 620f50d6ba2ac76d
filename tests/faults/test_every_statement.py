"""Each statement of the service fails once, before it is sent or after it committed, and nothing goes wrong.

One pass is a short life of two replicas and of the commands that people type.  After it, schedule, ledger and side
effects must agree, whatever broke in it:

    quick   every statement when it is sent first, all in one pass
    long    every statement when it is sent for the second time, the third, … until a pass meets no fault;
            and every statement alone

The tables are made by one thread alone, so there the first statement breaks, then the second, … in turn.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scheduler_service import tables
from scheduler_service.cli import commands
from scheduler_service.database import Database
from tests.faults.breaking import Breaker, BreakingRelay, Moment, breaking_sqlite
from tests.faults.evidence import Books
from tests.faults.short_life import NO_DATABASE, ShortLife

SENDERS = {
    "postgresql": {"scheduler-service", "scheduler-service elector", "scheduler-service guard"}
    | {"scheduler-service command"},
    "sqlite": {"elector", "dispatcher", "results", "housekeeping", "watch", "sign_out", "MainThread"},
}
ASKED_FOR_AGAIN = 3  # passes in which a statement need not come that depends on what is slow

Place = tuple[Path, str]  # a folder and a database of its own

each_moment = pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())


@contextlib.contextmanager
def breaking(url: str, breaker: Breaker) -> Iterator[str]:
    """Lend a way to the database on which the chosen statements break."""
    if url.startswith("sqlite"):
        with breaking_sqlite(breaker):
            yield url
    else:
        with BreakingRelay(url, breaker) as relay:
            yield relay.url


def live(folder: Path, url: str, breaker: Breaker) -> None:
    """Live one short life; AssertionError, which says what was broken, if anything is wrong after it."""
    with breaking(url, breaker) as way:
        life = ShortLife(folder, way, Books(url))
        try:
            life.live()
        except BaseException as error:
            error.add_note(f"broken: {breaker.broken}")
            with contextlib.suppress(AssertionError):
                life.drain()
            raise
    problems = life.problems()
    assert not problems, "\n".join([*problems, f"broken: {breaker.broken}"])


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Iterator[Place]]:
    """One place after another, each with tables that are empty."""

    def make() -> Iterator[Place]:
        for number in itertools.count():
            folder = tmp_path / str(number)
            folder.mkdir()
            if request.param == "sqlite":
                shutil.copy(request.getfixturevalue("sqlite_template"), folder / "scheduler.db")
                yield folder, f"sqlite:///{folder / 'scheduler.db'}"
            else:
                server = request.getfixturevalue("postgres_server")
                with server.database(request.getfixturevalue("postgres_template")) as url:
                    yield folder, url

    made = make()
    yield made
    made.close()


@each_moment
def test_each_statement_fails_when_it_is_first_sent(tmp_path: Path, store_url: str, moment: Moment) -> None:
    breaker = Breaker(moment, lambda _, number: number == 1)
    live(tmp_path, store_url, breaker)
    assert breaker.sent.keys() == {said for said, _ in breaker.broken}
    missing = SENDERS[store_url.partition(":")[0]] - {said.partition(":")[0] for said in breaker.sent}
    assert not missing, f"nothing was heard of {missing}"


@pytest.mark.long
@each_moment
def test_each_statement_fails_when_it_is_sent_for_the_nth_time(places: Iterator[Place], moment: Moment) -> None:
    for number in itertools.count(2):
        breaker = Breaker(moment, lambda _, count, number=number: count == number)
        live(*next(places), breaker)
        print(f"{moment}, time {number}: {len(breaker.broken)} of {len(breaker.sent)} statements")
        if not breaker.broken:
            return


@pytest.mark.long
@each_moment
def test_each_statement_fails_alone(places: Iterator[Place], moment: Moment) -> None:
    broken: Counter[str] = Counter()
    passes: Counter[str] = Counter()
    todo = {""}  # nothing, which tells what there is
    while todo:
        chosen = min(todo)
        breaker = Breaker(moment, lambda said, count, chosen=chosen: said == chosen and count == 1)
        live(*next(places), breaker)
        passes[chosen] += 1
        broken[chosen] += len(breaker.broken)
        todo = {
            said
            for said in todo | breaker.sent.keys()
            if not passes[said] or (said and not broken[said] and passes[said] < ASKED_FOR_AGAIN)
        }
    print(f"{moment}: {passes.total()} passes, {len(broken)} statements")
    print("\n".join(f"not sent again: {said}" for said in broken if said and not broken[said]))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Iterator[str]]:
    """One database after another that has no tables."""

    def make() -> Iterator[str]:
        for number in itertools.count():
            if request.param == "sqlite":
                yield f"sqlite:///{tmp_path / f'{number}.db'}"
            else:
                with request.getfixturevalue("postgres_server").database() as url:
                    yield url

    made = make()
    yield made
    made.close()


@each_moment
def test_each_statement_that_makes_the_tables_fails(empty_databases: Iterator[str], moment: Moment) -> None:
    _make_tables_while_each_breaks(empty_databases, moment, step=17)


@pytest.mark.long
@each_moment
def test_every_single_one_of_them_fails(empty_databases: Iterator[str], moment: Moment) -> None:
    _make_tables_while_each_breaks(empty_databases, moment, step=1)


def _make_tables_while_each_breaks(databases: Iterator[str], moment: Moment, step: int) -> None:
    """Break the first statement, then the one that comes `step` later, … until a pass meets no fault."""
    for number in itertools.count(1, step):
        counted = itertools.count(1)
        breaker = Breaker(moment, lambda _, __, counted=counted, number=number: next(counted) == number)
        url = next(databases)
        with breaking(url, breaker) as way:
            code = _upgrade(way)
            assert code in (0, NO_DATABASE)
            if code:
                assert _upgrade(way) == 0, f"not made after {breaker.broken} broke"
        database = Database(url)
        assert tables.check(database) == [], breaker.broken
        database.dispose()
        if not breaker.broken:
            assert number > step, "there are more statements than that"
            return


def _upgrade(url: str) -> int:
    try:
        return commands.main(["db", "upgrade", "--database", url], standalone_mode=False) or 0
    except click.ClickException as error:
        return error.exit_code
