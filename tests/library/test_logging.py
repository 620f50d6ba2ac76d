"""What a program sees of the election in Python's logging: nothing, or what it asked for."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from scheduler_service import Elector
from scheduler_service.database import Database
from scheduler_service.elector.journal import LIMIT, Journal
from scheduler_service.events import Events
from tests.electors import Heard, wait_until


class Kept(logging.Handler):
    """Keeps records; may be made to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.threads: set[str] = set()
        self.go_on = threading.Event()
        self.go_on.set()

    def emit(self, record: logging.LogRecord) -> None:
        self.go_on.wait(60)
        self.threads.add(threading.current_thread().name)
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger = logging.getLogger("test.election")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield handler
    handler.go_on.set()
    logger.removeHandler(handler)


LOGGER = logging.getLogger("test.election")


def test_a_logger_is_told_who_leads_on_a_thread_of_its_own(database: Database, kept: Kept) -> None:
    with Elector(database, lock_id=7, instance_id="web-1", logger=LOGGER) as elector:
        lease = elector.wait_elected(20)
        assert lease is not None
    elected, released = kept.records
    assert elected.getMessage() == (
        f"leader_elected term={lease.term} lock_id=7 how=free crash_detection=false instance={elector.instance_id}"
    )
    assert (elected.levelno, elected.name) == (logging.INFO, "test.election")
    assert vars(elected)["event"] == "leader_elected"
    assert vars(elected)["fields"]["term"] == lease.term
    assert released.getMessage().startswith(f"leadership_released term={lease.term} reason=released")
    assert kept.threads == {"journal"}


def test_a_handler_that_hangs_holds_no_renewal_up(database: Database, kept: Kept) -> None:
    LOGGER.setLevel(logging.DEBUG)
    kept.go_on.clear()
    told: list[object] = []
    with Elector(database, logger=LOGGER, announce=told.append, renewal_interval=0.05, jitter_range=0) as elector:
        first = elector.wait_elected(20)
        assert first is not None
        seen = elector.current()
        for _ in range(3):
            wait_until(lambda seen=seen: elector.current() not in (None, seen), what="a renewal")  # type: ignore[misc]
            seen = elector.current()
        assert kept.records == []
        kept.go_on.set()
    assert kept.lines[0].startswith("leader_elected")
    assert kept.lines[-1].startswith("leadership_released")


def test_when_nobody_takes_them_events_are_dropped_counted_and_told(kept: Kept) -> None:
    events, kept_back = Events(instance="web-1"), LIMIT + 50
    journal = Journal(LOGGER, events)
    kept.go_on.clear()
    for _ in range(kept_back):
        events.emit("resign_requested", term=1)
    kept.go_on.set()
    journal.stop(30)
    shown = [line for line in kept.lines if line.startswith("resign_requested")]
    (dropped,) = (record for record in kept.records if record.getMessage().startswith("events_dropped"))
    assert dropped.levelno == logging.WARNING
    assert len(shown) + vars(dropped)["fields"]["count"] == kept_back


def test_a_line_cannot_be_forged_and_shows_no_password(kept: Kept) -> None:
    events = Events()
    journal = Journal(LOGGER, events)
    error = "cannot reach postgresql://user:secret@host/name\nleader_elected term=1 \x1b[2J"
    events.emit("store_unavailable", part="elector", error=error)
    journal.stop(30)
    (line,) = kept.lines
    assert line == (
        'store_unavailable part=elector error="cannot reach postgresql://user:***@host/name'
        '\\nleader_elected term=1 \\u001b[2J"'
    )


def test_a_filter_that_raises_costs_its_line_alone(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    class Fails(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.getMessage().endswith("term=1"):
                raise RuntimeError("a mistake in a filter")
            return True

    events, fails = Events(), Fails()
    journal = Journal(LOGGER, events)
    LOGGER.addFilter(fails)
    try:
        events.emit("resign_requested", term=1)
        events.emit("resign_requested", term=2)
        journal.stop(30)
    finally:
        LOGGER.removeFilter(fails)
    assert kept.lines == ["resign_requested term=2"]
    assert "a mistake in a filter" in capsys.readouterr().err


def test_a_logger_and_a_stream_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="a logger or events, not both"):
        Elector("sqlite:///election.db", logger=LOGGER, events=Events())


def test_by_default_nothing_is_printed_and_no_handler_installed(migrated_sqlite_url: str) -> None:
    program = """
import logging, sys
from scheduler_service import Elector, leader_only
before = dict(logging.root.manager.loggerDict)
with Elector(sys.argv[1]) as elector:
    elector.add_listener(on_elected=lambda lease: 1 / 0)
    assert elector.wait_elected(20)
assert logging.getLogger().handlers == []
assert not logging.getLogger("scheduler_service").handlers
assert logging.getLogger().level == logging.WARNING
with Elector("sqlite:////not/there.db") as elector:
    elector.wait_elected(0.3)
    assert "does not exist" in elector.problem, elector.problem
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, migrated_sqlite_url],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_events_are_a_stream_that_several_electors_may_share(database: Database) -> None:
    heard = Heard()
    with Elector(database, lock_id=1, events=heard.events), Elector(database, lock_id=2, events=heard.events):
        instances = {heard.wait("leader_elected", lock_id=number).fields["instance"] for number in (1, 2)}
    assert len(instances) == 2
