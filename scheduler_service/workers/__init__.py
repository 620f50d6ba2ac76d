"""The threads that run attempts, and the register of the attempts that are ours.

    submit --> taken --fresh, or still open--> running --> ended --> written
                 |                                           `--> the worker is free again
                 `--no longer open--> returned

A worker is free when its function has returned; the attempt stays registered until its result is
durable, so that whoever compares the ledger with the register finds no attempt without an owner.

Runs of a job whose last one was over at once need not be started one by one, each with its round trip, while
hundreds wait: a worker takes a few of them ahead.  What nobody has begun a second later, because those before
it were not over at once, is given back, and its run waits in the ledger again.

A function that is over its time-out and does not return is stuck: its thread cannot be ended.

    running --time-out, grace--> stuck: recorded as timed out, its slot held, its worker's place replaced
                                   `--returns at last--> recorded again, and the slot is free

As many places are replaced as there are threads.  Beyond that a stuck function keeps its place until it
returns, so that jobs which never return cannot fill the process with threads.  What is stuck is not
registered once it is recorded, and so holds up no drain: it had its time, and ends with the process.  A run that was
stopped with its replica and is to be run again elsewhere is not recorded as stuck: signing out closes it as lost.

Between the statement that starts an attempt and its first line of code the machine may have slept.
A worker therefore begins only what was started a moment ago, on the boot clock, and otherwise asks the
ledger first: an attempt that was marked lost meanwhile may already run elsewhere (I7).
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from scheduler_service.clock import Clock, DatabaseTime
from scheduler_service.events import Events
from scheduler_service.ledger import Finished
from scheduler_service.model import Attempt, JobSpec, Outcome, Overlap, State
from scheduler_service.runner import needs_process
from scheduler_service.workers.room import AHEAD, Room
from scheduler_service.workers.tasks import MARKED_LOST, REPLICA_ENDS, StuckTask, Task
from scheduler_service.workers.telling import names, tell_end

HELD_SECONDS = 1.0  # what was taken ahead and not begun for so long is given back
UNWRITTEN_LIMIT = 1000  # attempts that are not durably recorded, beside one a thread: nothing new is taken beyond it
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

Run = Callable[[Attempt, JobSpec, threading.Event], Outcome]


class ResultWriter(Protocol):
    """Who writes results down."""

    on_written: Callable[[Sequence[Finished]], None]

    def add(self, attempt: Attempt, outcome: Outcome, *, awaited: bool = False) -> None:
        """Take a result, for the end of which another run may wait; must not block."""


def _nobody() -> None:
    pass


class Workers:
    """At most `threads` attempts at a time, each in a daemon thread; threads start when they are needed.

    At most `processes` of them are in child processes: such an attempt takes one of each.

    `run` executes an attempt and should not raise; when it says that a function has not returned, `returned`
    is told later that it has.  `still_open` tells whether an attempt is open in the ledger, None if that
    cannot be known now.  `begin_within_seconds` is for how long after its start was sent an attempt certainly
    is.  `on_free`, which may be set until the first attempt is submitted, is called when there may be
    room or a slot again; it must not block.
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
        self._lock = threading.RLock()  # a writer may say at once that it is done
        self._tasks: dict[int, Task] = {}  # by attempt id: taken, and not durably recorded
        self._stuck: dict[int, StuckTask] = {}  # by attempt id
        self._room = Room(threads, clock)
        self._busy_count = 0
        self._busy_process_count = 0
        self._threads: list[threading.Thread] = []
        self._inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()  # as long as the weights allow
        self._closed = False
        self.on_free: Callable[[], None] = _nobody
        results.on_written = self._written

    # --- from other threads

    @property
    def free_count(self) -> int:
        """How many attempts would be begun at once."""
        return max(0, min(self._limit - self._busy_count, self._limit + UNWRITTEN_LIMIT - len(self._tasks)))

    @property
    def room(self) -> int:
        """How many runs of quick jobs can be taken now; a run of another takes the place of `weight` of them.

        0 while anything taken waits for a worker and less than half is free: so there are few and large batches.
        """
        with self._lock:
            return self._free_room()

    def weight(self, spec: JobSpec) -> int:
        """Return how much of `room` a run of this job takes."""
        return AHEAD if needs_process(spec) or spec.command is not None else self._room.weight(spec.id)

    @property
    def free_process_count(self) -> int:
        """How many attempts that need a process of their own can be taken now; each needs a worker as well."""
        return min(self.free_count, max(0, self._process_limit - self._busy_process_count))

    @property
    def waiting_count(self) -> int:
        """How many of those that were taken no worker has begun."""
        return self._room.waiting_count

    @property
    def stuck_count(self) -> int:
        """How many functions are over their time-out and have not returned."""
        return len(self._stuck)

    def stuck(self) -> tuple[Attempt, ...]:
        """Return the attempts whose functions are over their time-out and have not returned, oldest first."""
        with self._lock:
            return tuple(one.task.attempt for one in self._stuck.values())

    def submit(self, attempt: Attempt, spec: JobSpec, weight: int = AHEAD) -> None:
        """Run `attempt` in a worker; ValueError if there is no room, or if it was taken already.

        `weight` is the job's as it was when the room was asked for: what was room then is room now.  An attempt
        whose number another has here is not begun: a database that forgot the other (a promoted standby) gave it
        again.  Nor is anything begun once we are closed.  Housekeeping gives back what is open under our name and not
        registered.
        """
        own_process, now = needs_process(spec), self._clock.monotonic()
        with self._lock:
            if self._closed:
                return
            if not self._room.has(weight):  # not by the register: a function that returns at last is back in it
                raise ValueError(f"no worker is free for attempt {attempt.id}: ask for room before starting")
            if own_process and self._busy_process_count >= self._process_limit:
                raise ValueError(f"no process is free for attempt {attempt.id}: ask free_process_count before starting")
            stuck = self._stuck.get(attempt.id)
            other = self._tasks.get(attempt.id) or (None if stuck is None else stuck.task)
            if other is not None and other.attempt.started_at != attempt.started_at:
                return
            if other is not None:
                raise ValueError(f"attempt {attempt.id} was submitted twice")
            if len(self._threads) < min(self._busy_count + 1, self._limit):
                self._start_thread()
            self._busy_count += 1
            self._room.take(weight)
            self._busy_process_count += own_process
            task = self._tasks[attempt.id] = Task(attempt, spec, weight, now)
            self._inbox.put(task)  # under the lock: `close` finds here whatever is registered and not begun

    def give_back(self, held_seconds: float = HELD_SECONDS) -> list[Attempt]:
        """Forget attempts that were taken ahead and that nobody has begun for so long; return them."""
        before = self._clock.monotonic() - held_seconds
        with self._lock:
            if not self._room.waiting_count:
                return []
            waiting = []
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._inbox.get_nowait())
            late = []
            for task in waiting:
                if task.taken_at > before or task.stopping.is_set():
                    self._inbox.put(task)
                else:
                    late.append(task)
                    del self._tasks[task.attempt.id]
                    self._room.begin(task.attempt.id, task.weight)
                    self._leave_place(task)
            if late:
                self._room.note_late()
            return [task.attempt for task in late]

    def close(self) -> None:
        """Begin nothing more: forget what nobody has begun, and whatever is submitted from now on."""
        with self._lock:
            self._closed = True
            self.give_back(0.0)
            for task in [one for one in self._tasks.values() if not one.begun]:
                del self._tasks[task.attempt.id]
                task.stopping.request(REPLICA_ENDS)  # a worker may be asking the ledger whether it is to begin

    def registry(self) -> dict[int, Attempt]:
        """Return every attempt that was taken and is not durably recorded yet, by its id."""
        with self._lock:
            return {attempt_id: task.attempt for attempt_id, task in self._tasks.items()}

    def spec_of(self, attempt_id: int) -> JobSpec | None:
        """Return the job as it was when one of our attempts was started; the configuration may have changed since."""
        with self._lock:
            task = self._tasks.get(attempt_id)
        return None if task is None else task.spec

    def stop_run(self, attempt_id: int, reason: str) -> None:
        """Ask an attempt to stop, if it is ours; `reason` is for a person."""
        with self._lock:
            task = self._tasks.get(attempt_id)
        if task is not None:
            task.stopping.request(reason)

    def returned(self, attempt: Attempt, outcome: Outcome) -> None:
        """Learn that a function returned that `run` said had not; `outcome` says everything anew."""
        with self._lock:
            if attempt.id not in self._stuck:  # `run` has not yet said so
                self._tasks[attempt.id].late.append(outcome)
                return
            stuck = self._stuck.pop(attempt.id)
            self._tasks.setdefault(attempt.id, stuck.task)  # ours until that is written, too
            self._results.add(attempt, stuck.task.in_the_end(outcome))
            if stuck.keeps_its_place:
                self._leave_place(stuck.task)
        self._events.bind(term=attempt.term).emit(
            "thread_returned",
            job=attempt.job_id,
            run=attempt.run_id,
            attempt=attempt.attempt,
            seconds=stuck.ran_seconds + max(0.0, self._clock.monotonic() - stuck.since),
        )
        self.on_free()

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

    def _work(self, task: Task) -> None:
        with self._lock:
            makes_room = self._room.begin(task.attempt.id, task.weight)
        if makes_room:
            self.on_free()
        outcome = self._perform(task)
        keeps_its_place = False
        if outcome is not None and outcome.returned:
            self._results.add(task.attempt, outcome, awaited=task.spec.overlap is Overlap.QUEUE)
        elif outcome is not None:
            keeps_its_place = self._leave(task, outcome)
        with self._lock:
            if outcome is not None:
                self._room.note(task.spec.id, outcome.seconds if outcome.returned else None)
            if not keeps_its_place:
                self._leave_place(task)
            if outcome is None:
                self._tasks.pop(task.attempt.id, None)
            room = self._free_room()
        if room:
            self.on_free()

    def _leave_place(self, task: Task) -> None:
        self._room.end(task.attempt.id, task.weight)
        self._busy_count -= 1
        self._busy_process_count -= needs_process(task.spec)

    def _free_room(self) -> int:
        return max(0, min(self._room.free(), self._limit + UNWRITTEN_LIMIT - len(self._tasks)))

    def _leave(self, task: Task, outcome: Outcome) -> bool:
        """Record a function that has not returned, unless its run would begin elsewhere while it goes on here.

        Return whether it keeps its worker's place.
        """
        attempt = task.attempt
        with self._lock:
            if task.late:
                self._results.add(attempt, task.in_the_end(task.late[0]))
                return False
            keeps_its_place = len(self._stuck) >= self._limit
            self._stuck[attempt.id] = StuckTask(task, outcome.seconds, self._clock.monotonic(), keeps_its_place)
            if not task.goes_elsewhere(outcome):
                # Under the lock, so that it cannot follow, and replace, the result that says it has returned.
                self._results.add(attempt, outcome)
            elif task.stopping.reason == MARKED_LOST:
                del self._tasks[attempt.id]  # the ledger has closed it already
            self._events.bind(term=attempt.term).emit(
                "thread_stuck",
                job=attempt.job_id,
                run=attempt.run_id,
                attempt=attempt.attempt,
                seconds=outcome.seconds,
                stuck_count=len(self._stuck),
            )
        return keeps_its_place

    def _written(self, finished: Sequence[Finished]) -> None:
        with self._lock:
            for one in finished:
                task = self._tasks.get(one.attempt.id)
                if task is not None and task.end is one.outcome:  # not another of that number, nor its first end of two
                    del self._tasks[one.attempt.id]
        self.on_free()  # a slot may be free

    def _perform(self, task: Task) -> Outcome | None:
        """Run the task; None if it is not ours to begin: it is closed already, or waits again once we are."""
        attempt = task.attempt
        events = self._events.bind(term=attempt.term)
        if not (self._may_begin(task) and self._begins(task)):
            events.emit(
                "attempt_returned",
                job=attempt.job_id,
                run=attempt.run_id,
                attempt=attempt.attempt,
                reason=REPLICA_ENDS if self._closed else "it was no longer open when a worker could begin it",
            )
            return None
        if task.stopping.is_set():
            outcome = Outcome(State.CANCELLED, 0.0, f"stopped before it began: {task.stopping.reason}")
        else:
            events.emit("run_started", **names(attempt), kind=attempt.kind, delay_seconds=self._delay_seconds(attempt))
            outcome = self._executed(task)
        outcome = task.in_the_end(outcome)
        tell_end(events, attempt, outcome)
        return outcome

    def _executed(self, task: Task) -> Outcome:
        began = self._clock.monotonic()
        try:
            return self._run(task.attempt, task.spec, task.stopping)
        except BaseException as error:  # a mistake of ours; the run has ended all the same
            seconds = self._clock.monotonic() - began
            return Outcome(State.FAILED, seconds, f"the service failed to run it: {type(error).__name__}: {error}")

    def _may_begin(self, task: Task) -> bool:
        """Whether the attempt is open and ours; True as well if it was asked to stop meanwhile."""
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
        return True

    def _begins(self, task: Task) -> bool:
        """Decide, once for all who ask, that it begins; not if it is closed in the ledger, or we are."""
        with self._lock:
            task.begun = not self._closed and task.stopping.reason != MARKED_LOST
            return task.begun

    def _delay_seconds(self, attempt: Attempt) -> float:
        now = self._database_time.now() if self._database_time.known else attempt.started_at
        return max(0.0, (now - attempt.due_at).total_seconds())
