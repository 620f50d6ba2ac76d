"""When which job is due: the only module that knows APScheduler.

APScheduler keeps the timers and tells the dispatcher when one goes off: one for all jobs that always come due
together, which is what large numbers of jobs do.  It decides nothing: which ticks there are, and what becomes
of them, is computed from the ledger.  So a timer that goes off twice, early or late does no harm, and standbys
hold no timers at all.

What APScheduler would do on its own is turned off: its misfire rule and its limit of instances
refuse without a record, and its triggers give each replica different ticks.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.base import BaseExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.base import BaseTrigger

from scheduler_service.clock import LONG_AGO, Clock, DatabaseTime
from scheduler_service.events import Events
from scheduler_service.model import JobSpec
from scheduler_service.schedule import Schedule, due_at

LONGEST_SLEEP_SECONDS = 1.0
NO_LEASE_SECONDS = 0.1  # how soon the loop looks again while our lease is suspect
DRIFT_SECONDS = 0.1  # a change of the clocks' difference beyond this arms anew
OVERLAP = timedelta(seconds=1)  # how far back timers that are set anew reach: rather twice than never
MANY = 10**6

logging.getLogger("apscheduler").setLevel(logging.ERROR)  # its view of what it was not asked to decide


@dataclass(frozen=True, slots=True)
class _Timer:
    """One timer, and the jobs that come due when it goes off."""

    spec: JobSpec  # of one of them
    job_ids: tuple[str, ...]


class Trigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """The due moments of one job, on this machine's wall clock.

    `offset` is how far the database's clock is ahead of it; it stays as it was when the timers were
    armed, so that what APScheduler hands back can be turned into the database's time exactly.
    """

    __slots__ = ("_offset", "_spec")

    def __init__(self, spec: JobSpec, offset: timedelta) -> None:
        self._spec = spec
        self._offset = offset

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the first due moment after both; those in between are settled by the dispatcher."""
        # Going from `previous` alone would make APScheduler walk every missed tick under its lock.
        spec, latest = self._spec, now if previous_fire_time is None else max(previous_fire_time, now)
        after = latest.astimezone(UTC) + self._offset
        tick = spec.schedule.after(after - spec.jitter)
        while tick is not None:
            due = due_at(spec.id, tick, spec.jitter)
            if due > after:
                return due - self._offset
            tick = spec.schedule.after(tick)
        return None


