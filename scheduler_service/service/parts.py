"""The parts of one replica, made from its configuration and connected with each other.

Nothing is started here, and no connection is made.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from scheduler_service import __version__
from scheduler_service.clock import BootClock, Clock
from scheduler_service.config import Config
from scheduler_service.context import DatabaseAddress
from scheduler_service.database import Database, StoreUnavailable
from scheduler_service.dispatcher import Dispatcher
from scheduler_service.elector import Elector
from scheduler_service.events import Events
from scheduler_service.forfeits import Forfeits
from scheduler_service.housekeeping import Housekeeping
from scheduler_service.ledger import Ledger, Replica, open_ledger
from scheduler_service.ledger.sampling import Sampler
from scheduler_service.mailbox import Mailbox
from scheduler_service.metrics import Metrics, Sources
from scheduler_service.reloading import Reloader
from scheduler_service.results import Results
from scheduler_service.runner import Runner, Surroundings
from scheduler_service.rush import Rush
from scheduler_service.timetable import Timetable
from scheduler_service.watch import Watch
from scheduler_service.workers import Workers

SAMPLE_SECONDS = 3.0  # for each answer to the watch: one that takes longer tells of another time


class Phase(StrEnum):
    """How far a replica has come."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Progress:
    """How far the conductor has come, and when it took its last step.  Only the conductor writes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.phase = Phase.STARTING
        self.stepped_at = clock.monotonic()

    def step(self) -> None:
        """Note that the conductor is alive."""
        self.stepped_at = self._clock.monotonic()


@dataclass(frozen=True, slots=True)
class Drifted:
    """The clocks' difference changed: the timers must be armed anew."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The first of what was due in a new term is settled and started: whatever disturbs the dispatcher may begin."""

    term: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What a replica is made of.  `inbox` takes the conductor's messages."""

    inbox: Mailbox[Any]
    events: Events  # of this instance
    clock: Clock
    progress: Progress
    database: Database
    elector: Elector
    ledger: Ledger
    results: Results
    runner: Runner
    workers: Workers
    dispatcher: Dispatcher
    timetable: Timetable
    housekeeping: Housekeeping
    forfeits: Forfeits
    reloader: Reloader
    watch: Watch
    metrics: Metrics


class WebServer(Protocol):
    """What serves HTTP beside the service, for as long as it does."""

    @property
    def url(self) -> str:
        """Where it listens."""

    def start(self) -> None:
        """Begin; must not block."""

    def stop(self, seconds: float) -> None:
        """End, within so many seconds."""


