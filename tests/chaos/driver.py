"""Take the steps of a plan on a real fleet, let everything come to an end, and judge."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread

from tests.chaos.agenda import Agenda
from tests.chaos.diary import Diary
from tests.chaos.faults import Faults, processes_end
from tests.chaos.judge import Verdict, judge
from tests.chaos.plan import Plan
from tests.chaos.records import Records
from tests.chaos.requests import Asking
from tests.faults.evidence import Books
from tests.faults.fleet import FAST_ELECTION, Fleet
from tests.servers import PostgresServer

LOST_AFTER_SECONDS = 5.0
ELECTION = {**FAST_ELECTION, "lost_after": f"{LOST_AFTER_SECONDS:g}s"}
KEEP_EVERYTHING = {"keep_runs": 1_000_000}
WORKERS = {"threads": 64, "processes": 8}
END_SECONDS = 300.0  # for whatever has to come about: slow machines shall not break a run


@dataclass(frozen=True)
class Outcome:
    """What was done, what is left of it, and what is wrong with it."""

    diary: Diary
    records: Records
    verdict: Verdict


class Driver:
    """Replicas at work on the jobs of a plan, and whoever hurts and asks them."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        server: PostgresServer | None,
        *,
        keep_for: timedelta | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self._tell = tell
        self.tally = folder / "tally"
        self.diary = Diary(plan.jobs)
        self._keep_for = keep_for
        history = KEEP_EVERYTHING if keep_for is None else {"keep_for": f"{keep_for // timedelta(seconds=1)}s"}
        url = server.url if server else f"sqlite:///{folder / 'scheduler.db'}"
        self.books = Books(url)
        jobs = {job.name: job.config(self.tally) for job in plan.jobs}
        self.fleet = Fleet(
            folder, "${DATABASE}" if server else url, jobs, election=ELECTION, history=history, workers=WORKERS
        )
        self._hurting, self._asking = Agenda(), Agenda()
        self.faults = Faults(self.fleet, server, self._hurting, self.diary, uuid.uuid4().hex)
        self._requests: Asking | None = None

    def run(self) -> Outcome:
        """Do everything, and judge it."""
        with self.fleet:
            self._tell("the replicas start")
            self._start()  # with nobody at work there is nothing to judge
            try:
                for what, phase in (
                    ("the storm begins", self._take_the_steps),
                    ("the storm is over; what is owed is settled", self._settle),
                    ("the replicas drain", self._drain),
                ):
                    self._tell(what)
                    phase()
                self._tell("the judge looks")
            except AssertionError as error:
                self.diary.troubles.append(str(error))
            self._stop()
        records = Records.read(self.books, self.tally, self.fleet)
        left = [f"left behind: {one}" for one in processes_end(self.faults)]
        records = replace(records, crashes=(*records.crashes, *self.fleet.strange_deaths(), *left))
        return Outcome(self.diary, records, judge(records, self.diary, lost_after_seconds=LOST_AFTER_SECONDS))

    def _start(self) -> None:
        for _ in range(self.plan.replicas):
            self.faults.launch()
        self.fleet.wait_until(lambda: all(map(self.faults.instance, self.fleet.replicas)), limit_seconds=END_SECONDS)
        self.fleet.leader()
        self.fleet.wait_until(self._all_jobs_are_known, limit_seconds=END_SECONDS)

    def _all_jobs_are_known(self) -> bool:
        ((count,),) = self.books.rows("select count(*) from {p}job_state")
        return bool(count == len(self.plan.jobs))

    def _take_the_steps(self) -> None:
        began = time.monotonic()
        self._hurting.begin(began)
        self._asking.begin(began)
        self._requests = Asking(self.plan, self.fleet, self.books, self.faults, self._asking, self.diary)
        for step in self.plan.steps:
            if self.faults.knows(step.what):
                self._hurting.at(step.at, partial(self.faults.do, step))
            else:
                self._asking.at(step.at, partial(self._requests.do, step))
        for minute in range(1, int(self.plan.minutes) + 1):
            self._hurting.at(60 * minute, partial(self._count, minute))
        self._hurting.at(60 * self.plan.minutes, lambda: None)
        asking = Thread(target=self._ask, name="asking", daemon=True)
        asking.start()
        try:
            self._hurting.work_off(self._look)
            asking.join(END_SECONDS)
        finally:
            self._asking.forget()
        assert not asking.is_alive(), f"a request got no answer within {END_SECONDS:g} s after the last fault"

    def _ask(self) -> None:
        assert self._requests is not None
        try:
            self._asking.work_off(lambda: None)
        except Exception as error:  # it ends a thread: told, not lost
            self.diary.troubles.append(f"{type(error).__name__}: {error}")

    def _count(self, minute: int) -> None:
        self._tell(f"minute {minute} of {self.plan.minutes:g}: {len(self.diary.deeds)} faults")

    def _look(self) -> None:
        deaths = self.fleet.strange_deaths()
        assert not deaths, "\n".join(deaths)

    def _settle(self) -> None:
        self.diary.ended_at = datetime.now(UTC)
        self.fleet.wait_until(self._all_is_settled, 0.2, END_SECONDS)
        # What the dead left open is closed by whoever leads.
        self.fleet.wait_until(self._nobody_owes, 0.2, END_SECONDS)

    def _drain(self) -> None:
        # SIGTERM just ends who has not come so far as to listen to it.
        self.fleet.wait_until(lambda: all(map(self.faults.instance, self.faults.living())), limit_seconds=END_SECONDS)
        self.fleet.drain()
        if self._keep_for is not None:
            self.diary.pruned_before = datetime.now(UTC) - self._keep_for

    def _all_is_settled(self) -> bool:
        ended_at = self.diary.ended_at
        assert ended_at is not None
        return not any(
            any(self.diary.versions(job)[-1].job.when.ticks(self.books.moment(until), ended_at))
            for job, until in self.books.rows("select job_id, settled_until from {p}job_state")
        )

    def _nobody_owes(self) -> bool:
        living = {self.faults.instance(replica) for replica in self.fleet.replicas if replica.alive}
        return self.books.open_holders() <= living

    def _stop(self) -> None:
        if self._requests is not None:
            self._requests.close()
        self.fleet.close()
        self.faults.close()
