"""What is asked of the service through the database, and what is done to the lease behind its back.

All of it happens on one thread, which may have to wait for the database.  A request that gets no answer is
made again until it gets one, so that the diary knows what was promised.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from scheduler_service import config, schedule
from scheduler_service.database import Database, StoreConflict, StoreUnavailable
from scheduler_service.ledger.requests import CancelledRun, Paused, Requests, Resumed, StopRequested, Triggered
from tests.chaos.agenda import Agenda
from tests.chaos.diary import Deed, Diary, Edit, Pause
from tests.chaos.faults import Faults
from tests.chaos.jobs import Every, Job
from tests.chaos.plan import Plan, Step
from tests.faults.evidence import Books
from tests.faults.fleet import Fleet

BY = "chaos"
AGAIN_SECONDS = 0.3
LOCK_ID = 1
NO_ANSWER = (StoreUnavailable, StoreConflict, psycopg.Error, sqlite3.Error)


class Asking:
    """Triggers, pauses, edits, cancels; and deletes, locks and ends what the election rests on."""

    def __init__(self, plan: Plan, fleet: Fleet, books: Books, faults: Faults, agenda: Agenda, diary: Diary) -> None:
        self._fleet = fleet
        self._books = books
        self._faults = faults
        self._agenda = agenda
        self._diary = diary
        self._tally = fleet.folder / "tally"
        self._database = Database(books.url)
        self._requests = Requests(self._database, LOCK_ID)
        self._jobs = {job.name: job for job in plan.jobs}
        self._at = datetime.now(UTC)
        self._acts: dict[str, Callable[[Step], None]] = {
            "trigger": self._trigger,
            "pause": self._pause,
            "cancel": self._cancel,
            "edit": self._edit,
            "resign": self._resign,
            "sessions_terminated": self._terminate_sessions,
            "lease_deleted": self._delete_lease,
            "lease_locked_briefly": self._lock_lease,
            "lease_locked_past_lease": self._lock_lease,
        }

    def do(self, step: Step) -> None:
        """Take a step."""
        self._at = datetime.now(UTC)  # from before it is sent: the next leader may be there before the answer
        self._acts[step.what](step)

    def close(self) -> None:
        """Let go of the database."""
        self._database.dispose()

    def _until_answered(self, ask: Callable[[], None]) -> None:
        try:
            ask()
        except NO_ANSWER:
            self._agenda.later(AGAIN_SECONDS, lambda: self._until_answered(ask))

    # --- requests

    def _trigger(self, step: Step) -> None:
        key = f"{BY}-{step.at}-{step.job}"

        def ask() -> None:
            answer = self._requests.trigger(_job(step), by=BY, key=key)
            assert isinstance(answer, Triggered), answer
            self._diary.triggered[key] = answer.run_id
            self._diary.requests["trigger"] += 1

        self._until_answered(ask)

    def _pause(self, step: Step) -> None:
        job = _job(step)

        def ask() -> None:
            answer = self._requests.pause(job, by=BY)
            if not isinstance(answer, Paused):
                self._diary.left_out["pause"] += 1  # the end of the last pause is not settled yet
                return
            self._diary.requests["pause"] += 1
            open_ones = [one for one in self._diary.pauses if one.job == job and one.resumed_after is None]
            if not open_ones:
                pause = Pause(job, answer.at)
                self._diary.pauses.append(pause)
                self._agenda.later(step.seconds, lambda: self._resume(pause))

        self._until_answered(ask)

    def _resume(self, pause: Pause) -> None:
        first_asked = datetime.now(UTC)

        def ask() -> None:
            answer = self._requests.resume(pause.job, by=BY)
            # No pause any more: an answer was lost, and the leader has settled what was paused.
            exact = answer.at if isinstance(answer, Resumed) else None
            pause.resumed_after = exact or first_asked
            pause.resumed_before = exact or datetime.now(UTC)

        self._until_answered(ask)

    def _cancel(self, step: Step) -> None:
        def ask() -> None:
            query = f"select max(id) from {{p}}run where job_id = '{step.job}' and state in ('waiting', 'running')"
            ((run_id,),) = self._books.rows(query)
            if run_id is None:
                self._diary.left_out["cancel"] += 1
                return
            self._diary.cancelled_runs.add(run_id)  # also where no answer comes
            answer = self._requests.cancel(run_id, by=BY)
            self._diary.requests["cancel"] += isinstance(answer, CancelledRun | StopRequested)

        self._until_answered(ask)

    def _edit(self, step: Step) -> None:
        assert step.edit is not None
        edit = Edit(step.edit, datetime.now(UTC))
        self._jobs[step.edit.name] = step.edit
        self._diary.edits.append(edit)
        jobs = {name: job.config(self._tally) for name, job in self._jobs.items()}
        path = self._fleet.config_path
        other = path.with_suffix(".new")
        other.write_text(self._fleet.text(jobs))
        other.replace(path)
        for replica in self._faults.living():
            if self._faults.instance(replica) is not None:  # else SIGHUP would end it
                with contextlib.suppress(ProcessLookupError):
                    replica.process.send_signal(signal.SIGHUP)
        self._agenda.later(AGAIN_SECONDS, lambda: self._look_at(edit))

    def _look_at(self, edit: Edit) -> None:
        """Note when an edit has been taken up: nobody has the former file, and the new schedule is stored."""
        later = [one for one in self._diary.edits if one.job.name == edit.job.name and one.written_at > edit.written_at]
        if later:
            return  # perhaps nobody ever read this one
        with contextlib.suppress(*NO_ANSWER):
            if self._adopted(edit):
                edit.adopted_at = datetime.now(UTC)
                self._diary.requests["edit"] += 1
                return
        self._agenda.later(AGAIN_SECONDS, lambda: self._look_at(edit))

    def _adopted(self, edit: Edit) -> bool:
        wanted = config.load(self._fleet.config_path, {**os.environ, "DATABASE": self._books.url, "REPLICA": ""}).hash
        known = {row[0]: row[1] for row in self._books.rows("select instance_id, config_hash from {p}replica")}
        if any(known.get(self._faults.instance(one)) != wanted for one in self._faults.living()):
            return False
        ((stored,),) = self._books.rows(f"select schedule from {{p}}job_state where job_id = '{edit.job.name}'")
        return bool(stored == canonical(edit.job))

    # --- faults that are statements

    def _resign(self, step: Step) -> None:
        with contextlib.suppress(*NO_ANSWER):
            asked = self._requests.resign(by=BY)
            self._note(step, None if asked is None else asked.leader_id)

    def _terminate_sessions(self, step: Step) -> None:
        one = "select pg_terminate_backend(guard_pid) from {p}leader_lease"
        everybody = (
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        with contextlib.suppress(*NO_ANSWER):
            found = self._books.rows(one if step.target == "leader" else everybody)
            self._note(step, f"{len(found)} sessions" if found else None)
            return
        self._note(step, None)

    def _delete_lease(self, step: Step) -> None:
        with contextlib.suppress(*NO_ANSWER):
            found = self._books.rows("select leader_id from {p}leader_lease")
            self._books.execute("delete from {p}leader_lease")
            self._note(step, found[0][0] if found else None)
            return
        self._note(step, None)

    def _lock_lease(self, step: Step) -> None:
        with contextlib.suppress(*NO_ANSWER):
            connection = _locked(self._books)
            self._note(step, "the row")

            def let_go() -> None:
                with contextlib.suppress(*NO_ANSWER):
                    connection.rollback()
                with contextlib.suppress(*NO_ANSWER):
                    connection.close()

            # On a thread of its own: requests wait for this lock, and would keep whoever makes them from letting go.
            releasing = threading.Timer(step.seconds, let_go)
            releasing.daemon = True
            releasing.start()
            return
        self._note(step, None)

    def _note(self, step: Step, victim: str | None) -> None:
        if victim is None:
            self._diary.left_out[step.what] += 1
        else:
            self._diary.deeds.append(Deed(step.what, self._at))


def canonical(job: Job) -> str:
    """Return a job's schedule as the service writes it down."""
    if isinstance(job.when, Every):
        interval, offset = (timedelta(milliseconds=one) for one in (job.when.milliseconds, job.when.offset))
        return schedule.every(interval, offset).canonical
    return schedule.cron(job.when.config()["cron"], "UTC").canonical


def _job(step: Step) -> str:
    assert step.job is not None
    return step.job


def _locked(books: Books) -> Any:
    if books.on_sqlite:
        connection: Any = sqlite3.connect(
            Path(books.url.removeprefix("sqlite:///")), timeout=5, isolation_level=None, check_same_thread=False
        )
        connection.execute("begin immediate")
        return connection
    connection = psycopg.connect(books.url, connect_timeout=5, options="-c lock_timeout=3s")
    connection.execute("select 1 from scheduler.leader_lease for update")
    return connection
