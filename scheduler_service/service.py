"""The conductor: starts the parts in order, passes leadership on, stops them in order.

    start   database -> tables -> results, workers -> housekeeping (signs in) -> dispatcher, scheduler -> elector
    elected dispatcher.lead, timetable.arm
    lost    dispatcher.retire, timetable.disarm
    reload  timetable.rearm, dispatcher.configure, housekeeping.configure
    drain   lease given back -> running jobs finish -> results written -> signed out -> everything stopped

It runs on the main thread, waits for one message at a time, and neither queries nor runs a job.
Pausing the timetable is no barrier; the fence in each statement is.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any

from scheduler_service import __version__, tables
from scheduler_service.clock import BootClock, Clock
from scheduler_service.config import Config
from scheduler_service.context import DatabaseAddress
from scheduler_service.database import Database, StoreRefused, StoreUnavailable
from scheduler_service.dispatcher import Dispatcher
from scheduler_service.elector import Elected, Elector, Lost
from scheduler_service.events import Event, Events
from scheduler_service.forfeits import Forfeits
from scheduler_service.housekeeping import Housekeeping
from scheduler_service.ledger import Replica, open_ledger
from scheduler_service.model import Lease
from scheduler_service.reloading import Reloaded, Reloader, listed
from scheduler_service.results import Results
from scheduler_service.runner import Runner, needs_process
from scheduler_service.timetable import Timetable
from scheduler_service.workers import Workers

LOOK_SECONDS = 1.0  # how often the conductor looks after its threads
STOP_SECONDS = 3.0  # for parts that are told to stop, and for their last words to the database
HURRY_SECONDS = 3.0  # from the second signal to the end, come what may
CUT_SECONDS = 1.0  # after `kill_after`, for what was cut off to end and be written
CONNECT_RETRY_SECONDS = 0.5

OK, CUT_OFF, OURS = 0, 1, 70


@dataclass(frozen=True, slots=True)
class _Signalled:
    number: int


@dataclass(frozen=True, slots=True)
class _Crashed:
    thread: str


@dataclass(frozen=True, slots=True)
class _Drifted:
    """The clocks' difference changed: the timers must be armed anew."""


