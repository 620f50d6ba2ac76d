"""Databases for tests, fresh for each, and a word on what a run left out."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler_service import tables
from scheduler_service.database import Database
from tests.forked import fork_from_now_on
from tests.servers import PostgresServer, SharedServer, find_server
from tests.story import Story

pytest_plugins = ["pytester"]  # for tests/testing; pytest takes it from the outermost conftest alone

_server = pytest.StashKey[SharedServer]()
_left_out = pytest.StashKey[dict[str, int]]()
_heard = pytest.StashKey[list[str]]()
_ASKED_FOR = {"long": "they take minutes"}  # markers of tests that run only when -m names them
# markers of tests that need programs: what to install, and the programs, of which one of each line must be there
_NEEDED = {
    "promtool": ("apt-get install prometheus", (("promtool",),)),
    "pgbouncer": ("apt-get install pgbouncer", (("pgbouncer",),)),
    "browser": ("apt-get install chromium chromium-driver", (("chromium", "google-chrome"), ("chromedriver",))),
}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what the collection makes, which lives as long as the run, out of every search for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what must be asked for, and what needs a program that is not here."""
    left_out = config.stash.setdefault(_left_out, {})
    named = config.option.markexpr
    for marker in _ASKED_FOR:
        chosen = [item for item in items if item.get_closest_marker(marker)]
        if chosen and marker not in named:
            left_out[marker] = len(chosen)
            config.hook.pytest_deselected(items=chosen)
            items[:] = [item for item in items if not item.get_closest_marker(marker)]
    for marker, (_, programs) in _NEEDED.items():
        chosen = [item for item in items if item.get_closest_marker(marker)]
        if chosen and not all(any(map(shutil.which, names)) for names in programs):
            left_out[marker] = len(chosen)
            config.hook.pytest_deselected(items=chosen)
            items[:] = [item for item in items if not item.get_closest_marker(marker)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start replicas as people do in tests that may take their time, and sooner in all others."""
    fork_from_now_on(item.get_closest_marker("long") is None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the words of this process to the one that prints, where several share the tests."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["notes"] = _notes(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the words of another process."""
    heard = node.config.stash.setdefault(_heard, [])
    heard += [note for note in getattr(node, "workeroutput", {}).get("notes", []) if note not in heard]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which PostgreSQL was used and what was left out."""
    for line in config.stash.get(_heard, None) or _notes(config):
        terminalreporter.write_line(line)


def _notes(config: pytest.Config) -> list[str]:
    notes = []
    if server := config.stash.get(_server, None):
        notes.append(f"PostgreSQL: {server.description}")
        notes += [f"  not {note}" for note in server.notes]
    for marker, count in config.stash.get(_left_out, {}).items():
        if marker in _ASKED_FOR:
            why = f"marked {marker}, because {_ASKED_FOR[marker]}; run them with -m {marker}"
        else:
            install, programs = _NEEDED[marker]
            missing = ", ".join(names[0] for names in programs if not any(map(shutil.which, names)))
            why = f"marked {marker}, because there is no {missing}; on Debian: {install}"
        notes.append(f"left out: {count} tests {why}")
    return notes


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[SharedServer]:
    """The server of this test run; no test may hurt it."""
    server = find_server()
    pytestconfig.stash[_server] = server
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres_server: SharedServer) -> Iterator[str]:
    """The URL of an empty database of its own."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: SharedServer) -> Iterator[str]:
    """The name of a database that has our tables, to make others from."""
    with postgres_server.database() as url:
        _make_tables(url)
        yield url.rpartition("/")[2].partition("?")[0]


@pytest.fixture
def migrated_postgres_url(postgres_server: SharedServer, postgres_template: str) -> Iterator[str]:
    """The URL of a database of its own that has our tables."""
    with postgres_server.database(postgres_template) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a file that is not there yet."""
    return f"sqlite:///{tmp_path / 'scheduler.db'}"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that has our tables, to copy."""
    path = tmp_path_factory.mktemp("template") / "scheduler.db"
    _make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture
def migrated_sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """The URL of a file of its own that has our tables."""
    shutil.copy(sqlite_template, tmp_path / "scheduler.db")
    return f"sqlite:///{tmp_path / 'scheduler.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that has our tables: once SQLite, once PostgreSQL."""
    name = "migrated_sqlite_url" if request.param == "sqlite" else "migrated_postgres_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    """A database that has our tables: once SQLite, once PostgreSQL."""
    database = Database(store_url)
    yield database
    database.dispose()


@pytest.fixture
def story(store_url: str) -> Iterator[Story]:
    """A ledger to tell a story in: once SQLite, once PostgreSQL."""
    database = Database(store_url)
    yield Story(database, store_url)
    database.dispose()


@pytest.fixture
def sqlite_story(migrated_sqlite_url: str) -> Iterator[Story]:
    """The same, on SQLite alone."""
    database = Database(migrated_sqlite_url)
    yield Story(database, migrated_sqlite_url)
    database.dispose()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that this test alone uses and may hurt, running."""
    with PostgresServer() as server:
        yield server


def _make_tables(url: str) -> None:
    database = Database(url)
    tables.upgrade(database)
    database.dispose()
