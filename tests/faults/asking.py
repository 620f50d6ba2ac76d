"""What two replicas ask of the database while nothing is due, from the server's own log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tests.faults.evidence import Books
from tests.faults.fleet import LIMIT_SECONDS, Fleet
from tests.servers import PostgresServer

TALKING = {"log_statement": "all"}  # settings of a server that can be listened to
SIGN_OF_LIFE = "insert into scheduler.replica"
FENCED = "with fence as materialized"
IDLE_JOBS = {f"job-{number}": {"run": "tally:nothing", "cron": "@yearly"} for number in range(20)}
_LINE = re.compile(r"^\S+ \S+ UTC \[\d+\] (?P<who>\S*): LOG:  (?:statement|execute [^:]+): (?P<statement>.*)$")
_WRITES = re.compile(r"\b(insert|update|delete|merge|nextval|for \w+ share)\b")


@dataclass(frozen=True)
class Asked:
    """How often each statement was sent, and in how many seconds."""

    seconds: float
    leader: Counter[str]
    standby: Counter[str]

    @property
    def written_by_standby(self) -> list[str]:
        """Statements of the standby that may write.

        What is fenced cannot: it is said every few minutes for a term that never was, to be ready for an election.
        """
        return [one for one in self.standby if _WRITES.search(one) and not one.startswith(FENCED)]

    def table(self) -> str:
        return f"\nin {self.seconds:g} s" + "".join(
            _table(role, counts, self.seconds) for role, counts in (("leader", self.leader), ("standby", self.standby))
        )


def listen(folder: Path, server: PostgresServer, election: Mapping[str, str], seconds: float) -> Asked:
    """Let a leader and a standby be idle for a while on a talking server."""
    books = Books(server.url)
    with Fleet(folder, f"{server.url}?application_name=${{REPLICA}}", IDLE_JOBS, election=election) as fleet:
        (leader,) = fleet.start()
        (standby,) = fleet.start()
        fleet.wait_until(lambda: books.settled_until() is not None)
        # Both have done what is done once: each has signed in twice.
        seen = "select count(*) from {p}replica where seen_at > started_at"
        fleet.wait_until(lambda: books.rows(seen)[0][0] == 2)
        fleet.wait_until(lambda: _is_ready(server, f"replica-{standby.number}"))
        said = statements_during(fleet, server, seconds)
        fleet.drain()
        assert not fleet.strange_deaths()
    of_leader, of_standby = (said[f"replica-{one.number}"] for one in (leader, standby))
    return Asked(seconds, of_leader, of_standby)


def statements_during(fleet: Fleet, server: PostgresServer, seconds: float) -> Mapping[str, Counter[str]]:
    """Wait, and return what was sent meanwhile, by application name."""
    books, position = Books(server.url), len(server.log)
    until = books.now() + timedelta(seconds=seconds)
    fleet.wait_until(lambda: books.now() >= until, poll_seconds=0.5, limit_seconds=seconds + LIMIT_SECONDS)
    said: dict[str, Counter[str]] = {f"replica-{one.number}": Counter() for one in fleet.replicas}
    for who, statement in _statements(server.log[position:]):
        said.setdefault(who, Counter())[statement] += 1
    return said


def _is_ready(server: PostgresServer, who: str) -> bool:
    """Whether a standby has rehearsed, the last of which is a start, and has looked how the service stands."""
    said = [statement for name, statement in _statements(server.log) if name == who]
    return any("insert into scheduler.run_attempt" in one for one in said) and any("'totals'" in one for one in said)


def _statements(log: str) -> Iterator[tuple[str, str]]:
    """Return who sent which statement, in one line and small letters."""
    who, parts = "", []
    for line in [*log.splitlines(), "end"]:
        if line.startswith("\t") and parts:
            parts.append(line)
            continue
        if parts:
            yield who, " ".join(" ".join(parts).replace('"', "").split()).lower()
            parts = []
        if found := _LINE.match(line):
            who, parts = found["who"], [found["statement"]]


def _table(role: str, counts: Counter[str], seconds: float) -> str:
    lines = [f"\n  {role}: {counts.total()} statements, {counts.total() / seconds:.2f} a second"]
    lines += [f"    {count:4} {statement[:110]}" for statement, count in counts.most_common()]
    return "\n".join(lines)
