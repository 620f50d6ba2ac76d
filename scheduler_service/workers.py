"""The threads that run attempts, and the register of the attempts that are ours.

    submit --> taken --fresh, or still open--> running --> ended --> written
                 |                                           `--> the worker is free again
                 `--no longer open--> returned

A worker is free when its function has returned; the attempt stays registered until its result is
durable, so that whoever compares the ledger with the register finds no attempt without an owner.

A function that is over its time-out and does not return is stuck: its thread cannot be ended.

    running --time-out, grace--> stuck: recorded as timed out, its slot held, its worker's place replaced
                                   `--returns at last--> recorded again, and the slot is free

As many places are replaced as there are threads.  Beyond that a stuck function keeps its place until it
returns, so that jobs which never return cannot fill the process with threads.  What is stuck is not
registered once it is recorded, and so holds up no drain: it had its time, and ends with the process.

Between the statement that starts an attempt and its first line of code the machine may have slept.
A worker therefore begins only what was started a moment ago, on the boot clock, and otherwise asks the
ledger first: an attempt that was marked lost meanwhile may already run elsewhere (I7).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scheduler_service.clock import Clock, DatabaseTime
from scheduler_service.context import Stopping
from scheduler_service.events import Events
from scheduler_service.model import Attempt, JobSpec, Outcome, State
from scheduler_service.runner import needs_process

UNWRITTEN_LIMIT = 1000  # attempts that are not durably recorded, beside one a thread: nothing new is taken beyond it
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

Run = Callable[[Attempt, JobSpec, threading.Event], Outcome]


class ResultWriter(Protocol):
    """Who writes results down."""

    on_written: Callable[[Sequence[Attempt]], None]

    def add(self, attempt: Attempt, outcome: Outcome) -> None:
        """Take a result; must not block."""


@dataclass(frozen=True, slots=True)
class _Task:
    attempt: Attempt
    spec: JobSpec
    stopping: Stopping = field(default_factory=Stopping)
    late: list[Outcome] = field(default_factory=list)  # of a function that returned just after it was given up


@dataclass(frozen=True, slots=True)
class _Stuck:
    """A function that is over its time-out and has not returned."""

    attempt: Attempt
    ran_seconds: float  # until it was given up
    since: float  # when that was, on the boot clock
    keeps_its_place: bool


def _nobody() -> None:
    pass


class Workers:
    """At most `threads` attempts at a time, each in a daemon thread; threads start when they are needed.

    At most `processes` of them are in child processes: such an attempt takes one of each.

    `run` executes an attempt and should not raise; when it says that a function has not returned, `returned`
    is told later that it has.  `still_open` tells whether an attempt is open in the ledger, None if that
    cannot be known now.  `begin_within_seconds` is for how long after its start was sent an attempt certainly
    is.  `on_free`, which may be set until the first attempt is submitted, is called when a worker or a slot
    may have become free; it must not block.
    """

    def __init__(
        self,
        threads: int,
        run: Run,
        results: ResultWriter,
        *,
        processes: int,
        still_open: Callable[[int], bool | None],
        begin_within_seconds: float,
        database_time: DatabaseTime,
        events: Events,
        clock: Clock,
        on_crash: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        if threads < 1:
            raise ValueError(f"{threads} worker threads can run nothing; at least 1 is needed")
        if processes < 1:
            raise ValueError(f"{processes} child processes can run nothing; at least 1 is needed")
        self._limit = threads
        self._process_limit = processes
        self._run = run
        self._results = results
        self._still_open = still_open
        self._begin_within_seconds = begin_within_seconds
        self._database_time = database_time
        self._events = events
        self._clock = clock
        self._on_crash = on_crash
        self._changed = threading.Condition()
        self._tasks: dict[int, _Task] = {}  # by attempt id: taken, and not durably recorded
        self._stuck: dict[int, _Stuck] = {}  # by attempt id
        self._busy_count = 0
        self._busy_process_count = 0
        self._threads: list[threading.Thread] = []
        self._inbox: queue.SimpleQueue[_Task] = queue.SimpleQueue()  # never longer than there are threads
        self.on_free: Callable[[], None] = _nobody
        results.on_written = self._written

    # --- from other threads

    @property
    def free_count(self) -> int:
        """How many attempts can be taken now; only `submit` makes it less."""
        return max(0, min(self._limit - self._busy_count, self._limit + UNWRITTEN_LIMIT - len(self._tasks)))

    @property
    def free_process_count(self) -> int:
        """How many attempts that need a process of their own can be taken now; each needs a worker as well."""
        return min(self.free_count, max(0, self._process_limit - self._busy_process_count))

    @property
    def stuck_count(self) -> int:
        """How many functions are over their time-out and have not returned."""
        return len(self._stuck)

    def stuck(self) -> tuple[Attempt, ...]:
        """Return the attempts whose functions are over their time-out and have not returned, oldest first."""
        with self._changed:
            return tuple(one.attempt for one in self._stuck.values())

    def submit(self, attempt: Attempt, spec: JobSpec) -> None:
        """Run `attempt` in a free worker; ValueError if there is none, or if it was taken already.

        An attempt whose number another has here is not begun: a database that forgot the other (a promoted
        standby) gave it again.  Housekeeping gives back what is open under our name and not registered.
        """
        own_process = needs_process(spec)
        with self._changed:
            if self.free_count == 0:
                raise ValueError(f"no worker is free for attempt {attempt.id}: ask free_count before starting")
            if own_process and self.free_process_count == 0:
                raise ValueError(f"no process is free for attempt {attempt.id}: ask free_process_count before starting")
            other = self._tasks.get(attempt.id)
            if other is not None and other.attempt.started_at != attempt.started_at:
                return
            if other is not None:
                raise ValueError(f"attempt {attempt.id} was submitted twice")
            if len(self._threads) == self._busy_count:
                self._start_thread()
            self._busy_count += 1
            self._busy_process_count += own_process
            task = self._tasks[attempt.id] = _Task(attempt, spec)
        self._inbox.put(task)

    def registry(self) -> dict[int, Attempt]:
        """Return every attempt that was taken and is not durably recorded yet, by its id."""
        with self._changed:
            return {attempt_id: task.attempt for attempt_id, task in self._tasks.items()}

    def spec_of(self, attempt_id: int) -> JobSpec | None:
        """Return the job as it was when one of our attempts was started; the configuration may have changed since."""
        with self._changed:
            task = self._tasks.get(attempt_id)
        return None if task is None else task.spec

    def stop_run(self, attempt_id: int, reason: str) -> None:
        """Ask an attempt to stop, if it is ours; `reason` is for a person."""
        with self._changed:
            task = self._tasks.get(attempt_id)
        if task is not None:
            task.stopping.request(reason)

    def returned(self, attempt: Attempt, outcome: Outcome) -> None:
        """Learn that a function returned that `run` said had not; `outcome` says everything anew."""
        with self._changed:
            if attempt.id not in self._stuck:  # `run` has not yet said so
                self._tasks[attempt.id].late.append(outcome)
                return
            stuck = self._stuck.pop(attempt.id)
            self._results.add(attempt, outcome)
            self._busy_count -= stuck.keeps_its_place
            self._changed.notify_all()
        self._events.bind(term=attempt.term).emit(
            "thread_returned",
            job=attempt.job_id,
            run=attempt.run_id,
            attempt=attempt.attempt,
            seconds=stuck.ran_seconds + max(0.0, self._clock.monotonic() - stuck.since),
        )
        self.on_free()

    def drain(self, deadline: float) -> bool:
        """Wait until everything taken is recorded, at most until `deadline` on the boot clock; return whether it is."""
        with self._changed:
            while self._tasks and (left := deadline - self._clock.monotonic()) > 0:
                self._changed.wait(min(left, 0.5))
            return not self._tasks

    # --- the threads

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"worker-{len(self._threads) + 1}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _serve(self) -> None:
        try:
            while True:
                self._work(self._inbox.get())
        except BaseException as error:
            name = threading.current_thread().name
            if self._on_crash is None:
                self._events.emit("thread_crashed", thread=name, error=f"{type(error).__name__}: {error}")
                raise
            self._on_crash(name, error)

    def _work(self, task: _Task) -> None:
        outcome = self._perform(task)
        keeps_its_place = False
        if outcome is not None and outcome.returned:
            self._results.add(task.attempt, outcome)
        elif outcome is not None:
            keeps_its_place = self._leave(task, outcome)
        with self._changed:
            self._busy_count -= not keeps_its_place
            self._busy_process_count -= needs_process(task.spec)
            if outcome is None:
                del self._tasks[task.attempt.id]
            self._changed.notify_all()
        self.on_free()

    def _leave(self, task: _Task, outcome: Outcome) -> bool:
        """Record a function that has not returned; return whether it keeps its worker's place."""
        attempt = task.attempt
        with self._changed:
            if task.late:
                self._results.add(attempt, task.late[0])
                return False
            keeps_its_place = len(self._stuck) >= self._limit
            self._stuck[attempt.id] = _Stuck(attempt, outcome.seconds, self._clock.monotonic(), keeps_its_place)
            # Under the lock, so that it cannot follow, and replace, the result that says it has returned.
            self._results.add(attempt, outcome)
            self._events.bind(term=attempt.term).emit(
                "thread_stuck",
                job=attempt.job_id,
                run=attempt.run_id,
                attempt=attempt.attempt,
                seconds=outcome.seconds,
                stuck_count=len(self._stuck),
            )
        return keeps_its_place

    def _written(self, attempts: Sequence[Attempt]) -> None:
        with self._changed:
            for attempt in attempts:
                self._tasks.pop(attempt.id, None)
            self._changed.notify_all()
        self.on_free()

    def _perform(self, task: _Task) -> Outcome | None:
        """Run the task; None if it is no longer ours."""
        attempt = task.attempt
        events = self._events.bind(term=attempt.term)
        if not self._may_begin(task):
            events.emit(
                "attempt_returned",
                job=attempt.job_id,
                run=attempt.run_id,
                attempt=attempt.attempt,
                reason="it was no longer open when a worker could begin it",
            )
            return None
        if task.stopping.is_set():
            outcome = Outcome(State.CANCELLED, 0.0, f"stopped before it began: {task.stopping.reason}")
        else:
            events.emit("run_started", **_names(attempt), kind=attempt.kind, delay_seconds=self._delay_seconds(attempt))
            outcome = self._executed(task)
        self._tell(events, attempt, outcome)
        return outcome

    def _executed(self, task: _Task) -> Outcome:
        began = self._clock.monotonic()
        try:
            return self._run(task.attempt, task.spec, task.stopping)
        except BaseException as error:  # a mistake of ours; the run has ended all the same
            seconds = self._clock.monotonic() - began
            return Outcome(State.FAILED, seconds, f"the service failed to run it: {type(error).__name__}: {error}")

    def _may_begin(self, task: _Task) -> bool:
        """Whether the attempt is ours to begin; True as well if it was asked to stop meanwhile."""
        asked_at = task.attempt.sent
        sure = True
        pause = FIRST_PAUSE_SECONDS
        while not task.stopping.is_set():
            now = self._clock.monotonic()
            if sure and now - asked_at < self._begin_within_seconds:
                return True
            asked_at = now
            answer = self._still_open(task.attempt.id)
            if answer is False:
                return False
            sure = answer is True
            if not sure:
                task.stopping.wait(pause)
                pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)
        return task.stopping.reason != "lost"  # then the ledger has closed it already

    def _delay_seconds(self, attempt: Attempt) -> float:
        now = self._database_time.now() if self._database_time.known else attempt.started_at
        return max(0.0, (now - attempt.due_at).total_seconds())

    @staticmethod
    def _tell(events: Events, attempt: Attempt, outcome: Outcome) -> None:
        ended = {**_names(attempt), "state": outcome.state, "duration_seconds": outcome.seconds}
        if outcome.state in (State.FAILED, State.TIMED_OUT):
            code = {} if outcome.exit_code is None else {"exit_code": outcome.exit_code}
            error = outcome.error or "it failed without a word"
            if outcome.retry_seconds is None:
                events.emit("run_failed", **ended, **code, error=error)
            else:
                events.emit("run_retrying", **ended, retry_seconds=outcome.retry_seconds, **code, error=error)
        else:
            events.emit("run_finished", **ended)


def _names(attempt: Attempt) -> dict[str, object]:
    return {
        "job": attempt.job_id,
        "run": attempt.run_id,
        "scheduled_at": attempt.scheduled_at,
        "attempt": attempt.attempt,
    }