def assemble(
    config: Config,
    events: Events,
    *,
    clock: Clock | None = None,
    rush: Rush | None = None,
    surroundings: Surroundings | None = None,
) -> Parts:
    """Make the parts; StoreRefused if the database's URL cannot be used.  `rush` is for who else wants to know.

    `surroundings` are from before the jobs' modules were loaded, if they are: what those change as they are loaded
    is no more for commands and child processes than what their functions change.
    """
    clock, rush = clock or BootClock(), rush or Rush()
    inbox: Mailbox[Any] = Mailbox()
    election, history = config.election, config.history
    url = config.database.url.get_secret_value()
    attempt_seconds = election.attempt_timeout.total_seconds()
    database = Database(url, schema=config.database.schema_, attempt_seconds=attempt_seconds, clock=clock)
    # The elector's threads start last, but its id is everybody's name.
    elector = Elector(
        database,
        lock_id=election.lock_id,
        instance_id=election.instance_id,
        lease_duration=election.lease_duration,
        renewal_interval=election.renewal_interval,
        jitter_range=election.jitter_range,
        attempt_timeout=election.attempt_timeout,
        safety_margin=election.safety_margin,
        crash_detection=election.crash_detection,
        schema=config.database.schema_,
        events=events,
        clock=clock,
        announce=inbox.put,
    )
    events = events.bind(instance=elector.instance_id)

    def crash(name: str, error: BaseException) -> None:
        tell_crash(events, name, error)

    ledger = open_ledger(database, election.lock_id)

    def still_open(attempt_id: int) -> bool | None:
        try:
            return ledger.still_open(attempt_id)
        except StoreUnavailable:
            return None

    sign_in_seconds = election.renewal_interval.total_seconds()
    lost_after_seconds = election.lost_after.total_seconds()
    results = Results(ledger.finish, events=events, clock=clock, on_crash=crash, rush=rush)
    runner = Runner(
        jobs_folder=config.service.jobs_folder,
        output_limit=history.output_limit,
        events=events,
        clock=clock,
        instance_id=elector.instance_id,
        database=DatabaseAddress(url, config.database.schema_),
        surroundings=surroundings,
    )
    workers = Workers(
        config.workers.threads,
        runner.run,
        results,
        processes=config.workers.processes,
        still_open=still_open,
        begin_within_seconds=lost_after_seconds / 2,
        on_crash=crash,
        database_time=elector.database_time,
        events=events,
        clock=clock,
    )
    runner.on_returned = workers.returned
    dispatcher = Dispatcher(
        ledger=ledger,
        leadership=elector,
        workers=workers,
        events=events,
        clock=clock,
        specs=config.jobs,
        sign_in_seconds=sign_in_seconds,
        rush=rush,
    )
    timetable = Timetable(
        due=dispatcher.due,
        leading=lambda: elector.current() is not None,
        drifted=lambda: inbox.put(Drifted()),
        database_time=elector.database_time,
        events=events,
        clock=clock,
    )
    housekeeping = Housekeeping(
        ledger=ledger,
        replica=Replica(elector.instance_id, socket.gethostname(), os.getpid(), __version__, config.hash),
        current=elector.current,
        deposed=elector.deposed,
        workers=workers,
        open_claims=dispatcher.open_claims,
        starts_limits=dispatcher.starts_limits,
        wake_dispatcher=dispatcher.wake,
        events=events,
        clock=clock,
        sign_in_seconds=sign_in_seconds,
        lost_after_seconds=lost_after_seconds,
        keep_for=history.keep_for,
        keep_runs=history.keep_runs,
        job_ids=tuple(spec.id for spec in config.jobs),
    )
    dispatcher.on_replaced = housekeeping.wake
    dispatcher.on_taken_over = lambda term: inbox.put(TakenOver(term))
    watch = Watch(
        samples=Sampler(database, election.lock_id, SAMPLE_SECONDS),
        survey=ledger.survey,
        leadership=elector,
        events=events,
        clock=clock,
        specs=config.jobs,
        lost_after_seconds=lost_after_seconds,
        sign_in_seconds=sign_in_seconds,
        rush=rush,
    )
    progress = Progress(clock)
    stepped_at = {
        "conductor": lambda: progress.stepped_at,
        "elector": lambda: elector.stepped_at,
        "scheduler": lambda: timetable.stepped_at,
        "dispatcher": lambda: dispatcher.stepped_at,
    }
    sources = Sources(elector, workers, results, watch, stepped_at)
    metrics = Metrics(sources, clock, config.jobs, config.hash, config.service.name)
    events.subscribe(metrics.on_event)
    return Parts(
        inbox=inbox,
        events=events,
        clock=clock,
        progress=progress,
        database=database,
        elector=elector,
        ledger=ledger,
        results=results,
        runner=runner,
        workers=workers,
        dispatcher=dispatcher,
        timetable=timetable,
        housekeeping=housekeeping,
        forfeits=Forfeits(workers, dispatcher.open_claims),
        reloader=Reloader(config, announce=inbox.put, events=events, clock=clock),
        watch=watch,
        metrics=metrics,
    )


def tell_crash(events: Events, thread: str, error: BaseException) -> None:
    """Tell that a thread of ours ended with an error: half a service is worse than none."""
    sys.excepthook(type(error), error, error.__traceback__)
    events.emit("thread_crashed", thread=thread, error=f"{type(error).__name__}: {error}")
