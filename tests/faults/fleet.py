"""Replicas as real processes: started, hurt, and listened to.

    with Fleet(folder, url, jobs) as fleet:
        fleet.start(3)
        leader = fleet.leader()
        leader.kill()
        fleet.next_leader(leader.term)

What happens is read from the replicas' own logs.  No replica outlives its fleet.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests import forked

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 60.0  # for whatever is awaited: slow machines shall not break a test
FAST_ELECTION = {
    "lease_duration": "3s",
    "renewal_interval": "700ms",
    "jitter_range": "200ms",
    "attempt_timeout": "500ms",
    "safety_margin": "300ms",
    "lost_after": "4s",
}

Entry = Mapping[str, Any]


class Replica:
    """One `scheduler-service run`."""

    def __init__(self, fleet: Fleet, number: int, environment: Mapping[str, str], within: Sequence[str] = ()) -> None:
        self.number = number
        self.allowed_code: int | None = None  # the exit code that was provoked; None while it shall live
        self._log_path = fleet.folder / f"replica-{number}.log"
        self._fleet = fleet
        self._log, stderr = os.pipe()
        self.process = forked.start(
            ("run", "-c", str(fleet.config_path)), ROOT, {**os.environ, **environment}, stderr=stderr, within=within
        )
        os.close(stderr)
        self._reader = threading.Thread(target=self._read, name=f"replica-{number}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def instance(self) -> str:
        """The name that it goes by in log and ledger."""
        return str(self.wait_for("service_started")["instance"])

    def wait_for(self, event: str, since: int = 0, **fields: Any) -> Entry:
        """Return the first line of its log that tells this event with these fields, `since` a mark of the fleet."""
        return self._fleet.wait_for(event, self, since, **fields)

    def kill(self) -> None:
        self.allowed_code = -signal.SIGKILL
        self.process.kill()
        self.process.wait(LIMIT_SECONDS)

    def terminate(self) -> None:
        """Ask it to drain."""
        self.allowed_code = 0
        self.process.terminate()

    def wait(self) -> int:
        """Wait for it to end."""
        return self.process.wait(LIMIT_SECONDS)

    def reload(self) -> None:
        """Ask it to read the configuration now."""
        self.process.send_signal(signal.SIGHUP)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.alive:
            self.allowed_code = -signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()  # a frozen process dies of it too
        self.process.wait(LIMIT_SECONDS)
        self._reader.join(LIMIT_SECONDS)

    def tail(self) -> str:
        return f"--- replica {self.number}\n" + "".join(self._log_path.read_text().splitlines(keepends=True)[-15:])

    def _read(self) -> None:
        with open(self._log, "rb") as log, self._log_path.open("wb", buffering=0) as copy:  # noqa: PTH123  # a pipe
            for line in log:
                copy.write(line)
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = {"event": "no_json", "line": line.decode(errors="replace").rstrip()}
                self._fleet.heard(self, entry)


class Fleet:
    """Replicas that share a configuration, and everything they say."""

    def __init__(
        self,
        folder: Path,
        url: str,
        jobs: Mapping[str, Any],
        *,
        election: Mapping[str, str] = FAST_ELECTION,
        **sections: Any,
    ) -> None:
        self.folder = folder
        self.replicas: list[Replica] = []
        self._said_count = 0
        self._said: dict[str, list[tuple[int, Replica, Entry]]] = {}  # by event; the number is the place in all
        self._changed = threading.Condition()
        self.config_path = folder / "config.yaml"
        self._config = {
            "version": 1,
            "service": {"jobs_folder": str(Path(__file__).with_name("jobs"))},
            "database": {"url": url},
            "election": dict(election),
            "http": {"enabled": False},
            "logging": {"format": "json"},
            "jobs": dict(jobs),
            **sections,
        }
        self.config_path.write_text(self.text(jobs))

    def text(self, jobs: Mapping[str, Any]) -> str:
        """Return the configuration with these jobs."""
        return json.dumps({**self._config, "jobs": dict(jobs)}, indent=1)  # JSON is YAML

    def start(
        self, count: int = 1, environment: Mapping[str, str] | None = None, within: Sequence[str] = ()
    ) -> list[Replica]:
        """Start replicas as `launch` does; return them when each has found its place."""
        started = [self.launch(environment, within) for _ in range(count)]
        for replica in started:
            self._wait(lambda replica=replica: self._has_found_its_place(replica), f"a role for {replica.number}")
        return started

    def launch(self, environment: Mapping[str, str] | None = None, within: Sequence[str] = ()) -> Replica:
        """Start a replica and wait for nothing.

        The configuration may refer to `${REPLICA}`: replica-1, replica-2, …  What stands `within` comes before the
        command and becomes it, as `nice` does.
        """
        number = len(self.replicas) + 1
        replica = Replica(self, number, {"REPLICA": f"replica-{number}", **(environment or {})}, within)
        self.replicas.append(replica)
        return replica

    def leader(self) -> Replica:
        """Return the replica that leads, once there is one that was not heard to have lost its term."""
        return self._wait(self._leading, "a leader")

    def leading(self) -> Replica | None:
        """Return who leads, as far as the logs tell; None while nobody does."""
        return self._leading()

    def term(self, replica: Replica) -> int:
        """Return the newest term that a replica was elected to."""
        return max(entry["term"] for who, entry in self.said("leader_elected") if who is replica)

    def next_leader(self, term: int) -> Replica:
        """Wait until somebody leads in a term after `term`."""
        return self._wait(lambda: self._leading(after=term), f"a leader after term {term}")

    def wait_for_doubt(self, leader: Replica, since: int) -> None:
        """Wait until a leader doubts that it leads; or says that it does not, where another had just followed it."""
        term = self.term(leader)
        self._wait(
            lambda: (
                any(who is leader for who, _ in self.said("leadership_suspect", since))
                or any(who is leader and entry["term"] == term for who, entry in self.said("leadership_lost"))
            ),
            f"a doubt of {leader.number}",
        )

    def wait_for(self, event: str, replica: Replica | None = None, since: int = 0, **fields: Any) -> Entry:
        """Return the first line that tells this event with these fields, `since` a `mark`."""

        def found() -> Entry | None:
            for who, entry in self.said(event, since):
                if replica in (None, who) and fields.items() <= entry.items():
                    return entry
            return None

        return self._wait(found, f"{event} {fields or ''} of {replica.number if replica else 'anybody'}")

    def wait_until(
        self, condition: Callable[[], Any], poll_seconds: float = 0.05, limit_seconds: float = LIMIT_SECONDS
    ) -> Any:
        """Return what `condition` returns once it is true, and look after the processes meanwhile."""
        # Not at each line that is logged: there are hundreds in a second, and conditions ask the database.
        return self._wait(condition, str(condition), lambda: time.sleep(poll_seconds), limit_seconds)

    def mark(self) -> int:
        """Return a place in all that is said."""
        return self._said_count

    def said(self, event: str, since: int = 0) -> Iterator[tuple[Replica, Entry]]:
        """Return who told this event, in the order in which it was read."""
        told = self._said.get(event, [])
        return ((who, entry) for place, who, entry in tuple(told) if place >= since)

    def heard(self, replica: Replica, entry: Entry) -> None:
        """Take note of a line."""
        with self._changed:
            event = str(entry.get("event"))
            self._said.setdefault(event, []).append((self._said_count, replica, entry))
            self._said_count += 1
            self._changed.notify_all()

    def drain(self) -> None:
        """SIGTERM everybody that lives and wait until they have ended."""
        living = [replica for replica in self.replicas if replica.alive]
        for replica in living:
            replica.terminate()
        for replica in living:
            replica.wait()

    def strange_deaths(self) -> list[str]:
        """Say which processes ended otherwise than they were made to."""
        return [
            f"replica {one.number} ended with {one.process.returncode}, not {one.allowed_code}\n{one.tail()}"
            for one in self.replicas
            if not one.alive and one.process.returncode != one.allowed_code
        ]

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _has_found_its_place(self, replica: Replica) -> bool:
        def told(event: str) -> bool:
            return any(who is replica for who, _ in self.said(event))

        return told("service_started") and (told("leader_elected") or told("leader_observed"))

    def _leading(self, after: int = 0) -> Replica | None:
        elected = {entry["term"]: who for who, entry in self.said("leader_elected")}
        if not elected or max(elected) <= after:
            return None
        term, who = max(elected.items())
        over = any(
            entry["term"] == term for name in ("leadership_lost", "leadership_released") for _, entry in self.said(name)
        )
        return who if who.alive and not over else None

    def _wait(
        self,
        condition: Callable[[], Any],
        what: str,
        pause: Callable[[], None] | None = None,
        limit_seconds: float = LIMIT_SECONDS,
    ) -> Any:
        deadline = time.monotonic() + limit_seconds
        while not (found := condition()):
            deaths = self.strange_deaths()
            assert not deaths, "\n".join(deaths)
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not within {limit_seconds:g} s: {what}\n" + "\n".join(one.tail() for one in self.replicas)
                )
            (pause or self._hear_more)()
        return found

    def _hear_more(self) -> None:
        with self._changed:
            self._changed.wait(0.5)