class _Hand(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types
    """Passes a due job on.  It is called under the job store's lock, so it does nothing else."""

    def __init__(self, due: Callable[[str, datetime], None]) -> None:
        super().__init__()
        self.due = due
        self.offset = timedelta(0)
        self.timers: Mapping[str, _Timer] = {}  # replaced whole

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        moment = run_times[-1].astimezone(UTC) + self.offset
        timer = self.timers.get(job.id)
        for job_id in () if timer is None else timer.job_ids:
            self.due(job_id, moment)
        self._run_job_success(job.id, [])


class _Loop(BaseScheduler):  # type: ignore[misc]  # APScheduler has no types
    """APScheduler without a thread of its own; it looks at the lease each time it wakes."""

    def __init__(self, hand: _Hand, look: Callable[[], bool]) -> None:
        super().__init__(timezone=UTC)
        self.add_executor(hand)
        self._look = look
        self._woken = threading.Event()
        self.setting_many = False  # timers are being set, and the loop is woken after the last
        self.start(paused=True)  # before there is a thread, so that timers can be set at any time

    def wakeup(self) -> None:
        if not self.setting_many:  # APScheduler wakes us for each timer that is set
            self._woken.set()

    def shutdown(self, wait: bool = False) -> None:
        super().shutdown(wait)
        self.wakeup()

    def loop(self) -> None:
        while self.running:
            seconds = self.turn()
            self._woken.wait(seconds)
            self._woken.clear()

    def turn(self) -> float:
        if not self._look():
            return NO_LEASE_SECONDS
        seconds = self._process_jobs()
        return LONGEST_SLEEP_SECONDS if seconds is None else min(seconds, LONGEST_SLEEP_SECONDS)


class Timetable:
    """The timers of a leader.

    `due(job, moment)` is called when a job comes due, with the moment in the database's time.
    `leading()` is asked each time the loop wakes.  `drifted()` is called once when the difference of
    the clocks has changed and the timers should be armed anew.
    """

    def __init__(
        self,
        *,
        due: Callable[[str, datetime], None],
        leading: Callable[[], bool],
        drifted: Callable[[], None],
        database_time: DatabaseTime,
        events: Events,
        clock: Clock,
    ) -> None:
        self._leading = leading
        self._drifted = drifted
        self._time = database_time
        self._events = events
        self._clock = clock
        self.stepped_at = clock.monotonic()  # when the loop was last alive, on the boot clock
        self._hand = _Hand(due)
        self._loop = _Loop(self._hand, self._look)
        self._armed: timedelta | None = None
        self._arming = threading.Lock()

    def run(self) -> None:
        """Run the loop in the calling thread until `stop`; whatever goes wrong in it comes out here."""
        self._loop.loop()

    def stop(self) -> None:
        """Let `run` return."""
        if self._loop.running:
            self._loop.shutdown()

    def arm(self, specs: Iterable[JobSpec], term: int, since: datetime) -> None:
        """Set the timers of all enabled jobs, from `since` on in the database's time; what is past goes off now."""
        with self._arming:
            offset = self._time.ahead_of_wall()
            first = min(since - offset, datetime.now(UTC))  # the database's clock may have been set back
            self._loop.pause()
            self._loop.remove_all_jobs()
            self._hand.offset = offset
            self._hand.timers = timers = _timers(specs)
            self._loop.setting_many = True
            for name, timer in timers.items():
                self._set(name, timer, offset, first)
            self._loop.setting_many = False
            self._armed = offset
            self._loop.resume()
        count = sum(len(timer.job_ids) for timer in timers.values())
        self._events.emit("timetable_armed", term=term, job_count=count, offset_seconds=offset.total_seconds())

    def rearm(self, before: Iterable[JobSpec], after: Iterable[JobSpec]) -> None:
        """Set anew the timers of jobs whose ticks are others than `before`; those of the others go on.

        The jobs are told to be due as well, behind those whose timers go off: what came due under the former timers
        is settled.
        """
        after = tuple(after)
        old, new = _timings(before), _timings(after)
        changed = {job_id for job_id in old.keys() | new.keys() if old.get(job_id) != new.get(job_id)}
        with self._arming:
            offset = self._armed
            if not changed or offset is None:  # unarmed, all timers are about to be set
                return
            since = datetime.now(UTC) - OVERLAP
            former, self._hand.timers = self._hand.timers, _timers(after)
            self._loop.setting_many = True
            for name in former.keys() - self._hand.timers.keys():
                with contextlib.suppress(JobLookupError):  # its last tick has gone off
                    self._loop.remove_job(name)
            for name, timer in self._hand.timers.items():
                # Where jobs join others, their timer may have gone off for the last time already.
                if name not in former or self._loop.get_job(name) is None:
                    self._set(name, timer, offset, since)
            self._loop.setting_many = False
            self._loop.wakeup()
        for spec in after:
            if spec.id in changed:
                self._hand.due(spec.id, LONG_AGO)

    def disarm(self, term: int) -> None:
        """Take all timers off.  No barrier: what has gone off already is refused by the fence."""
        with self._arming:
            self._armed = None
            self._loop.pause()
            self._loop.remove_all_jobs()
        self._events.emit("timetable_disarmed", term=term)

    def _set(self, name: str, timer: _Timer, offset: timedelta, since: datetime) -> None:
        trigger = Trigger(timer.spec, offset)
        # From one moment for all: setting many takes a while, and a tick that comes due meanwhile is some job's last
        # for a day.  A timer that is set into the past goes off at once.
        first = trigger.get_next_fire_time(None, since)
        if first is not None:
            self._loop.add_job(
                _nothing,
                trigger,
                id=name,
                next_run_time=first,
                misfire_grace_time=None,
                coalesce=True,
                max_instances=MANY,
            )

    def _look(self) -> bool:
        self.stepped_at = self._clock.monotonic()
        armed = self._armed
        if armed is None or not self._leading():
            return False
        if abs((self._time.ahead_of_wall() - armed).total_seconds()) > DRIFT_SECONDS:
            self._armed = None
            self._drifted()
            return False
        return True


def _timings(specs: Iterable[JobSpec]) -> dict[str, tuple[Schedule, timedelta]]:
    """Return what decides when each enabled job comes due."""
    return {spec.id: (spec.schedule, spec.jitter) for spec in specs if spec.enabled}


def _timers(specs: Iterable[JobSpec]) -> dict[str, _Timer]:
    """Return the timers of the enabled jobs, by name: jitter delays each job otherwise, so that it has its own."""
    together: dict[str, list[JobSpec]] = {}
    for spec in specs:
        if spec.enabled:
            own = f" {spec.jitter} {spec.id}" if spec.jitter else ""
            together.setdefault(f"{spec.schedule.canonical} {spec.schedule.timezone}{own}", []).append(spec)
    return {name: _Timer(jobs[0], tuple(job.id for job in jobs)) for name, jobs in together.items()}


def _nothing() -> None:
    """Stand for a job: APScheduler never calls it."""
