"""Both ledgers answer alike, and hold the same rows, whatever is asked of them in whatever order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from scheduler_service import schedule as schedules
from scheduler_service.database import Database
from scheduler_service.ledger import Finished
from scheduler_service.ledger.requests import Requests
from scheduler_service.model import Attempt, JobSpec, Kind, Outcome, Overlap, Reason, Run, State
from scheduler_service.tables import job_state, leader_lease, replica, run, run_attempt, run_output
from tests.contract.ledger_world import LOCK, ME, MINUTE, OTHER, World
from tests.servers import SharedServer

SECOND = timedelta(seconds=1)
JOBS = ("a", "b")
LIMITS = (None, 1, 2)
ENDS = (State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED)

# Each verb with what it chooses by: numbers, taken modulo what there is to choose from.
verbs = st.tuples(
    st.sampled_from(
        [
            "adopt", "settle", "settle", "poll", "start", "start", "start", "finish", "finish", "finish", "unstart",
            "lose", "sign_out", "cancel", "trigger", "pause", "resume", "elect", "due", "finish_old", "return",
        ]
    ),
    st.integers(0, 7),
    st.integers(0, 7),
    st.integers(0, 7),
)  # fmt: skip

_RUNS = select(run).order_by(run.c.id)
_ATTEMPTS = select(run_attempt).order_by(run_attempt.c.run_id, run_attempt.c.attempt)
_OUTPUTS = select(run_output.c.attempt_id, run_output.c.text)
_STATES = select(job_state).order_by(job_state.c.job_id)


class Side(World):
    """One of the two ledgers, with what was read from it and is handed back later."""

    def __init__(self, database: Database) -> None:
        with database.connect() as connection:
            for table in (run_output, run_attempt, run, job_state, replica, leader_lease):
                connection.execute(delete(table))
        super().__init__(database)
        self.requests = Requests(database, LOCK)
        self.attempts: list[Attempt] = []
        self.claims = 0
        self.term = 1
        self.adopt_all(0, 1)
        for number in range(len(JOBS)):
            self.do_settle(number, 2, 0)
            self.do_start(number, 3, 0)

    def adopt_all(self, one: int, two: int) -> Any:
        specs = [
            JobSpec(
                id=job_id,
                run="jobs:main",
                schedule=schedules.every(MINUTE),
                enabled=not (one == 7 and number == 0),
                overlap=Overlap.ALLOW if LIMITS[(two + number) % 3] is None else Overlap.QUEUE,
                max_running=LIMITS[(two + number) % 3],
            )
            for number, job_id in enumerate(JOBS)
            if not (one == 6 and number == 1)
        ]
        self.limits = {spec.id: spec.running_limit for spec in specs}
        adopted = self.ledger.adopt(self.lease, specs)
        assert adopted is not None
        for job_id in adopted.added + adopted.returned:
            since = self.now() - timedelta(hours=1)
            self.execute(update(job_state).where(job_state.c.job_id == job_id).values(settled_until=since))
        return sorted(adopted.added), sorted(adopted.returned), dict(adopted.cancelled)

    def run_ids(self) -> list[int]:
        return [row.id for row in self.execute(select(run.c.id).order_by(run.c.id))]

    def pick(self, number: int) -> int | None:
        ids = self.run_ids()
        return ids[number % len(ids)] if ids else None

    def do(self, verb: str, one: int, two: int, three: int) -> Any:
        return getattr(self, "do_" + verb)(one, two, three)

    def do_adopt(self, one: int, two: int, _: int) -> Any:
        return self.adopt_all(one, two)

    def do_settle(self, one: int, two: int, three: int) -> Any:
        (state,) = self.ledger.job_states([JOBS[one % 2]])
        if state.settled_until > self.now() - 2 * MINUTE:
            return None
        wanted = [State.WAITING, State.WAITING, State.MISSED][: two % 4]
        open_runs = [one.run for one in self.ledger.survey([state.job_id]).open_runs]
        changes: dict[str, Any] = {}
        if three & 1 and open_runs:
            changes["replaced"] = ((open_runs[0].id, "a newer one"),)
        if three & 2 and len(open_runs) > 1:
            changes["withdrawn"] = ((open_runs[-1].id, Reason.COALESCED),)
        changes["resumed"] = bool(three & 4) and state.paused_until is not None
        settlement = self.settlement(state, *wanted, until=state.settled_until + 5 * SECOND, **changes)
        return self.ledger.settle(self.lease, [settlement])

    def do_poll(self, *_: int) -> Any:
        poll = self.ledger.poll(10)
        return [self.told(one) for one in sorted(poll.runs, key=lambda one: one.id)], sorted(poll.pauses)

    def told(self, one: Run) -> Any:
        return self.number(one.id), one.kind, one.state, one.attempt

    def number(self, run_id: int) -> int:
        return self.run_ids().index(run_id)

    def do_start(self, one: int, two: int, _: int) -> Any:
        rows = self.execute(select(run).where(run.c.job_id == JOBS[one % 2]).order_by(run.c.id))
        some = [
            Run(row.id, row.job_id, row.scheduled_at, row.due_at, Kind(row.kind), State(row.state), row.attempt)
            for row in rows
        ][-(two % 4 + 1) :]
        self.claims += 1
        limit = self.limits.get(JOBS[one % 2], 1)
        begun = self.ledger.start(self.lease, f"claim-{self.claims}", [(one, limit) for one in some], 0.0)
        assert begun is not None
        self.attempts += sorted(begun, key=lambda attempt: attempt.run_id)
        return sorted((self.number(one.run_id), one.attempt) for one in begun)

    def end(self, attempt: Attempt, one: int, two: int) -> None:
        state = ENDS[one % 4]
        retry = 0.0 if state in (State.FAILED, State.TIMED_OUT) and two & 1 else None
        outcome = Outcome(
            state, 0.0, error="e", output="words" if two & 2 else "", returned=not two & 4, retry_seconds=retry
        )
        self.ledger.finish([Finished(attempt, outcome)])

    def do_finish(self, one: int, two: int, three: int) -> Any:
        if self.attempts:
            self.end(self.attempts[-(three % min(4, len(self.attempts))) - 1], one, two)

    def do_finish_old(self, one: int, two: int, three: int) -> Any:
        if self.attempts:
            self.end(self.attempts[three % len(self.attempts)], one, two)

    def do_return(self, one: int, two: int, three: int) -> Any:
        if self.attempts:
            self.end(self.attempts[three % len(self.attempts)], 2, two & 3)

    def do_unstart(self, one: int, *_: int) -> Any:
        if self.attempts:
            attempt = self.attempts[-(one % min(4, len(self.attempts))) - 1]
            count = self.ledger.unstart(attempt.instance_id, [attempt.id])
            if count:
                self.attempts.remove(attempt)  # it never began, so no worker ends it
            return count
        return None

    def do_lose(self, one: int, two: int, _: int) -> Any:
        limits = {"a": 3, "b": 2} if one & 1 else {}
        lost = self.ledger.mark_lost(self.lease, (ME, OTHER)[two % 2], None, limits)
        assert lost is not None
        return sorted((self.number(one.run_id), one.attempt, one.job_id, one.rerun) for one in lost)

    def do_sign_out(self, one: int, two: int, _: int) -> Any:
        self.ledger.sign_out((ME, OTHER)[two % 2], {"a": 3} if one & 1 else {})

    def do_cancel(self, one: int, *_: int) -> Any:
        run_id = self.pick(one)
        return None if run_id is None else type(self.requests.cancel(run_id, by="ann")).__name__

    def do_trigger(self, one: int, two: int, _: int) -> Any:
        asked = self.requests.trigger(JOBS[one % 2], by="ann", key=f"k{two}" if two < 3 else None)
        return type(asked).__name__, getattr(asked, "new", None)

    def do_pause(self, one: int, two: int, _: int) -> Any:
        return type(self.requests.pause(JOBS[one % 2], by="ann", until=None)).__name__

    def do_resume(self, one: int, *_: int) -> Any:
        return type(self.requests.resume(JOBS[one % 2], by="ben")).__name__

    def do_elect(self, one: int, *_: int) -> Any:
        self.term += 1
        self.lease = self.elect((ME, OTHER)[one % 2], self.term)

    def do_due(self, *_: int) -> Any:
        self.execute(update(run).where(run.c.state == "waiting").values(due_at=self.now() - SECOND))

    def rows(self) -> list[Any]:
        """Return everything but moments and ids, and assert what is true of every ledger at every moment."""
        with self.database.connect() as connection:
            runs = connection.execute(_RUNS).fetchall()
            attempts = connection.execute(_ATTEMPTS).fetchall()
            outputs = {row.attempt_id: row.text for row in connection.execute(_OUTPUTS)}
            states = connection.execute(_STATES).fetchall()
        running = {row.id for row in runs if row.state == "running"}
        assert running == {row.run_id for row in attempts if row.state == "running"}
        assert all(row.slot_held for row in runs if row.state == "running")
        assert not [row for row in runs if row.state == "waiting" and row.cancel_requested_at is not None]
        order = {row.id: number for number, row in enumerate(runs)}
        return [
            *(
                (
                    order[row.id], row.job_id, row.kind, row.state, row.reason, row.attempt, row.exclusive,
                    row.slot_held, row.slot if row.slot_held else None, row.cancel_requested_at is not None,
                    row.cancel_requested_by, row.request_key, row.until is None,
                )
                for row in runs
            ),
            *(
                (order[row.run_id], row.attempt, row.term, row.instance_id, row.claim_id, row.state, row.error,
                 row.finished_at is None, outputs.get(row.id))
                for row in attempts
            ),
            *((row.job_id, row.enabled, row.max_running, row.paused_at is None, row.paused_until is None)
              for row in states),
        ]  # fmt: skip


@pytest.fixture(scope="module")
def both(
    postgres_server: SharedServer,
    postgres_template: str,
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Database, Database]]:
    path = tmp_path_factory.mktemp("both") / "scheduler.db"
    shutil.copy(sqlite_template, path)
    with postgres_server.database(postgres_template) as url:
        databases = Database(f"sqlite:///{path}"), Database(url)
        yield databases
        for database in databases:
            database.dispose()


QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
stories = st.lists(verbs, min_size=12, max_size=40)


def tell_both(both: tuple[Database, Database], story: list[Any]) -> None:
    """Ask each verb of both ledgers, and compare what they answer and what they hold."""
    sides = [Side(database) for database in both]
    for verb, *numbers in story:
        answers = [side.do(verb, *numbers) for side in sides]
        assert answers[0] == answers[1], verb
        held = [side.rows() for side in sides]
        assert held[0] == held[1], verb


@QUICK
@given(stories)
def test_both_ledgers_agree_after_every_verb(both: tuple[Database, Database], story: list[Any]) -> None:
    tell_both(both, story)


@pytest.mark.long
@settings(QUICK, max_examples=400)
@given(stories)
def test_they_agree_in_many_more_stories(both: tuple[Database, Database], story: list[Any]) -> None:
    tell_both(both, story)
