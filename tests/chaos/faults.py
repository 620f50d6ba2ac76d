"""How each fault of a plan is done, and undone.

Everything here happens on one thread, which asks the database nothing: it must be able to bring the
server back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests.chaos.agenda import Agenda
from tests.chaos.diary import Deed, Diary
from tests.chaos.plan import Step
from tests.faults.fleet import LIMIT_SECONDS, Fleet, Replica
from tests.relay import Relay
from tests.servers import PostgresServer

MARK = "SCHEDULER_CHAOS"  # in the environment of every process that descends from our replicas
DROPPED_REPLIES = 3
SLOW_SECONDS = 0.15
NOTICED_SECONDS = 1.0  # who is kept from the database for less is not silent to anybody


class Faults:
    """Hurts replicas, their lines to the database and the server."""

    def __init__(self, fleet: Fleet, server: PostgresServer | None, agenda: Agenda, diary: Diary, mark: str) -> None:
        self._fleet = fleet
        self._server = server
        self._agenda = agenda
        self._diary = diary
        self._environment = {MARK: mark}
        self._lines: dict[int, Relay] = {}
        self._held: set[int] = set()  # numbers of replicas that are frozen or whose line is hurt
        self._server_is_hurt = False
        self._instances: dict[int, str] = {}
        self._acts: dict[str, Callable[[Step], bool]] = {
            "kill": self._kill,
            "kill_all": self._kill_all,
            "terminate": self._terminate,
            "freeze_briefly": self._freeze,
            "freeze_past_lease": self._freeze,
            "freeze_past_loss": self._freeze,
            "line_stalled_briefly": partial(self._hurt_line, Relay.stall),
            "line_stalled_past_lease": partial(self._hurt_line, Relay.stall),
            "requests_stalled": partial(self._hurt_line, lambda line: line.requests.stall()),
            "replies_stalled": partial(self._hurt_line, lambda line: line.replies.stall()),
            "line_slow": partial(self._hurt_line, lambda line: line.delay(SLOW_SECONDS)),
            "line_cut": partial(self._hurt_line, Relay.cut),
            "line_reset": partial(self._hurt_line, Relay.reset),
            "replies_dropped": self._drop_replies,
            "server_restarted_fast": lambda step: self._restart(step, "fast"),
            "server_restarted_immediately": lambda step: self._restart(step, "immediate"),
            "server_down_past_lease": self._stop_server,
            "server_frozen_briefly": self._freeze_server,
            "server_frozen_past_lease": self._freeze_server,
        }

    def knows(self, what: str) -> bool:
        """Return whether a step is done here."""
        return what in self._acts

    def do(self, step: Step) -> None:
        """Take a step, or note that there is nobody to do it to."""
        if not self._acts[step.what](step):
            self._diary.left_out[step.what] += 1

    def launch(self) -> None:
        """Start one more replica and wait for nothing."""
        environment = dict(self._environment)
        if self._server is not None:
            line = self._lines[len(self._fleet.replicas) + 1] = Relay(self._server.url)
            environment["DATABASE"] = line.url
        self._fleet.launch(environment)

    def instance(self, replica: Replica) -> str | None:
        """Return the name of a replica; None while it has not said it."""
        if replica.number not in self._instances:
            for who, entry in self._fleet.said("service_started"):
                self._instances[who.number] = str(entry["instance"])
        return self._instances.get(replica.number)

    def living(self) -> list[Replica]:
        """Return who runs and is not asked to end."""
        return [one for one in self._fleet.replicas if one.allowed_code is None and one.alive]

    def left_behind(self) -> list[str]:
        """Return the command lines of processes that descend from our replicas."""
        mark = f"{MARK}={self._environment[MARK]}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append(f"process {process.name}: {words}")
        return found

    def close(self) -> None:
        """End every line."""
        for line in self._lines.values():
            line.close()

    # --- processes

    def _kill(self, step: Step) -> bool:
        victim = self._victim(step)
        if victim is None:
            return False
        self._end_at_once(victim)
        self._agenda.later(step.seconds, self.launch)
        return True

    def _kill_all(self, step: Step) -> bool:
        for victim in self.living():
            self._end_at_once(victim)
            self._agenda.later(step.seconds, self.launch)
        return True

    def _end_at_once(self, victim: Replica) -> None:
        # Noted after its end: nothing of it can have begun later.
        at = datetime.now(UTC)
        victim.kill()
        instance = self.instance(victim)
        if instance is not None:
            self._diary.killed[instance] = (at, time.clock_gettime(time.CLOCK_BOOTTIME))
            self._diary.unheard.add(instance)
        self._diary.deeds.append(Deed("kill", at, instance))

    def _terminate(self, step: Step) -> bool:
        victim = self._victim(step)
        if victim is None:
            return False
        self._note(step, victim)
        victim.terminate()
        self._agenda.later(step.seconds, self.launch)
        return True

    def _freeze(self, step: Step) -> bool:
        victim = self._victim(step)
        if victim is None:
            return False
        self._note(step, victim)
        self._held.add(victim.number)
        victim.freeze()

        def thaw() -> None:
            self._held.discard(victim.number)
            if victim.alive:
                victim.thaw()

        self._agenda.later(step.seconds, thaw)
        return True

    # --- lines

    def _hurt_line(self, hurt: Callable[[Relay], None], step: Step) -> bool:
        victim = self._victim(step)
        if victim is None:
            return False
        line = self._lines[victim.number]
        self._note(step, victim)
        self._held.add(victim.number)

        def heal() -> None:
            self._held.discard(victim.number)
            line.heal()

        hurt(line)
        self._agenda.later(step.seconds, heal)
        return True

    def _drop_replies(self, step: Step) -> bool:
        victim = self._victim(step)
        if victim is None:
            return False
        self._note(step, victim)
        self._lines[victim.number].drop_replies(DROPPED_REPLIES)
        return True

    # --- the server

    def _restart(self, step: Step, mode: str) -> bool:
        return self._hurt_server(step, lambda server: server.restart(mode))

    def _stop_server(self, step: Step) -> bool:
        return self._hurt_server(step, PostgresServer.stop, PostgresServer.start)

    def _freeze_server(self, step: Step) -> bool:
        return self._hurt_server(step, PostgresServer.pause, PostgresServer.resume)

    def _hurt_server(
        self,
        step: Step,
        hurt: Callable[[PostgresServer], object],
        heal: Callable[[PostgresServer], object] | None = None,
    ) -> bool:
        server = self._server
        if server is None or self._server_is_hurt:
            return False
        self._note(step)
        hurt(server)
        if heal is not None:
            self._server_is_hurt = True

            def mend() -> None:
                heal(server)
                self._server_is_hurt = False

            self._agenda.later(step.seconds, mend)
        return True

    # --- whom

    def _victim(self, step: Step) -> Replica | None:
        able = [one for one in self.living() if one.number not in self._held and self.instance(one) is not None]
        leader = self._fleet.leading()
        if step.target == "leader":
            return leader if leader in able else None
        return next((one for one in able if one is not leader), None)

    def _note(self, step: Step, victim: Replica | None = None) -> None:
        instance = None if victim is None else self.instance(victim)
        if instance is not None and step.seconds >= NOTICED_SECONDS and step.what != "terminate":
            self._diary.unheard.add(instance)
        self._diary.deeds.append(Deed(step.what, datetime.now(UTC), instance))


def processes_end(faults: Faults) -> Iterator[str]:
    """Wait until no process of the fleet is left; return those that are, at last."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while (found := faults.left_behind()) and time.monotonic() < deadline:
        time.sleep(0.1)
    yield from found