class Service:
    """One replica."""

    def __init__(self, config: Config, events: Events, *, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or BootClock()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self._lease: Lease | None = None
        self._draining = False
        election, history = config.election, config.history
        self._database = Database(
            config.database.url.get_secret_value(),
            schema=config.database.schema_,
            attempt_seconds=election.attempt_timeout.total_seconds(),
        )
        # The elector's threads start last, but its id is everybody's name.
        self._elector = Elector(
            self._database,
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
            clock=self._clock,
            announce=self._inbox.put,
        )
        self._events = events.bind(instance=self._elector.instance_id)
        events.subscribe(self._note_crash)
        ledger = open_ledger(self._database, election.lock_id)
        sign_in_seconds = election.renewal_interval.total_seconds()
        lost_after_seconds = election.lost_after.total_seconds()
        self._ledger = ledger
        self._results = Results(ledger.finish, events=self._events, clock=self._clock, on_crash=self._crash)
        self._runner = Runner(
            jobs_folder=config.service.jobs_folder,
            output_limit=history.output_limit,
            events=self._events,
            clock=self._clock,
            instance_id=self._elector.instance_id,
            database=DatabaseAddress(config.database.url.get_secret_value(), config.database.schema_),
        )
        self._workers = Workers(
            config.workers.threads,
            self._runner.run,
            self._results,
            processes=config.workers.processes,
            still_open=self._still_open,
            begin_within_seconds=lost_after_seconds / 2,
            on_crash=self._crash,
            database_time=self._elector.database_time,
            events=self._events,
            clock=self._clock,
        )
        self._runner.on_returned = self._workers.returned
        self._dispatcher = Dispatcher(
            ledger=ledger,
            leadership=self._elector,
            workers=self._workers,
            events=self._events,
            clock=self._clock,
            specs=config.jobs,
            sign_in_seconds=sign_in_seconds,
        )
        self._timetable = Timetable(
            due=self._dispatcher.due,
            leading=lambda: self._elector.current() is not None,
            drifted=lambda: self._inbox.put(_Drifted()),
            database_time=self._elector.database_time,
            events=self._events,
        )
        self._housekeeping = Housekeeping(
            ledger=ledger,
            replica=Replica(self._elector.instance_id, socket.gethostname(), os.getpid(), __version__, config.hash),
            current=self._elector.current,
            workers=self._workers,
            open_claims=self._dispatcher.open_claims,
            starts_limits=self._dispatcher.starts_limits,
            wake_dispatcher=self._dispatcher.wake,
            events=self._events,
            clock=self._clock,
            sign_in_seconds=sign_in_seconds,
            lost_after_seconds=lost_after_seconds,
            keep_for=history.keep_for,
            keep_runs=history.keep_runs,
            job_ids=tuple(spec.id for spec in config.jobs),
        )
        self._forfeits = Forfeits(self._workers, self._dispatcher.open_claims)
        self._reloader = Reloader(config, announce=self._inbox.put, events=self._events, clock=self._clock)

        self._dispatcher.on_replaced = self._housekeeping.wake

    def run(self) -> int:
        """Run until a signal or a crash; return the exit code.

        Raises StoreUnavailable when no database answered within `startup_timeout`, StoreRefused when it
        refuses us.  Must be called from the main thread, which gets the signals.
        """
        former = self._take_signals()
        try:
            now = self._prepare_database()
            if now is None:
                return OK
            self._start(now)
            return self._conduct()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            self._runner.close()
            self._database.dispose()

    # --- start

    def _take_signals(self) -> Mapping[int, Any]:
        def pass_on(number: int, _: FrameType | None) -> None:
            self._inbox.put(_Signalled(number))
            if self._draining:  # whatever the main thread waits for, it ends now
                hurry = threading.Timer(HURRY_SECONDS, os._exit, (CUT_OFF,))
                hurry.daemon = True
                hurry.start()

        def reload(_: int, __: FrameType | None) -> None:
            self._reloader.request()

        handlers: dict[int, Any] = {signal.SIGTERM: pass_on, signal.SIGINT: pass_on, signal.SIGHUP: reload}
        # Ignored, as a parent or a job's module may have left it, it would cost us how commands end.
        handlers[signal.SIGCHLD] = signal.SIG_DFL
        return {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def _prepare_database(self) -> datetime | None:
        """Wait for the database and its tables; return its time, or None when a signal came first."""
        deadline = self._clock.monotonic() + self._config.database.startup_timeout.total_seconds()
        told = False
        while True:
            try:
                if self._config.database.create_tables:
                    before, after = tables.upgrade(self._database)
                    if before != after:
                        self._events.emit("schema_upgraded", revision_from=before or "", revision_to=after)
                else:
                    tables.require_current(self._database)
                return self._ledger.survey([""]).now
            except StoreRefused:
                raise
            except StoreUnavailable as error:
                if self._clock.monotonic() >= deadline:
                    raise
                if not told:
                    told = True
                    self._events.emit("store_unavailable", part="start", error=str(error))
            if isinstance(self._message(CONNECT_RETRY_SECONDS), _Signalled):
                return None

    def _start(self, now: datetime) -> None:
        self._results.start()
        self._prepare_processes()
        self._thread("housekeeping", self._housekeeping.run)
        self._thread("dispatcher", self._dispatcher.run)
        self._thread("scheduler", self._timetable.run)
        self._thread("reloader", self._reloader.run)
        self._workers.on_free = self._dispatcher.wake
        self._elector.start()
        upcoming = [
            (moment, spec.id)
            for spec in self._config.jobs
            if spec.enabled and (moment := spec.schedule.after(now)) is not None
        ]
        first = {"next_job": min(upcoming)[1], "next_at": min(upcoming)[0]} if upcoming else {}
        self._events.emit(
            "service_started",
            role="standby",  # as every replica begins
            database=self._database.safe_url,
            version=__version__,
            jobs=len(self._config.jobs),
            **first,
        )

    def _prepare_processes(self) -> None:
        if any(needs_process(spec) for spec in self._config.jobs):
            self._runner.prepare()

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        def body() -> None:
            try:
                target()
            except BaseException as error:  # half a service is worse than none
                self._crash(name, error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads[name] = thread
        thread.start()

    def _crash(self, name: str, error: BaseException) -> None:
        sys.excepthook(type(error), error, error.__traceback__)
        self._events.emit("thread_crashed", thread=name, error=f"{type(error).__name__}: {error}")

    def _note_crash(self, event: Event) -> None:
        if event.name == "thread_crashed":  # ours, the elector's or a worker's
            self._inbox.put(_Crashed(event.fields["thread"]))

    # --- conduct

    def _conduct(self) -> int:
        while True:
            message = self._message(LOOK_SECONDS)
            if isinstance(message, Elected):
                self._lead(message.lease)
            elif isinstance(message, Lost):
                self._stand_by(message.lease.term)
                self._forfeits.lost(message.lease.term, message.reason)
            elif isinstance(message, Reloaded):
                self._reload(message)
            elif isinstance(message, _Drifted) and self._lease is not None:
                self._timetable.arm(self._config.jobs, self._lease.term)
            elif isinstance(message, _Signalled):
                return self._drain(message.number)
            elif isinstance(message, _Crashed) or not self._alive():
                return self._fail()
            self._forfeits.step()

    def _message(self, seconds: float) -> Any:
        try:
            return self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None

    def _lead(self, lease: Lease) -> None:
        self._lease = lease
        # First the dispatcher: settling all jobs up to now covers whatever came due before the timers were set.
        self._dispatcher.lead(lease)
        self._timetable.arm(self._config.jobs, lease.term)
        self._housekeeping.wake()  # last: the dispatcher has the warm connection meanwhile

    def _stand_by(self, term: int) -> None:
        if self._lease is None or self._lease.term != term:
            return
        self._lease = None
        self._dispatcher.retire(term)
        self._timetable.disarm(term)

    def _reload(self, reloaded: Reloaded) -> None:
        """Use another configuration from now on.  What runs is not disturbed."""
        former, self._config = self._config, reloaded.config
        self._dispatcher.configure(reloaded.config.jobs)
        if self._lease is not None:  # else the timers are set when we are elected
            self._timetable.rearm(former.jobs, reloaded.config.jobs)
        self._prepare_processes()
        self._housekeeping.configure(reloaded.config.hash, tuple(spec.id for spec in reloaded.config.jobs))
        news = {"added": reloaded.added, "removed": reloaded.removed, "changed": reloaded.changed}
        told = {name: listed(jobs) for name, jobs in news.items() if jobs}
        self._events.emit("config_reloaded", hash=reloaded.config.hash, **told)

    def _alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads.values())

    # --- stop

    def _drain(self, number: int) -> int:
        grace_seconds = self._config.service.shutdown_grace.total_seconds()
        deadline = self._clock.monotonic() + grace_seconds
        self._draining = True
        self._reloader.stop()
        self._events.emit(
            "service_draining",
            signal=signal.Signals(number).name,
            running_count=len(self._workers.registry()),
            grace_seconds=grace_seconds,
        )
        # The lease goes back before anything is waited for, so that another replica takes over at once.
        self._elector.stop(STOP_SECONDS)
        if self._lease is not None:
            self._stand_by(self._lease.term)
        code = OK if self._finish_runs(deadline) else self._cut_off(hurried=self._clock.monotonic() < deadline)
        self._results.flush(self._clock.monotonic() + (STOP_SECONDS if code == OK else CUT_SECONDS))
        self._close(code, signal.Signals(number).name)
        return code

    def _finish_runs(self, deadline: float) -> bool:
        """Wait for what runs; False when the grace is over or a second signal came."""
        while self._workers.registry() or self._dispatcher.open_claims():
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            message = self._message(min(0.05, left))
            if isinstance(message, _Signalled) or (isinstance(message, _Crashed) and message.thread in self._threads):
                return False
        return True

    def _cut_off(self, *, hurried: bool) -> int:
        """Stop what still runs; what does not stop is closed as lost when we sign out."""
        running = self._workers.registry()
        for attempt_id in running:
            self._workers.stop_run(attempt_id, "the replica is stopping")
        longest = 0.0
        if not hurried:
            specs = [spec for attempt_id in running if (spec := self._workers.spec_of(attempt_id)) is not None]
            longest = max((spec.kill_after.total_seconds() for spec in specs), default=0.0)
        self._finish_runs(self._clock.monotonic() + longest + CUT_SECONDS)
        return CUT_OFF

    def _fail(self) -> int:
        """Half a service is worse than none: let another replica lead."""
        self._elector.stop(STOP_SECONDS)
        self._results.flush(self._clock.monotonic() + CUT_SECONDS)
        self._close(OURS, "a thread crashed")
        return OURS

    def _close(self, code: int, reason: str) -> None:
        self._dispatcher.stop()
        self._housekeeping.stop()
        self._timetable.stop()
        self._reloader.stop()  # and not waited for: the code of a module that it loads may take for ever
        deadline = self._clock.monotonic() + STOP_SECONDS
        for name in ("dispatcher", "housekeeping", "scheduler"):
            self._threads[name].join(max(0.0, deadline - self._clock.monotonic()))
        if code != OURS:
            # On a thread of its own: a database that hangs must not hold up the end.
            self._thread("sign_out", self._sign_out)
            self._threads["sign_out"].join(STOP_SECONDS)
        self._events.emit("service_stopped", exit_code=code, reason=reason)

    def _sign_out(self) -> None:
        try:
            self._ledger.sign_out(self._elector.instance_id, self._dispatcher.starts_limits())
        except StoreUnavailable as error:
            self._events.emit("store_unavailable", part="sign_out", error=str(error))

    # --- asked by the parts

    def _still_open(self, attempt_id: int) -> bool | None:
        try:
            return self._ledger.still_open(attempt_id)
        except StoreUnavailable:
            return None
