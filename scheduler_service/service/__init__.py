"""The conductor: starts the parts in order, passes leadership on, stops them in order.

    start   database -> tables -> results, workers -> housekeeping (signs in) -> dispatcher, scheduler -> elector
    elected dispatcher.lead; when it has settled and started the first of what was due: timetable.arm
    lost    dispatcher.retire, timetable.disarm
    reload  dispatcher.configure, timetable.rearm, then whoever looks on: housekeeping, watch, metrics
    drain   lease given back -> running jobs finish -> everything stopped -> results written -> signed out

It runs on the main thread, waits for one message at a time, and neither queries nor runs a job.
Pausing the timetable is no barrier; the fence in each statement is.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any

from scheduler_service import __version__, tables
from scheduler_service.config import Config
from scheduler_service.database import StoreRefused, StoreUnavailable
from scheduler_service.elector import Elected, Lost
from scheduler_service.events import Event, Outage, listed
from scheduler_service.model import Lease
from scheduler_service.reloading import Reloaded
from scheduler_service.runner import needs_process
from scheduler_service.service.health import Health, Stuck
from scheduler_service.service.parts import Drifted, Parts, Phase, TakenOver, WebServer, assemble, tell_crash
from scheduler_service.workers.tasks import REPLICA_ENDS

__all__ = ["Health", "Parts", "Phase", "Service", "Stuck", "WebServer", "assemble"]

MOST_LOOKED_AT = 100  # jobs, for the one that comes due next to be told at the start
LOOK_SECONDS = 1.0  # how often the conductor looks after its threads
STOP_SECONDS = 3.0  # for parts that are told to stop, and for their last words to the database
HURRY_SECONDS = 3.0  # from the second signal to the end, come what may
CUT_SECONDS = 1.0  # after `kill_after`, for what was cut off to end and be written
WEB_SECONDS = 1.0
CONNECT_RETRY_SECONDS = 0.5
MIGRATION_SECONDS = 30.0  # to wait for somebody else's, before that is told and tried again

OK, CUT_OFF, OURS = 0, 1, 70
STOPPED_FIRST = ("elector", "guard")  # of our threads in a drain: how they end then is all the same


@dataclass(frozen=True, slots=True)
class _Signalled:
    number: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The database and its tables are there, at this time of it; or what was in the way."""

    now: datetime | None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class _Crashed:
    thread: str


