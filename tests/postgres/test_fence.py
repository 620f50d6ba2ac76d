"""The fence (I4): nothing of a term commits after the takeover that ended it.

Each story is the same: a leader's statement has looked at its lease and is parked before it writes, the lease
expires, and another replica takes over.  The right fence makes the takeover wait for the statement.  The three
wrong ones of the design are shown to fail, so that these stories can tell right from wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from scheduler_service.database import Database
from scheduler_service.leases import Acquired, LeaseStore, open_store
from scheduler_service.leases.postgresql import FENCE
from tests.electors import wait_until

RIGHT = FENCE
EXISTS = "select cast(:term as bigint) as term where exists (" + FENCE.replace("for key share", "") + ")"
SHARE = FENCE.replace("for key share", "for share")

PARK = 4711  # the advisory lock on which a statement is parked
LEADER, SUCCESSOR = "leader-aaaaaa", "successor-bbbbbb"


class Story:
    """A leader of term 1, its session for fenced writes, and a successor."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, attempt_seconds=10)
        self.url = url
        self.director = psycopg.connect(url, autocommit=True)
        self.director.execute("create table written (term bigint)")
        self.writer = psycopg.connect(url, autocommit=True)
        self.leader = self.store()
        self.successor = self.store()
        self.threads = ThreadPoolExecutor(4)
        acquired = self.leader.acquire(LEADER)
        assert acquired is not None
        self.term = acquired.term
        self.successor.observe()  # so that it has its session

    def store(self) -> LeaseStore:
        return open_store(self.database, lock_id=1, lease_seconds=30.0, attempt_seconds=10.0, guarded=False)

    def write(self, fence: str) -> Future[int]:
        """Begin a fenced write; it returns how many rows it wrote."""
        token = {"id": 1, "term": self.term, "me": LEADER}
        select = fence.format(prefix="scheduler.")
        for name in token:
            select = select.replace(f":{name}", f"%({name})s")
        statement = f"""
          with fence as materialized ({select}),
          parked as materialized (select term, pg_advisory_xact_lock({PARK}) from fence)
          insert into written (term) select term from parked"""
        return self.threads.submit(lambda: self.writer.execute(statement, token).rowcount)

    def park(self) -> None:
        self.director.execute(f"select pg_advisory_lock({PARK})")

    def unpark(self) -> None:
        self.director.execute(f"select pg_advisory_unlock({PARK})")

    def wait_until_parked(self) -> None:
        self.wait_until_waiting(self.writer.info.backend_pid, on=self.director.info.backend_pid)

    def wait_until_waiting(self, pid: int, *, on: int, asked: Future[Any] | None = None) -> None:
        """Wait until process `pid` waits for `on`; what was asked of it must not be answered before."""

        def waits_or_is_over() -> bool:
            over = asked is not None and asked.done()
            return over or on in self.value("select pg_blocking_pids(%s)", pid)

        wait_until(waits_or_is_over, what=f"{pid} waits for {on}")
        assert asked is None or not asked.done(), f"{pid} waited for nobody"

    def value(self, statement: str, *parameters: Any) -> Any:
        row = self.director.execute(statement, parameters).fetchone()
        return row[0] if row is not None else None

    def expire(self) -> None:
        self.director.execute(
            "update scheduler.leader_lease set created_at = created_at - interval '1 hour', "
            "expires_at = clock_timestamp() - interval '1 millisecond'"
        )

    def take_over(self) -> Future[Acquired | None]:
        return self.threads.submit(self.successor.acquire, SUCCESSOR)

    def pid(self, store: LeaseStore) -> int:
        session = store._session  # type: ignore[attr-defined]
        pid: int = session.connection.backend_pid
        return pid

    def written(self) -> int:
        """Return how many rows are committed."""
        count: int = self.value("select count(*) from written")
        return count

    def close(self) -> None:
        self.director.close()  # which lets go of whatever is parked
        self.threads.shutdown()
        self.writer.close()
        self.leader.close()
        self.successor.close()


