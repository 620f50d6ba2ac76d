"""Jobs drawn at random, and their ticks, computed without asking the code under test."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.faults.evidence import EPOCH

SCRIPT = Path(__file__).parents[1] / "faults" / "jobs" / "tally.sh"
SECOND = timedelta(seconds=1)
MILLISECOND = timedelta(milliseconds=1)
RERUN_STARTS = 10  # how often a job with `on_crash: rerun` and without `retry` is started at most


@dataclass(frozen=True)
class Every:
    """Multiples of an interval since the epoch, plus an offset."""

    milliseconds: int
    offset: int = 0

    def ticks(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Return the ticks in (after, until]."""
        interval, origin = self.milliseconds * MILLISECOND, EPOCH + self.offset * MILLISECOND
        number = (after - origin) // interval + 1
        while (tick := origin + number * interval) <= until:
            yield tick
            number += 1

    def shortest_gap(self) -> float:
        """Return the seconds between two ticks."""
        return self.milliseconds / 1000

    def config(self) -> dict[str, str]:
        """Return its settings."""
        offset = {"offset": f"{self.offset}ms"} if self.offset else {}
        return {"every": f"{self.milliseconds}ms", **offset}


@dataclass(frozen=True)
class AtSeconds:
    """Some seconds of each minute, as a cron expression of six fields."""

    seconds: tuple[int, ...]

    def ticks(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Return the ticks in (after, until]."""
        minute = after.replace(second=0, microsecond=0)
        while minute <= until:
            for second in self.seconds:
                if after < (tick := minute + second * SECOND) <= until:
                    yield tick
            minute += 60 * SECOND

    def shortest_gap(self) -> float:
        """Return the least seconds between two ticks."""
        following = (*self.seconds[1:], self.seconds[0] + 60)
        return float(min(later - second for second, later in zip(self.seconds, following, strict=True)))

    def config(self) -> dict[str, str]:
        """Return its settings."""
        return {"cron": f"{','.join(map(str, self.seconds))} * * * * *"}


@dataclass(frozen=True)
class Job:
    """One job: what it is, when it comes due and what it allows."""

    name: str
    kind: str  # thread, coroutine, process, command
    when: Every | AtSeconds
    seconds: float  # how long a run takes
    overlap: str = "skip"
    queue_limit: int | None = None
    max_running: int | None = None
    catch_up: str = "latest"
    catch_up_window: int | None = None  # seconds
    catch_up_limit: int | None = None
    misfire_grace: int = 60  # seconds
    starts: int = 1  # retry.attempts
    on_crash: str = "fail"
    on_leadership_lost: str = "finish"
    timeout: float | None = None  # seconds
    fails: bool = False
    jitter: float = 0.0  # seconds

    @property
    def running_limit(self) -> int | None:
        """How many runs may go on at once; None for any number."""
        return self.max_running or (None if self.overlap == "allow" else 1)

    @property
    def starts_limit(self) -> int:
        """How often one run may be started."""
        return RERUN_STARTS if self.on_crash == "rerun" and self.starts == 1 else self.starts

    def config(self, tally: Path) -> dict[str, Any]:
        """Return its part of the configuration; its runs leave their lines in `tally`."""
        settings: dict[str, Any] = {**self.when.config(), **self._what(tally)}
        settings |= {"overlap": self.overlap, "catch_up": self.catch_up, "misfire_grace": f"{self.misfire_grace}s"}
        settings |= {"on_crash": self.on_crash, "on_leadership_lost": self.on_leadership_lost}
        if self.starts > 1:
            settings["retry"] = {"attempts": self.starts, "delay": "300ms", "factor": 1}
        for name in ("queue_limit", "max_running", "catch_up_limit"):
            if (value := getattr(self, name)) is not None:
                settings[name] = value
        if self.catch_up_window is not None:
            settings["catch_up_window"] = f"{self.catch_up_window}s"
        if self.timeout is not None:
            settings["timeout"] = f"{round(1000 * self.timeout)}ms"
        if self.jitter:
            settings["jitter"] = f"{round(1000 * self.jitter)}ms"
        return settings

    def _what(self, tally: Path) -> dict[str, Any]:
        if self.kind == "command":
            return {"command": ["/bin/sh", str(SCRIPT), str(tally), str(self.seconds), "1" if self.fails else "0"]}
        function = {"coroutine": "note_later"}.get(self.kind, "fail" if self.fails else "note_until_stopped")
        kwargs: dict[str, Any] = {"path": str(tally), "seconds": self.seconds}
        if self.kind == "coroutine":
            kwargs["fails"] = self.fails
        isolation = {"isolation": "process"} if self.kind == "process" else {}
        return {"run": f"tally:{function}", "kwargs": kwargs, **isolation}


def draw_jobs(rng: random.Random, count: int, *, rare: bool = False) -> tuple[Job, ...]:
    """Draw jobs: every kind and every overlap policy in turn, the rest by chance; `rare` ones, if there are many."""
    kinds = ("thread", "coroutine", "thread", "process", "coroutine", "thread", "command")
    overlaps = ("skip", "allow", "queue", "replace")
    return tuple(
        _draw(rng, f"{kinds[number % 7]}-{number:03}", kinds[number % 7], overlaps[number % 4], rare=rare)
        for number in range(count)
    )


def draw_edit(rng: random.Random, job: Job) -> Job:
    """Draw another schedule, another duration and another jitter for a job."""
    when = _draw_schedule(rng, job.kind)
    return replace(job, when=when, seconds=_draw_seconds(rng, when, job), jitter=_draw_jitter(rng, when))


def _draw(rng: random.Random, name: str, kind: str, overlap: str, *, rare: bool) -> Job:
    when = _draw_rare_schedule(rng, kind) if rare else _draw_schedule(rng, kind)
    job = Job(name, kind, when, 0.0, overlap)
    fails = rng.random() < 0.25
    catch_up = rng.choice(("none", "latest", "all", "all"))
    grace = rng.choice((60, 60, 1, 3))
    job = replace(
        job,
        queue_limit=rng.choice((1, 3, 10)) if overlap == "queue" else None,
        max_running=None if overlap == "allow" else rng.choice((None, None, 2, 3)),
        catch_up=catch_up,
        catch_up_window=rng.choice((None, 5)) if catch_up != "none" and grace < 5 else None,
        catch_up_limit=rng.choice((None, 2)) if catch_up == "all" else None,
        misfire_grace=grace,
        starts=rng.choice((2, 3)) if fails or rng.random() < 0.2 else 1,
        on_crash=rng.choice(("fail", "rerun")),
        on_leadership_lost=rng.choice(("finish", "finish", "cancel")),
        fails=fails,
    )
    job = replace(job, seconds=_draw_seconds(rng, job.when, job), jitter=_draw_jitter(rng, job.when))
    # A function in a thread that is to fail does not listen, so it could not be timed out.
    if not (job.fails and kind == "thread") and rng.random() < 0.2:
        job = replace(job, timeout=round(max(0.2, job.seconds * rng.choice((0.5, 3.0))), 2))
    return job


def _draw_schedule(rng: random.Random, kind: str) -> Every | AtSeconds:
    slow = kind in ("process", "command")  # each start costs a tenth of a second of a core
    if rng.random() < 0.3:
        return AtSeconds(tuple(sorted(rng.sample(range(60), rng.randint(3, 8) if slow else rng.randint(6, 30)))))
    interval = rng.choice((4000, 5000, 7000) if slow else (500, 1000, 1500, 2000, 3000))
    return Every(interval, rng.choice((0, rng.randrange(interval))))


def _draw_rare_schedule(rng: random.Random, kind: str) -> Every | AtSeconds:
    """Once a minute or so; what costs a process, every few minutes."""
    if kind in ("process", "command"):
        interval = rng.choice((180_000, 240_000, 300_000, 600_000))
    elif rng.random() < 0.3:
        return AtSeconds((rng.randrange(60),))
    else:
        interval = rng.choice((30_000, 60_000, 90_000, 120_000))
    return Every(interval, rng.randrange(interval))


def _draw_seconds(rng: random.Random, when: Every | AtSeconds, job: Job) -> float:
    """Shorter and longer than the distance between two ticks."""
    distance = when.milliseconds / 1000 if isinstance(when, Every) else 60 / len(when.seconds)
    return round(min(5.0, distance * rng.choice((0.02, 0.1, 0.5, 0.9, 1.7, 2.5))), 2)


def _draw_jitter(rng: random.Random, when: Every | AtSeconds) -> float:
    """None for most; else shorter than the distance between two ticks, and so short that all come due in time."""
    if rng.random() < 0.7:
        return 0.0
    return round(min(5.0, when.shortest_gap() * rng.choice((0.1, 0.5, 0.9))), 2)
