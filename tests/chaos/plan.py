"""From a seed to what is done when: a pure function.

A step names its victim by role, `leader` or `standby`, because who leads at that moment is decided by
what came before.  The steps are the same for the same seed, on whatever machine they are taken.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from tests.chaos.jobs import Job, draw_edit, draw_jobs

JOB_COUNT = 28
FAULT_EVERY_SECONDS = 6.0
REQUEST_EVERY_SECONDS = 3.0
LAST_FAULT_SECONDS = 1.0  # nothing begins so close to the end


@dataclass(frozen=True)
class Fault:
    """A way to hurt somebody: how often it is drawn, on whom, and for how long."""

    weight: int
    place: str  # process, line, server, lease
    seconds: tuple[float, float] = (0.0, 0.0)  # what it lasts is drawn between these
    on_sqlite: bool = True


# With tests.chaos.driver.ELECTION: a lease of 3 s, and 5 s of silence until a run is given up.
FAULTS: Mapping[str, Fault] = {
    "kill": Fault(6, "process", (0.0, 4.0)),  # lasts: until another is started in its place
    "kill_all": Fault(1, "process", (0.0, 4.0)),
    "terminate": Fault(3, "process", (0.0, 4.0)),
    "resign": Fault(2, "lease"),
    "freeze_briefly": Fault(2, "process", (0.2, 2.0)),
    "freeze_past_lease": Fault(3, "process", (3.3, 4.5)),
    "freeze_past_loss": Fault(2, "process", (6.5, 9.0)),
    "line_stalled_briefly": Fault(1, "line", (0.2, 2.0), on_sqlite=False),
    "line_stalled_past_lease": Fault(2, "line", (3.3, 9.0), on_sqlite=False),
    "requests_stalled": Fault(1, "line", (0.2, 6.0), on_sqlite=False),
    "replies_stalled": Fault(1, "line", (0.2, 6.0), on_sqlite=False),
    "line_slow": Fault(1, "line", (1.0, 6.0), on_sqlite=False),
    "line_cut": Fault(1, "line", on_sqlite=False),
    "line_reset": Fault(1, "line", on_sqlite=False),
    "replies_dropped": Fault(3, "line", on_sqlite=False),
    "sessions_terminated": Fault(2, "server", on_sqlite=False),
    "server_restarted_fast": Fault(1, "server", on_sqlite=False),
    "server_restarted_immediately": Fault(1, "server", on_sqlite=False),
    "server_down_past_lease": Fault(1, "server", (3.3, 6.0), on_sqlite=False),
    "server_frozen_briefly": Fault(1, "server", (0.2, 2.0), on_sqlite=False),
    "server_frozen_past_lease": Fault(1, "server", (3.3, 6.0), on_sqlite=False),
    "lease_deleted": Fault(2, "lease"),
    "lease_locked_briefly": Fault(1, "lease", (0.2, 2.0)),
    "lease_locked_past_lease": Fault(1, "lease", (3.3, 5.0)),
}
REQUESTS = {"trigger": 5, "pause": 2, "edit": 2, "cancel": 2}
PAUSE_SECONDS = (0.5, 6.0)


@dataclass(frozen=True)
class Step:
    """One thing that is done."""

    at: float  # seconds from the beginning
    what: str
    target: str | None = None  # leader, standby
    seconds: float = 0.0
    job: str | None = None
    edit: Job | None = None

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.2f} s" if self.seconds else ""
        words = " ".join(word for word in (self.what, self.target, self.job) if word)
        change = f" to {self.edit.when.config()}, {self.edit.seconds} s" if self.edit else ""
        return f"{self.at:8.2f}  {words}{lasts}{change}"


@dataclass(frozen=True)
class Plan:
    """Everything that a seed decides."""

    seed: int
    minutes: float
    replicas: int
    sqlite: bool
    jobs: tuple[Job, ...]
    steps: tuple[Step, ...]
    command: str  # that does it again


def plan(seed: int, minutes: float, replicas: int, *, sqlite: bool = False) -> Plan:
    """Draw jobs, faults and requests for `minutes`."""
    rng = random.Random(seed)
    jobs = draw_jobs(rng, JOB_COUNT)
    seconds = 60 * minutes
    steps = [*_faults(rng, seconds, sqlite=sqlite), *_requests(rng, seconds, jobs)]
    command = f"python -m tests.chaos --seed {seed} --minutes {minutes:g} --replicas {replicas}"
    command += " --sqlite" if sqlite else ""
    ordered = tuple(sorted(steps, key=lambda step: step.at))
    return Plan(seed, minutes, replicas, sqlite, jobs, ordered, command)


def plan_soak(seed: int, minutes: float, replicas: int, job_count: int) -> Plan:
    """Draw jobs that come due once in a while, and a fault a minute."""
    rng = random.Random(seed)
    jobs = draw_jobs(rng, job_count, rare=True)
    steps = tuple(_draw_fault(rng, round(60.0 * minute - 30.0, 2)) for minute in range(1, int(minutes) + 1))
    command = f"python -m tests.chaos.soak --seed {seed} --minutes {minutes:g} --replicas {replicas} --jobs {job_count}"
    return Plan(seed, minutes, replicas, False, jobs, steps, command)


def _faults(rng: random.Random, seconds: float, *, sqlite: bool) -> list[Step]:
    steps: list[Step] = []
    at = server_free_at = rng.uniform(0.5, 2.0)
    while at < seconds - LAST_FAULT_SECONDS:
        step = _draw_fault(rng, round(at, 2), sqlite=sqlite)
        if FAULTS[step.what].place == "server":
            if at < server_free_at:
                continue  # one at a time: a frozen server cannot be restarted
            server_free_at = at + step.seconds + 3.0
        steps.append(step)
        # Every fourth comes upon another.
        at += rng.uniform(0.0, 0.7) if rng.random() < 0.25 else rng.uniform(0.5, 2 * FAULT_EVERY_SECONDS)
    return steps


def _draw_fault(rng: random.Random, at: float, *, sqlite: bool = False) -> Step:
    names = [name for name, fault in FAULTS.items() if fault.on_sqlite or not sqlite]
    weights = [FAULTS[name].weight for name in names]
    name = rng.choices(names, weights)[0]
    fault = FAULTS[name]
    target = None
    if fault.place in ("process", "line") or name == "sessions_terminated":
        target = "leader" if rng.random() < 0.7 else "standby"
    return Step(at, name, target, round(rng.uniform(*fault.seconds), 2))


def _requests(rng: random.Random, seconds: float, jobs: tuple[Job, ...]) -> list[Step]:
    now = {job.name: job for job in jobs}
    steps = []
    at = rng.uniform(0.5, 2.0)
    while at < seconds - LAST_FAULT_SECONDS:
        what = rng.choices(list(REQUESTS), list(REQUESTS.values()))[0]
        name = rng.choice(sorted(now))
        edit = None
        if what == "edit":
            edit = now[name] = draw_edit(rng, now[name])
        lasts = round(rng.uniform(*PAUSE_SECONDS), 2) if what == "pause" else 0.0
        steps.append(Step(round(at, 2), what, None, lasts, name, edit))
        at += rng.uniform(0.2, 2 * REQUEST_EVERY_SECONDS)
    return steps