@pytest.fixture
def story(migrated_postgres_url: str) -> Iterator[Story]:
    story = Story(migrated_postgres_url)
    yield story
    story.close()


def test_a_takeover_waits_for_the_fenced_statement_and_nothing_is_written_after_it(story: Story) -> None:
    story.park()
    writing = story.write(RIGHT)
    story.wait_until_parked()
    story.expire()
    taking_over = story.take_over()
    story.wait_until_waiting(story.pid(story.successor), on=story.writer.info.backend_pid, asked=taking_over)
    story.unpark()
    assert writing.result(10) == 1
    acquired = taking_over.result(10)
    assert acquired is not None
    assert acquired.term > story.term
    assert story.written() == 1  # before the takeover was
    assert story.write(RIGHT).result(10) == 0


def test_a_fenced_statement_waits_for_the_takeover_and_writes_nothing(story: Story) -> None:
    takeover = psycopg.connect(story.url)
    takeover.execute("update scheduler.leader_lease set term = term + 1, leader_id = %s", [SUCCESSOR])
    writing = story.write(RIGHT)
    story.wait_until_waiting(story.writer.info.backend_pid, on=takeover.info.backend_pid, asked=writing)
    takeover.commit()
    takeover.close()
    assert writing.result(10) == 0


def test_renewals_do_not_wait_for_a_fenced_statement(story: Story) -> None:
    story.park()
    writing = story.write(RIGHT)
    story.wait_until_parked()
    assert story.leader.renew(story.term, LEADER) is not None
    story.unpark()
    assert writing.result(10) == 1


def test_release_waits_for_the_fenced_statement(story: Story) -> None:
    story.park()
    writing = story.write(RIGHT)
    story.wait_until_parked()
    releasing = story.threads.submit(story.leader.release, story.term, LEADER, "released")
    story.wait_until_waiting(story.pid(story.leader), on=story.writer.info.backend_pid, asked=releasing)
    story.unpark()
    assert writing.result(10) == 1
    assert releasing.result(10) is True
    assert story.write(RIGHT).result(10) == 0


@pytest.mark.parametrize(
    ("term", "leader_id", "expired"),
    [(1, "somebody-else", False), (2, LEADER, False), (1, LEADER, True)],
    ids=["of another leader", "of another term", "that has expired"],
)
def test_nothing_is_written_under_a_lease(story: Story, term: int, leader_id: str, expired: bool) -> None:
    assert story.term == 1
    story.director.execute("update scheduler.leader_lease set term = %s, leader_id = %s", [term, leader_id])
    if expired:
        story.expire()
    assert story.write(RIGHT).result(10) == 0


# The wrong fences


def test_a_mere_exists_lets_a_stale_write_through(story: Story) -> None:
    story.park()
    writing = story.write(EXISTS)
    story.wait_until_parked()
    story.expire()
    assert story.take_over().result(10) is not None
    assert story.written() == 0
    story.unpark()
    assert writing.result(10) == 1
    assert story.written() == 1


def test_key_share_without_the_unique_index_lets_a_stale_write_through(story: Story) -> None:
    story.director.execute("drop index scheduler.leader_lease_id_term")
    story.park()
    writing = story.write(RIGHT)
    story.wait_until_parked()
    story.expire()
    assert story.take_over().result(10) is not None
    assert story.written() == 0
    story.unpark()
    assert writing.result(10) == 1
    assert story.written() == 1


def test_share_is_safe_and_holds_renewals_up(story: Story) -> None:
    story.park()
    writing = story.write(SHARE)
    story.wait_until_parked()
    renewing = story.threads.submit(story.leader.renew, story.term, LEADER)
    story.wait_until_waiting(story.pid(story.leader), on=story.writer.info.backend_pid)
    assert not renewing.done()
    story.unpark()
    assert writing.result(10) == 1
    assert renewing.result(10) is not None
