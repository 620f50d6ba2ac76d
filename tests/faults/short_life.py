"""Everything that the service does with its database, once, within seconds: the pass in which statements break.

    start, be elected, a second replica -> settle, start, finish, again after a failure -> pause, trigger, cancel,
    resume, asked for by the commands -> prune -> resign, and another leads -> drain both

Replicas and commands are the real ones, in this process, so that one relay or one cursor sees all they send.
A command that fails is typed again, as a person would.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from scheduler_service.cli import commands
from scheduler_service.config import load
from scheduler_service.service import Service, assemble
from scheduler_service.service import _Signalled as Signalled
from tests.electors import Heard
from tests.faults.evidence import Books, compare, effects
from tests.waiting import wait_until

INTERVAL = timedelta(seconds=1)
LIMIT_SECONDS = 60.0
NO_DATABASE = 69
# Short, because an election whose answer is lost may wait for the lease; a resignation is found by the renewal.
ELECTION = {
    "lease_duration": "4s",
    "renewal_interval": "500ms",
    "jitter_range": "100ms",
    "attempt_timeout": "1s",
    "safety_margin": "300ms",
    "lost_after": "30s",  # nobody is lost here
}


class Threaded(Service):
    """A replica on a thread, which gets no signals: what it would be told by them it is told by its inbox."""

    def _take_signals(self) -> Mapping[int, Any]:
        return {}


class Replica:
    """A replica, from its start until it has drained."""

    pid = os.getpid()
    allowed_code = None

    def __init__(self, config_path: Path, number: int) -> None:
        self.number = number
        self.heard = Heard()
        self.exit_code: int | None = None
        self.crash: BaseException | None = None
        config = load(config_path)
        self.parts = assemble(config, self.heard.events)
        self.instance = self.parts.elector.instance_id
        self._service = Threaded(config, self.parts)
        self._thread = threading.Thread(target=self._run, name=f"replica-{number}", daemon=True)
        self._thread.start()

    def let_prune(self) -> None:
        """Let a minute have passed for whoever prunes once a minute."""
        self.parts.housekeeping._prune_at -= 60

    def drain(self) -> None:
        self.parts.inbox.put(Signalled(signal.SIGTERM))
        self._thread.join(LIMIT_SECONDS)
        assert not self._thread.is_alive(), f"replica {self.number} does not end"

    def _run(self) -> None:
        try:
            self.exit_code = self._service.run()
        except BaseException as error:
            self.crash = error


class ShortLife:
    """One pass; `url` is the replicas' way to the database, `books` are read another way."""

    def __init__(self, folder: Path, url: str, books: Books) -> None:
        self.replicas: list[Replica] = []
        self._books = books
        self._ticks, self._asked = folder / "ticks", folder / "asked"
        self._config_path = folder / "config.yaml"
        self._config_path.write_text(
            json.dumps(
                {
                    "version": 1,
                    "service": {"jobs_folder": str(Path(__file__).with_name("jobs"))},
                    "database": {"url": url},
                    "election": ELECTION,
                    "http": {"enabled": False},
                    "jobs": self._jobs(),
                }
            )
        )

    def live(self) -> None:
        """Let everything happen once."""
        self._leave_an_old_run()
        self._start()
        self._start()
        self._ask()
        self._wait(lambda: self._count("request_key is not null and state in ('waiting', 'running')") == 0)
        self._wait(self._pruned)
        self._hand_over()
        now = self._books.now()
        self._wait(lambda: self._settled_until() >= now + INTERVAL)
        self._wait(lambda: not self._books.waits_since_before(now))
        self.drain()

    def drain(self) -> None:
        """End whoever has not ended."""
        for replica in self.replicas:
            replica.drain()

    def problems(self) -> list[str]:
        """Say what is wrong with ledger, side effects and replicas after everybody has ended."""
        account = compare(self._books, self._ticks, self, interval=INTERVAL)
        problems = account.problems + self._problems_of_requests()
        # Those that wait came due while the replicas were drained: what was due before was waited for.
        if account.states["succeeded"] == 0 or account.states.keys() - {"succeeded", "skipped", "waiting"}:
            problems.append(f"ticks are {dict(account.states)}")
        terms = self._books.rows("select leader_id from {p}leader_term")
        if {row[0] for row in terms} != {replica.instance for replica in self.replicas}:
            problems.append(f"those who led are {terms}")
        return problems

    # What `compare` asks of a fleet

    def said(self, event: str, since: int = 0) -> Iterator[tuple[Replica, Mapping[str, Any]]]:
        for replica in self.replicas:
            for one in replica.heard.all(event):
                yield replica, one.fields

    def strange_deaths(self) -> list[str]:
        return [
            f"replica {one.number} ended with {one.exit_code}, {one.crash!r}"
            for one in self.replicas
            if one.exit_code != 0 or one.crash is not None
        ]

    # The parts of a life

    def _jobs(self) -> Mapping[str, Any]:
        def job(path: Path, run: str = "note", **more: Any) -> Mapping[str, Any]:
            return {"run": f"tally:{run}", "kwargs": {"path": str(path), "seconds": 0.01}, **more}

        every = f"{INTERVAL.total_seconds():g}s"
        return {
            "exclusive": job(self._ticks, every=every, catch_up="all"),
            "overlapping": job(self._ticks, every=every, catch_up="all", overlap="allow"),
            "asked": job(self._asked, manual=True),
            "again": job(self._asked, "fail", manual=True, retry={"attempts": 2, "delay": "10ms"}),
            "held": job(self._asked, manual=True),
        }

    def _leave_an_old_run(self) -> None:
        long_ago = "1500000000000000" if self._books.on_sqlite else "'2017-07-14'"
        self._books.execute(
            "insert into {p}run (lock_id, job_id, scheduled_at, due_at, kind, state, reason, decided_at, decided_by) "
            f"values (1, 'exclusive', {long_ago}, {long_ago}, 'scheduled', 'missed', 'policy', {long_ago}, 'long gone')"
        )

    def _start(self) -> None:
        replica = Replica(self._config_path, len(self.replicas) + 1)
        self.replicas.append(replica)
        roles = ("leader_elected", "leader_observed")
        self._wait(lambda: any(replica.heard.all(role) for role in roles))
        self._wait(lambda: self._books.settled_until() is not None)

    def _ask(self) -> None:
        self._type("trigger", "asked", "--key", "asked")
        self._type("trigger", "again", "--key", "again")
        self._type("pause", "held")
        self._type("trigger", "held", "--key", "held")
        ((held,),) = self._books.rows("select id from {p}run where request_key = 'held'")
        self._type("cancel", str(held))
        self._type("pause", "exclusive", "--reason", "to see")
        self._type("resume", "exclusive")

    def _hand_over(self) -> None:
        former = self._newest_leader()
        # Whoever is asked stands back one round only: if the other's attempt breaks, it leads again.
        while self._newest_leader() == former:
            self._type("resign", "--wait")

    def _newest_leader(self) -> str:
        ((newest,),) = self._books.rows("select leader_id from {p}leader_term order by term desc limit 1")
        return str(newest)

    def _type(self, *arguments: str) -> None:
        command = [arguments[0], "-c", str(self._config_path), *arguments[1:]]

        def done() -> bool:
            try:
                code = commands.main(command, standalone_mode=False)
            except click.ClickException as error:
                code = error.exit_code
            assert code in (None, 0, NO_DATABASE) or arguments[0] == "resign", (command, code)
            return code in (None, 0)

        self._wait(done)

    def _pruned(self) -> bool:
        for replica in self.replicas:
            replica.let_prune()
        return self._count("state = 'missed'") == 0

    def _wait(self, condition: Any) -> None:
        def so() -> bool:
            crashed = [one for one in self.replicas if one.crash is not None]
            assert not crashed, self.strange_deaths()
            return bool(condition())

        wait_until(so, LIMIT_SECONDS)

    # What became of it

    def _count(self, condition: str) -> int:
        count: int = self._books.rows(f"select count(*) from {{p}}run where {condition}")[0][0]
        return count

    def _settled_until(self) -> datetime:
        rows = self._books.rows(
            "select min(settled_until) from {p}job_state where job_id in ('exclusive', 'overlapping')"
        )
        return self._books.moment(rows[0][0])

    def _problems_of_requests(self) -> list[str]:
        rows = self._books.rows(
            "select r.job_id, r.state, r.attempt, r.id, count(a.id) from {p}run r left join {p}run_attempt a "
            "on a.run_id = r.id where r.kind = 'manual' group by r.id, r.job_id, r.state, r.attempt"
        )
        expected = {("asked", "succeeded", 1, 1), ("again", "failed", 2, 2), ("held", "cancelled", 0, 0)}
        found = [(job, state, attempt, count) for job, state, attempt, _, count in rows]
        problems = [] if sorted(found) == sorted(expected) else [f"what was asked for is {found}"]
        lines = [(one.job, one.what) for one in effects(self._asked)]
        wanted = [("again", "begin"), ("again", "end")] * 2 + [("asked", "begin"), ("asked", "end")]
        if sorted(lines) != sorted(wanted):
            problems.append(f"what was asked for left {lines}")
        paused = self._books.rows("select job_id from {p}job_state where paused_at is not null")
        if [row[0] for row in paused] != ["held"]:
            problems.append(f"paused are {paused}")
        held = self._books.rows("select id, state from {p}run where slot_held or state = 'running'")
        return problems + [f"run {run_id} ({state}) still holds a slot or runs" for run_id, state in held]
