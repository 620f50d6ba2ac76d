"""Execute one attempt, in the calling thread, and say how it ended.

What a job does never raises here: exceptions, SystemExit, signals, time-outs and missing programs are
all outcomes.  Durations are counted on the boot clock.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from pathlib import Path

from scheduler_service.clock import Clock
from scheduler_service.context import RunContext, enter_run
from scheduler_service.events import Events
from scheduler_service.logs import enter_fields
from scheduler_service.model import Attempt, JobSpec, Outcome, State
from scheduler_service.runner import output as outputs
from scheduler_service.runner.callable import error_text, run_callable
from scheduler_service.runner.command import run_command
from scheduler_service.runner.ending import Ending
from scheduler_service.runner.output import Output

__all__ = ["Runner"]


class Runner:
    """Runs attempts, any number of them at once, each in the thread that asks.

    `output_limit` is in bytes.  Commands start in the folder in which the runner was made, unless their
    job names another: a callable that changes the working directory of the process changes it for the
    callables beside it, but not for them.

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
        show: Callable[[bytes], None] | None = None,
    ) -> None:
        self._jobs_folder = jobs_folder.absolute()
        self._folder = Path.cwd()
        self._output_limit = output_limit
        self._events = events
        self._clock = clock
        self._instance_id = instance_id
        self._show = show

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
        )
        events = self._events.bind(term=attempt.term, scheduled_at=attempt.scheduled_at)
        output = Output(
            self._output_limit,
            lambda line: events.emit("run_output", job=attempt.job_id, run=attempt.run_id, line=line),
            self._clock,
            self._show,
        )
        try:
            if spec.command is not None:
                ending = run_command(spec, run, stop, output, self._folder, self._clock)
            else:
                outputs.install()
                ending = contextvars.copy_context().run(self._call, spec, run, stop, output)
        except BaseException as error:  # our own mistake; the run still has an end
            ending = Ending(State.FAILED, error_text(error, whole=True))
        text, truncated = output.close()
        return Outcome(
            state=ending.state,
            seconds=max(0.0, self._clock.monotonic() - started),
            error=ending.error,
            exit_code=ending.exit_code,
            result=ending.result,
            output=text,
            truncated=truncated,
        )

    def _call(self, spec: JobSpec, run: RunContext, stop: threading.Event, output: Output) -> Ending:
        enter_run(run)
        outputs.enter_output(output)
        enter_fields(term=run.term, job=run.job, scheduled_at=run.scheduled_at, run=run.run_id)
        return run_callable(spec, run, stop, self._jobs_folder)
