"""Call the functions of jobs in a simulation, at the moment that it shows."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scheduler_service.context import Stopping
from scheduler_service.events import Events
from scheduler_service.model import Attempt, Isolation, JobSpec, Outcome
from scheduler_service.runner import Runner
from scheduler_service.testing.moments import SimulatedClock

MISSING = (
    "to call functions at a simulated moment, freezegun is needed: pip install 'scheduler-service[testing]'; "
    "or say frozen=False, and they see the machine's time"
)


class Caller:
    """Calls functions in the calling thread, as the service's runner calls them.

    With `frozen`, what they ask for the time is answered with the simulated moment, and goes on from there.
    """

    def __init__(self, *, clock: SimulatedClock, events: Events, output_limit: int, frozen: bool) -> None:
        self._clock = clock
        self._events = events
        self._output_limit = output_limit
        self._is_frozen = frozen
        self._frozen: Any = None

    @staticmethod
    def require_freezegun() -> None:
        """ModuleNotFoundError, saying what to do, where freezegun is not installed."""
        _freezegun()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Freeze the time for a block, and leave the streams as they were."""
        streams = sys.stdout, sys.stderr
        try:
            with contextlib.ExitStack() as stack:
                if self._is_frozen:
                    # Once for all calls: each time anew, every loaded module would be searched for clocks.
                    freezing = _freezegun().freeze_time(self._clock.now(), tick=True, real_asyncio=True)
                    self._frozen = stack.enter_context(freezing)
                yield
        finally:
            self._frozen = None
            sys.stdout, sys.stderr = streams

    def call(self, attempt: Attempt, spec: JobSpec, jobs_folder: Path) -> Outcome:
        """Call the function of one attempt to its end."""
        if self._frozen is not None:
            self._frozen.move_to(self._clock.now())
        # A child process would see the machine's time, and a time-out would be counted on it.
        here = spec.model_copy(update={"isolation": Isolation.THREAD, "timeout": None})
        runner = Runner(
            jobs_folder=jobs_folder,
            output_limit=self._output_limit,
            events=self._events,
            clock=self._clock,
            instance_id=attempt.instance_id,
        )
        return runner.run(attempt, here, Stopping())


def _freezegun() -> Any:
    try:
        import freezegun  # noqa: PLC0415  # only who wants it needs it
    except ImportError:
        raise ModuleNotFoundError(MISSING, name="freezegun") from None
    return freezegun
