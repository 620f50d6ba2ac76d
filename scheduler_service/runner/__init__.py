"""Execute one attempt, in the calling thread, and say how it ended.

    command                          a process group under guard              `command`
    run, isolation: process          a child of the template                  `process`
    run with a timeout               a thread of its own, waited for          `thread`
    run without                      the calling thread                       `callable`

What a job does never raises here: exceptions, SystemExit, signals, time-outs and missing programs are
all outcomes.  Durations are counted on the boot clock.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scheduler_service import policy
from scheduler_service.clock import Clock
from scheduler_service.context import DatabaseAddress, RunContext, enter_run
from scheduler_service.events import Events
from scheduler_service.logs import enter_fields
from scheduler_service.model import Attempt, Isolation, JobSpec, Outcome, State
from scheduler_service.runner import output as outputs
from scheduler_service.runner.arguments import ArgumentsError, arguments
from scheduler_service.runner.callable import Call, error_text, run_callable
from scheduler_service.runner.command import run_command
from scheduler_service.runner.ending import Ending
from scheduler_service.runner.output import Output
from scheduler_service.runner.process import ProcessError, Template, run_process
from scheduler_service.runner.surroundings import Surroundings
from scheduler_service.runner.thread import LimitedThread

__all__ = ["Runner", "Surroundings", "needs_process"]


def needs_process(spec: JobSpec) -> bool:
    """Whether a run of this job takes a child process beside its worker."""
    return spec.run is not None and spec.isolation is Isolation.PROCESS


def _nobody(_: Attempt, __: Outcome) -> None:
    pass


class Runner:
    """Runs attempts, any number of them at once, each in the thread that asks.

    `output_limit` is in bytes; `database` is the ledger's, for jobs that share a transaction with their run.
    Commands and child processes start in the folder of `surroundings`, with its environment and its umask, unless
    their job names others: a callable that changes those of the process changes them for the callables beside it,
    but not for them.  Where none are given they are those of the moment at which the runner is made.

    An outcome that is not `returned` is followed by another when its function returns at last:
    `on_returned`, which may be set until the first run, is called with it, and must not block.

    `show`, for a person who watches one run, gets its whole output as it comes; it must not raise.
    """

    def __init__(
        self,
        *,
        jobs_folder: Path,
        output_limit: int,
        events: Events,
        clock: Clock,
        instance_id: str,
        database: DatabaseAddress | None = None,
        surroundings: Surroundings | None = None,
        show: Callable[[bytes], None] | None = None,
    ) -> None:
        self._jobs_folder = jobs_folder.absolute()
        self._surroundings = surroundings or Surroundings()
        self._output_limit = output_limit
        self._events = events
        self._clock = clock
        self._instance_id = instance_id
        self._show = show
        self._database = database
        self._template = Template(self._surroundings)
        self.on_returned: Callable[[Attempt, Outcome], None] = _nobody

    def prepare(self) -> None:
        """Get ready to start child processes, so that the first of them starts as fast as the others.

        Nothing is waited for; what goes wrong is told by the first run that needs it.
        """
        with contextlib.suppress(ProcessError):
            self._template.prepare()

    def close(self) -> None:
        """Give back what child processes are started from.  No run may begin any more."""
        self._template.close()

    def run(self, attempt: Attempt, spec: JobSpec, stop: threading.Event) -> Outcome:
        """Run `attempt` of the job `spec` to its end, or until `stop` asks for it."""
        started = self._clock.monotonic()
        run = RunContext(
            job=attempt.job_id,
            scheduled_at=attempt.scheduled_at,
            due_at=attempt.due_at,
            term=attempt.term,
            fence=attempt.id,
            attempt=attempt.attempt,
            run_id=attempt.run_id,
            instance=self._instance_id,
            stopping=stop,
            database=self._database,
        )
        events = self._events.bind(term=attempt.term, scheduled_at=attempt.scheduled_at)
        output = Output(
            self._output_limit,
            lambda line: events.emit("run_output", job=attempt.job_id, run=attempt.run_id, line=line),
            self._clock,
            self._show,
        )
        thread: LimitedThread | None = None
        try:
            args, kwargs = arguments(spec, attempt)
            if spec.command is not None:
                ending = run_command(spec, run, stop, output, self._surroundings, self._clock)
            elif spec.run is None:
                ending = Ending(State.FAILED, f"{spec.id} has neither run nor command")
            else:
                call = Call(spec.run, self._jobs_folder, args, kwargs)
                if spec.isolation is Isolation.PROCESS:
                    ending = run_process(self._template, call, spec, run, output, self._clock)
                else:
                    if spec.timeout is not None:
                        thread = LimitedThread(call, spec, run, spec.timeout.total_seconds(), self._clock)
                    outputs.install()
                    ending = contextvars.copy_context().run(_call, call, run, output, thread)
        except ArgumentsError as problem:
            ending = Ending(State.FAILED, str(problem))
        except BaseException as mistake:  # our own; the run still has an end
            ending = Ending(State.FAILED, error_text(mistake, whole=True))
        text, truncated = output.close() if ending.returned else output.so_far()
        retry_seconds, error = _tried_again(ending, attempt, spec)
        outcome = Outcome(
            state=ending.state,
            seconds=max(0.0, self._clock.monotonic() - started),
            error=error,
            exit_code=ending.exit_code,
            result=ending.result,
            output=text,
            truncated=truncated,
            returned=ending.returned,
            retry_seconds=retry_seconds,
            peak_memory_bytes=ending.peak_memory_bytes,
        )
        if thread is not None and not ending.returned:
            thread.when_returned(lambda: self._returned(attempt, outcome, output))
        return outcome

    def _returned(self, attempt: Attempt, outcome: Outcome, output: Output) -> None:
        text, truncated = output.close()
        self.on_returned(attempt, replace(outcome, output=text, truncated=truncated, returned=True))


def _call(call: Call, run: RunContext, output: Output, thread: LimitedThread | None) -> Ending:
    enter_run(run)
    outputs.enter_output(output)
    enter_fields(term=run.term, job=run.job, scheduled_at=run.scheduled_at, run=run.run_id)
    return run_callable(call, run) if thread is None else thread.run()


def _tried_again(ending: Ending, attempt: Attempt, spec: JobSpec) -> tuple[float | None, str | None]:
    """Return after how many seconds the run is started again, None if never, and its error with a word on that."""
    if ending.state not in (State.FAILED, State.TIMED_OUT):
        return None, ending.error
    limit = spec.retry.attempts
    seconds = None
    if not ending.final:
        seconds = policy.retry_seconds(spec, attempt.attempt, ending.state, ending.retry_seconds)
    if seconds is not None:
        note = f"tried again in {seconds:g}s: start {attempt.attempt} of {limit}"
    elif ending.final:
        note = "not tried again: it gave up"
    elif attempt.attempt >= limit and (limit > 1 or ending.retry_seconds is not None):
        note = f"not tried again: start {attempt.attempt} of {limit}"
    else:
        return None, ending.error
    error = ending.error or ""
    # The last line is what a list of runs shows of a traceback, so that stays last.
    return seconds, f"({note})\n{error}" if "\n" in error else f"{error} ({note})"