class Service:
    """One replica, made of `parts`; `web` starts before everything else, and is there until it signs out."""

    def __init__(self, config: Config, parts: Parts, web: WebServer | None = None) -> None:
        self._config = config
        self._parts = parts
        self._web = web
        self._clock = parts.clock
        self._events = parts.events
        self._inbox = parts.inbox
        self._threads: dict[str, threading.Thread] = {}
        self._lease: Lease | None = None
        self._signalled = self._hurried = False
        self._crashed = False  # one of the threads that a drain needs
        parts.events.subscribe(self._note_crash)

    def run(self) -> int:
        """Run until a signal or a crash; return the exit code.

        Raises StoreUnavailable when no database answered within `startup_timeout`, StoreRefused when it
        refuses us.  Must be called from the main thread, which gets the signals.
        """
        former = self._take_signals()
        try:
            if self._web is not None:
                self._web.start()
            now = self._prepare_database()
            if now is None:
                return OK
            self._start(now)
            self._parts.progress.phase = Phase.READY
            return self._conduct()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            self._stop_serving()
            self._parts.runner.close()
            self._parts.database.dispose()

    @property
    def is_busy(self) -> bool:
        """Whether code of jobs may go on in this process, which is to end now."""
        return bool(self._parts.workers.registry()) or self._parts.workers.stuck_count > 0

    # --- start

    def _take_signals(self) -> Mapping[int, Any]:
        def pass_on(number: int, _: FrameType | None) -> None:
            self._inbox.put(_Signalled(number))
            if self._signalled and not self._hurried:  # whatever the main thread waits for, it ends now
                self._hurried = True
                # Not by `threading`: this very thread may be holding its lock, to start another.
                _thread.start_new_thread(_cut_off_soon, ())
            self._signalled = True

        def reload(_: int, __: FrameType | None) -> None:
            self._parts.reloader.request()

        handlers: dict[int, Any] = {signal.SIGTERM: pass_on, signal.SIGINT: pass_on, signal.SIGHUP: reload}
        # Ignored, as a parent or a job's module may have left it, it would cost us how commands end.
        handlers[signal.SIGCHLD] = signal.SIG_DFL
        return {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def _prepare_database(self) -> datetime | None:
        """Wait for the database and its tables; return its time, or None when a signal came first."""
        deadline = self._clock.monotonic() + self._config.database.startup_timeout.total_seconds()
        outage = Outage(self._events, "start", self._clock)
        while True:
            self._parts.progress.step()
            # Not here: in a resolver no signal is heard, and in a driver none is obeyed.  Its name is the conductor's,
            # for the health: it is the conductor that waits.
            threading.Thread(target=self._try_database, args=(deadline,), name="conductor", daemon=True).start()
            message = None
            while not isinstance(message, _Prepared):
                message = self._inbox.get(LOOK_SECONDS)
                if isinstance(message, _Signalled):
                    return None
            error = message.error
            if error is None:
                outage.over()
                return message.now
            if not isinstance(error, StoreUnavailable) or isinstance(error, StoreRefused):
                raise error
            if self._clock.monotonic() >= deadline:
                raise error
            outage.failed(error)
            if isinstance(self._message(CONNECT_RETRY_SECONDS), _Signalled):
                return None

    def _try_database(self, deadline: float) -> None:
        try:
            if self._config.database.create_tables:
                left = min(MIGRATION_SECONDS, deadline - self._clock.monotonic())
                before, after = tables.upgrade(self._parts.database, wait_seconds=left)
                if before != after:
                    self._events.emit("schema_upgraded", revision_from=before or "", revision_to=after)
            else:
                tables.require_current(self._parts.database)
            prepared = _Prepared(self._parts.ledger.survey([""]).now)
        except BaseException as error:  # raised where it is waited for
            prepared = _Prepared(None, error)
        self._inbox.put(prepared)

    def _start(self, now: datetime) -> None:
        self._parts.results.start()
        self._prepare_processes()
        self._thread("housekeeping", self._parts.housekeeping.run)
        self._thread("dispatcher", self._parts.dispatcher.run)
        self._thread("scheduler", self._parts.timetable.run)
        self._thread("reloader", self._parts.reloader.run)
        self._thread("watch", self._parts.watch.run)
        self._parts.workers.on_free = self._parts.dispatcher.wake
        self._parts.elector.start()
        # Whoever is elected now leads when this is said: among thousands of jobs the next would be found in seconds.
        few = self._config.jobs if len(self._config.jobs) <= MOST_LOOKED_AT else ()
        upcoming = [
            (moment, spec.id) for spec in few if spec.enabled and (moment := spec.schedule.after(now)) is not None
        ]
        first = {"next_job": min(upcoming)[1], "next_at": min(upcoming)[0]} if upcoming else {}
        self._events.emit(
            "service_started",
            role="standby",  # as every replica begins
            database=self._parts.database.safe_url,
            version=__version__,
            jobs=len(self._config.jobs),
            **first,
            **({} if self._web is None else {"http": self._web.url}),
        )

    def _prepare_processes(self) -> None:
        if any(needs_process(spec) for spec in self._config.jobs):
            self._parts.runner.prepare()

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        def body() -> None:
            try:
                target()
            except BaseException as error:  # half a service is worse than none
                tell_crash(self._events, name, error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads[name] = thread
        thread.start()

    def _note_crash(self, event: Event) -> None:
        if event.name == "thread_crashed":  # ours, the elector's or a worker's
            self._crashed = self._crashed or event.fields["thread"] not in STOPPED_FIRST
            self._inbox.put(_Crashed(event.fields["thread"]))

    # --- conduct

    def _conduct(self) -> int:
        while True:
            message = self._message(LOOK_SECONDS)
            if isinstance(message, Elected):
                self._lead(message.lease)
            elif isinstance(message, Lost):
                self._stand_by(message.lease.term)
                self._parts.forfeits.lost(message.lease.term, message.reason)
            elif isinstance(message, Reloaded):
                self._reload(message)
            elif isinstance(message, TakenOver):
                self._take_over(message.term)
            elif isinstance(message, Drifted) and self._lease is not None:
                self._arm(self._lease)
            elif isinstance(message, _Signalled):
                return self._drain(message.number)
            elif isinstance(message, _Crashed) or not self._alive():
                return self._fail()
            self._parts.forfeits.step()

    def _message(self, seconds: float) -> Any:
        self._parts.progress.step()
        return self._inbox.get(seconds)

    def _lead(self, lease: Lease) -> None:
        # The dispatcher alone: whatever else runs now would take the interpreter from it at each of its statements.
        self._lease = lease
        self._parts.dispatcher.lead(lease)

    def _take_over(self, term: int) -> None:
        if self._lease is not None and self._lease.term == term:
            self._arm(self._lease)
            self._parts.housekeeping.wake()

    def _arm(self, lease: Lease) -> None:
        # From the election on, however long ago: what came due since then may be some job's last tick for a year.
        self._parts.timetable.arm(self._config.jobs, lease.term, lease.acquired_at)

    def _stand_by(self, term: int) -> None:
        if self._lease is None or self._lease.term != term:
            return
        self._lease = None
        self._parts.dispatcher.retire(term)
        self._parts.timetable.disarm(term)

    def _reload(self, reloaded: Reloaded) -> None:
        """Use another configuration from now on.  What runs is not disturbed."""
        former, self._config = self._config, reloaded.config
        self._parts.dispatcher.configure(reloaded.config.jobs)
        if self._lease is not None:  # else the timers are set when we are elected
            self._parts.timetable.rearm(former.jobs, reloaded.config.jobs)
        self._prepare_processes()
        self._parts.housekeeping.configure(reloaded.config.hash, tuple(spec.id for spec in reloaded.config.jobs))
        self._parts.watch.configure(reloaded.config.jobs)
        self._parts.metrics.configure(reloaded.config.jobs, reloaded.config.hash)
        news = {"added": reloaded.added, "removed": reloaded.removed, "changed": reloaded.changed}
        told = {name: listed(jobs) for name, jobs in news.items() if jobs}
        self._events.emit("config_reloaded", hash=reloaded.config.hash, **told)

    def _alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads.values())

    # --- stop

    def _drain(self, number: int) -> int:
        grace_seconds = self._config.service.shutdown_grace.total_seconds()
        deadline = self._clock.monotonic() + grace_seconds
        self._parts.progress.phase = Phase.DRAINING
        self._parts.reloader.stop()
        self._events.emit(
            "service_draining",
            signal=signal.Signals(number).name,
            running_count=len(self._parts.workers.registry()),
            grace_seconds=grace_seconds,
        )
        # The lease goes back before anything is waited for, so that another replica takes over at once.
        self._parts.elector.stop(STOP_SECONDS)
        if self._lease is not None:
            self._stand_by(self._lease.term)
        finished = self._finish_runs(deadline)
        self._parts.workers.close()  # a start that is answered only now begins no more
        code = OK if finished else self._cut_off()
        if self._crashed:
            return self._give_up()
        self._close(code, signal.Signals(number).name)
        return code

    def _finish_runs(self, deadline: float, *, cut_off: bool = False) -> bool:
        """Wait for what runs; False at `deadline`, at a second signal, and at a crash unless they are `cut_off`."""
        while self._going_on():
            left = deadline - self._clock.monotonic()
            if left <= 0 or (self._crashed and not cut_off) or isinstance(self._message(min(0.05, left)), _Signalled):
                return False
        return True

    def _going_on(self) -> bool:
        """Whether anything runs, is about to or is not written; after a crash nobody may do the last two."""
        if self._crashed:
            return bool(self._running())
        # In this order: what is handed over between the two is seen in the second.
        return bool(self._parts.dispatcher.open_claims() or self._parts.workers.registry())

    def _running(self) -> set[int]:
        return self._parts.workers.registry().keys() - {attempt.id for attempt in self._parts.results.pending()}

    def _cut_off(self) -> int:
        """Stop what still runs; what does not stop is closed as lost when we sign out."""
        running = self._running()
        for attempt_id in running:
            self._parts.workers.stop_run(attempt_id, REPLICA_ENDS)
        longest = 0.0
        if not self._hurried:
            specs = [spec for attempt_id in running if (spec := self._parts.workers.spec_of(attempt_id)) is not None]
            longest = max((spec.kill_after.total_seconds() for spec in specs), default=0.0)
        self._finish_runs(self._clock.monotonic() + longest + CUT_SECONDS, cut_off=True)
        return CUT_OFF

    def _fail(self) -> int:
        """Half a service is worse than none: let another replica lead."""
        self._parts.elector.stop(STOP_SECONDS)
        return self._give_up()

    def _give_up(self) -> int:
        self._write_results(CUT_SECONDS)
        self._close(OURS, "a thread crashed")
        return OURS

    def _write_results(self, seconds: float) -> None:
        """Let the results be written that are not yet; say which runs will count as lost, though they ended."""
        self._parts.results.flush(self._clock.monotonic() + seconds)
        if pending := self._parts.results.pending():
            self._events.emit("results_given_up", count=len(pending), jobs=listed({one.job_id for one in pending}))

    def _close(self, code: int, reason: str) -> None:
        self._parts.dispatcher.stop()
        self._parts.housekeeping.stop()
        self._parts.watch.stop()
        self._parts.timetable.stop()
        self._parts.reloader.stop()  # and not waited for: the code of a module that it loads may take for ever
        deadline = self._clock.monotonic() + STOP_SECONDS
        for name in ("dispatcher", "housekeeping", "scheduler"):  # the watch only reads, which may take its time
            self._threads[name].join(max(0.0, deadline - self._clock.monotonic()))
        self._stop_serving()
        self._parts.runner.close()
        # Last of all: what holds a slot here is given up with it, and must not go on for longer than it takes to end.
        # After a crash nobody knows what does: the leader gives it up when we have been silent for `lost_after`.
        if code != OURS:
            # On a thread of its own: a database that hangs must not hold up the end.
            seconds = STOP_SECONDS if code == OK else CUT_SECONDS
            self._thread("sign_out", lambda: self._sign_out(seconds))
            self._threads["sign_out"].join(seconds + STOP_SECONDS)
        self._events.emit("service_stopped", exit_code=code, reason=reason)

    def _stop_serving(self) -> None:
        if self._web is not None:
            self._web.stop(WEB_SECONDS)

    def _sign_out(self, seconds: float) -> None:
        self._parts.results.hurry()
        # What nobody has begun waits again; if that cannot be written, it is closed as lost with what has not stopped.
        with contextlib.suppress(StoreUnavailable):
            self._parts.housekeeping.reconcile(begins=False)
        # Just before: a result that is not written by then is closed as lost, and its run may be started again.
        self._write_results(seconds)
        try:
            self._parts.ledger.sign_out(self._parts.elector.instance_id, self._parts.dispatcher.starts_limits())
        except StoreUnavailable as error:
            self._events.emit("store_unavailable", part="sign_out", error=str(error))


def _cut_off_soon() -> None:
    time.sleep(HURRY_SECONDS)
    os._exit(CUT_OFF)
