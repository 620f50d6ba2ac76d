"""The workers of a simulated replica: runs that go on for as long as the test says, on a clock that stands still.

submit --> going on --its time is over, its time-out, a request to stop--> ended --written--> gone
              `--a function in a thread, over its time-out: it holds worker and slot until it returns
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from scheduler_service import policy
from scheduler_service.ledger import Finished
from scheduler_service.model import Attempt, JobSpec, Outcome, State
from scheduler_service.runner import needs_process
from scheduler_service.runner.arguments import ArgumentsError, arguments
from scheduler_service.testing.behaviour import Behaviour
from scheduler_service.testing.moments import SimulatedClock

Call = Callable[[Attempt, JobSpec], Outcome]


@dataclass(frozen=True, slots=True)
class Given:
    """What one start was given to do."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(slots=True)
class _Going:
    """A run that goes on, and what comes of it when it ends."""

    attempt: Attempt
    spec: JobSpec
    isolated: bool  # it has a process of its own
    ends_at: datetime
    outcome: Outcome
    returns_at: datetime  # later than `ends_at` where a thread goes on after its time-out
    ended: bool = False


class SimulatedWorkers:
    """The runs of one replica.

    `call` executes a function, None where the test only wants to know what would run.  `look_at` is told each
    moment at which something ends.  `given` is where the arguments of each start are noted, by attempt id.
    """

    def __init__(
        self,
        *,
        threads: int,
        processes: int,
        behaviour: Behaviour,
        clock: SimulatedClock,
        call: Call | None,
        look_at: Callable[[datetime], None],
        given: dict[int, Given],
    ) -> None:
        self._threads = threads
        self._processes = processes
        self._behaviour = behaviour
        self._clock = clock
        self._call = call
        self._look_at = look_at
        self._given = given
        self._going: dict[int, _Going] = {}
        self._unwritten: dict[int, Attempt] = {}

    @property
    def free_count(self) -> int:
        """How many attempts can be taken now."""
        return self._threads - len(self._going)

    @property
    def room(self) -> int:
        """The same: nothing is taken ahead."""
        return self.free_count

    def weight(self, _: JobSpec) -> int:
        """Return how many attempts one of this job takes the place of."""
        return 1

    def give_back(self) -> Sequence[Attempt]:
        """Return nothing: what is taken begins at once."""
        return ()

    @property
    def free_process_count(self) -> int:
        """How many of these may run in a process of their own."""
        return min(self.free_count, self._processes - sum(one.isolated for one in self._going.values()))

    @property
    def waiting_count(self) -> int:
        """The same as for `give_back`: none."""
        return 0

    @property
    def busy(self) -> bool:
        """Whether something goes on, or is not recorded as ended."""
        return bool(self._going or self._unwritten)

    def submit(self, attempt: Attempt, spec: JobSpec, weight: int = 1) -> None:  # noqa: ARG002  # all weigh the same
        """Begin a run."""
        isolated = needs_process(spec)
        length, outcome = self._begin(attempt, spec)
        began = attempt.started_at
        ends_at = returns_at = began + length
        if spec.timeout is not None and length > spec.timeout:
            ends_at = began + spec.timeout
            retry = policy.retry_seconds(spec, attempt.attempt, State.TIMED_OUT)
            outcome = Outcome(State.TIMED_OUT, 0.0, f"not over after {spec.timeout}", retry_seconds=retry)
            if spec.run is None or isolated:
                returns_at = ends_at  # a process is killed
        self._going[attempt.id] = _Going(attempt, spec, isolated, ends_at, outcome, returns_at)
        self._unwritten[attempt.id] = attempt
        self._look_at(ends_at)

    def registry(self) -> dict[int, Attempt]:
        """Return the attempts that were taken and are not recorded as ended."""
        return dict(self._unwritten)

    def stuck(self) -> Sequence[Attempt]:
        """Return the attempts whose functions are over their time-out and have not returned."""
        return [one.attempt for one in self._going.values() if one.ended]

    def spec_of(self, attempt_id: int) -> JobSpec | None:
        """Return the job as it was when a run that goes on was started."""
        one = self._going.get(attempt_id)
        return None if one is None else one.spec

    def stop_run(self, attempt_id: int, reason: str) -> None:
        """Let a run end now: in a simulation every job obeys at once."""
        one = self._going.get(attempt_id)
        if one is not None and not one.ended:
            one.ends_at = one.returns_at = self._clock.now()
            one.outcome = Outcome(State.CANCELLED, 0.0, f"stopped: {reason}")
            self._look_at(one.ends_at)

    def ended(self) -> Sequence[Finished]:
        """Take the results of what has ended by now, the first to end first."""
        now = self._clock.now()
        results: list[tuple[datetime, Finished]] = []
        for attempt_id, one in tuple(self._going.items()):
            lasted = (one.ends_at - one.attempt.started_at).total_seconds()
            if one.ends_at <= now and not one.ended:
                one.ended = True
                returned = one.returns_at <= one.ends_at
                outcome = replace(one.outcome, seconds=lasted, returned=returned)
                results.append((one.ends_at, Finished(one.attempt, outcome)))
                if not returned:
                    self._look_at(one.returns_at)
            elif one.ended and one.returns_at <= now:
                outcome = replace(one.outcome, seconds=lasted, returned=True)
                results.append((one.returns_at, Finished(one.attempt, outcome)))
            if one.ended and one.returns_at <= now:
                del self._going[attempt_id]
        return [one for _, one in sorted(results, key=lambda pair: (pair[0], pair[1].attempt.id))]

    def written(self, attempts: Iterable[Attempt]) -> None:
        """Forget attempts whose results are in the ledger."""
        for attempt in attempts:
            self._unwritten.pop(attempt.id, None)

    def _begin(self, attempt: Attempt, spec: JobSpec) -> tuple[timedelta, Outcome]:
        length = self._behaviour.length(spec.id)
        try:
            self._given[attempt.id] = Given(*arguments(spec, attempt))
        except ArgumentsError as problem:
            self._given[attempt.id] = Given((), {})
            return timedelta(0), Outcome(State.FAILED, 0.0, str(problem))
        if self._call is not None and spec.run is not None:
            return length, self._call(attempt, spec)
        return length, self._behaviour.outcome(attempt, spec)
