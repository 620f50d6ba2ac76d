"""A configuration in a world whose time, misfortunes and people a test commands.

world = scheduler.load("config.yaml")                       what is tested
world.takes("report", "20m")                                how its runs go
world.no_leader("2026-03-29T00:30Z", "2026-03-29T02:30Z")   what happens to the service
world.pause("report", at="2026-03-29T06:00Z")               what people do
runs = world.run("2026-03-28T00:00Z", "2026-03-30T00:00Z")  let it happen
runs.assert_ran("report", at=[...])                         what came of it
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_service.config import Config
from scheduler_service.ledger.requests import Paused, Resumed, Triggered
from scheduler_service.model import JobSpec, State
from scheduler_service.testing.behaviour import Behaviour, End
from scheduler_service.testing.calling import Caller
from scheduler_service.testing.course import Course, Order, OrderError
from scheduler_service.testing.moments import Duration, Moment, iso, read_duration, read_moment, up_to_millisecond
from scheduler_service.testing.runs import Runs

WHO = "the test"


@dataclass(frozen=True, slots=True)
class Calling:
    """How functions are called."""

    frozen: bool = True


class World:
    """One configuration, and what shall happen to it; made by `Scheduler`.

    Moments are ISO 8601 with Z or an offset, or aware datetimes; durations are written as in the configuration.
    Nothing happens before `run`, which can be called once.
    """

    def __init__(self, config: Config, *, calling: Calling | None, read: Callable[[Any], Config]) -> None:
        self._config = config
        self._calling = calling
        self._read = read
        self._behaviour = Behaviour()
        self._specs: dict[str, JobSpec] = {spec.id: spec for spec in config.jobs}
        self._orders: list[Order] = []
        self._course: Course | None = None
        if calling is not None and calling.frozen:
            Caller.require_freezegun()

    @property
    def config(self) -> Config:
        """The configuration with which it begins."""
        return self._config

    # --- how runs go

    def takes(self, job: str, length: Duration | Sequence[Duration]) -> None:
        """Let runs of a job take so long.  Of a list each start takes one, and those after it no time.

        Without this, runs take no time.
        """
        self._behaviour.takes(self._known(job), length)

    def ends(self, job: str, end: End | Sequence[End]) -> None:
        """Let runs of a job end so: "succeeded", "failed", or with an exception that it raises.

        Of a list each start takes one, and those after it succeed.  Retries follow as configured; `RetryLater` and
        `GiveUp` mean what they mean in a job.  ValueError for a function that is called: it says itself how it ends.
        """
        spec = self._specs[self._known(job)]
        if self._calling is not None and spec.run is not None:
            raise ValueError(f"{job} is called in this world, so its function says how it ends")
        self._behaviour.ends(job, end)

    # --- what happens to the service

    def no_leader(self, start: Moment, end: Moment) -> None:
        """Let all replicas be stopped at `start` and started at `end`; what runs at `start` goes on to its end."""
        self._span("no_leader", start, end, Course.vacate, Course.fill)

    def leader_crash(self, at: Moment, *, takeover_after: Duration = "0s") -> None:
        """Let the leader die, with all that runs in it, and another replica lead after so long.

        What ran is marked lost when the dead replica was silent for `election.lost_after`, or runs again with
        `on_crash: rerun`.
        """
        after = read_duration(takeover_after)
        self._at("leader_crash", at, lambda course: course.crash(after))

    def leader_handover(self, at: Moment) -> None:
        """Let the leader be stopped and another replica lead at once.  What runs goes on to its end."""
        self._at("leader_handover", at, Course.hand_over)

    def database_outage(self, start: Moment, end: Moment) -> None:
        """Let the database not answer from `start` to `end`: nothing is decided, and what ends is recorded later.

        An outage longer than the lease costs the leader its term; at the end of it, it is elected again.
        """
        self._span("database_outage", start, end, Course.go_away, Course.come_back)

    # --- what people do

    def trigger(
        self, job: str, at: Moment, *, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Ask for a run.  `args` take the place of the job's; `kwargs` are merged over them; one of the two."""
        self._known(job)
        if args is not None and kwargs is not None:
            raise ValueError("a trigger carries args or kwargs, not both")
        given = list(args) if args is not None else dict(kwargs) if kwargs is not None else None
        arguments = None if given is None else json.dumps(given)

        def happen(course: Course) -> None:
            course.require_database()
            answer = course.requests.trigger(job, by=WHO, arguments=arguments)
            if not isinstance(answer, Triggered):
                raise OrderError(f"it is refused: {answer}")

        self._at(f"trigger of {job}", at, happen)

    def pause(self, job: str, at: Moment, *, until: Moment | None = None) -> None:
        """Pause a job; without `until` until it is resumed."""
        self._known(job)
        end = None if until is None else read_moment(until)

        def happen(course: Course) -> None:
            course.require_database()
            answer = course.requests.pause(job, by=WHO, until=end)
            if not isinstance(answer, Paused):
                raise OrderError(f"it is refused: {answer}")
            if end is not None:
                course.look_at(end)

        self._at(f"pause of {job}", at, happen)

    def resume(self, job: str, at: Moment) -> None:
        """End the pause of a job."""
        self._known(job)

        def happen(course: Course) -> None:
            course.require_database()
            answer = course.requests.resume(job, by=WHO)
            if not isinstance(answer, Resumed):
                raise OrderError(f"it is refused: {answer}")

        self._at(f"resume of {job}", at, happen)

    def cancel(self, job: str, at: Moment) -> None:
        """Cancel all runs of a job that go on or wait then; those that go on stop at once."""
        self._known(job)

        def happen(course: Course) -> None:
            course.require_database()
            found = [
                run
                for state in (State.RUNNING, State.WAITING)
                for run in course.history.runs(job_id=job, state=state, limit=10_000)
            ]
            if not found:
                raise OrderError("no run of it goes on or waits then")
            for run in found:
                course.requests.cancel(run.id, by=WHO)
            course.look_for_cancels()

        self._at(f"cancel of {job}", at, happen)

    def reload(self, config: Any, at: Moment) -> None:
        """Let all replicas take up another configuration: a file, or jobs as for `Scheduler.jobs`."""
        changed = self._read(config)
        self._specs |= {spec.id: spec for spec in changed.jobs}
        self._at("reload", at, lambda course: course.reload(changed))

    # --- let it happen

    def run(self, start: Moment, end: Moment) -> Runs:
        """Let everything happen from `start` to `end`, and return what came of it.

        At `start` a leader is at work and owes nothing; the ticks after it count, up to and including `end`.
        """
        first, last = up_to_millisecond(read_moment(start)), read_moment(end)
        if last <= first:
            raise ValueError(f"the end, {iso(last)}, is not after the start, {iso(first)}")
        if self._course is not None:
            raise ValueError("this world has run already: make another one")
        for order in self._orders:
            if not first <= order.at <= last and not order.may_be_late:
                raise ValueError(f"{order.text} at {iso(order.at)} does not lie between {iso(first)} and {iso(last)}")
        self._course = Course(self._config, self._behaviour, first, self._caller())
        self._course.run(self._orders, last)
        return Runs(
            history=self._course.history,
            specs=self._specs,
            spans=self._course.ledger.spans,
            given=self._course.given,
            configured=[spec.id for spec in self._course.config.jobs],
            end=last,
        )

    def close(self) -> None:
        """Give the memory back; the runs of this world can be asked no more."""
        if self._course is not None:
            self._course.close()

    def _caller(self) -> Callable[..., Caller] | None:
        calling, limit = self._calling, self._config.history.output_limit
        if calling is None:
            return None
        return lambda clock, events: Caller(clock=clock, events=events, output_limit=limit, frozen=calling.frozen)

    def _known(self, job: str) -> str:
        if job not in self._specs:
            close = difflib.get_close_matches(job, self._specs, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(self._specs)) or 'none'}"
            raise ValueError(f"the configuration has no job {job!r}; {hint}")
        return job

    def _at(self, text: str, at: Moment, happen: Callable[[Course], None]) -> None:
        self._orders.append(Order(up_to_millisecond(read_moment(at)), text, happen))

    def _span(
        self,
        text: str,
        start: Moment,
        end: Moment,
        begin: Callable[[Course], None],
        finish: Callable[[Course], None],
    ) -> None:
        first, last = read_moment(start), read_moment(end)
        if last <= first:
            raise ValueError(f"{text} ends at {iso(last)}, which is not after its start, {iso(first)}")
        self._at(text, first, begin)
        self._orders.append(Order(up_to_millisecond(last), f"the end of {text}", finish, may_be_late=True))
