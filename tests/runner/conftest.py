"""What tests of running need: jobs in a folder, a runner, and a record of what it told."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scheduler_service import schedule
from scheduler_service.clock import BootClock
from scheduler_service.context import Stopping
from scheduler_service.events import Event, Events
from scheduler_service.model import Attempt, JobSpec, Kind, Outcome
from scheduler_service.runner import Runner, Surroundings
from scheduler_service.runner.process import Template

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PATIENCE_SECONDS = 20.0


def an_attempt(number: int = 7, *, sent: float = 0.0, job: str = "tidy") -> Attempt:
    return Attempt(
        id=number,
        run_id=number * 10,
        attempt=1,
        job_id=job,
        scheduled_at=NOON,
        due_at=NOON,
        kind=Kind.SCHEDULED,
        term=4,
        instance_id="web-1",
        started_at=NOON,
        sent=sent,
    )


def a_job(**settings: Any) -> JobSpec:
    return JobSpec(**{"id": "tidy", "schedule": schedule.manual(), **settings})


class Told:
    """Events as they were emitted; a test can wait for one."""

    def __init__(self) -> None:
        self.events = Events()
        self._all: list[Event] = []
        self._changed = threading.Condition()
        self.events.subscribe(self._note)

    def _note(self, event: Event) -> None:
        with self._changed:
            self._all.append(event)
            self._changed.notify_all()

    def names(self) -> list[str]:
        return [event.name for event in self._all]

    def fields(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.fields) for event in self._all if event.name == name]

    def lines(self) -> list[str]:
        return [fields["line"] for fields in self.fields("run_output")]

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        with self._changed:
            found = self._changed.wait_for(lambda: len(self.fields(name)) >= count, PATIENCE_SECONDS)
        assert found, f"{count} {name} were awaited, told were {self.names()}"
        return self.fields(name)


class Bench:
    """A runner, and a folder for jobs."""

    def __init__(self, folder: Path, output_limit: int = 64 * 1024) -> None:
        self.folder = folder
        self.jobs_folder = folder / "jobs"
        self.jobs_folder.mkdir(exist_ok=True)
        self.told = Told()
        self.runner = Runner(
            jobs_folder=self.jobs_folder,
            output_limit=output_limit,
            events=self.told.events.bind(instance="web-1"),
            clock=BootClock(),
            instance_id="web-1",
        )

    def write(self, source: str, module: str = "tidy") -> None:
        (self.jobs_folder / f"{module}.py").write_text(textwrap.dedent(source))

    def function(self, source: str, stop: threading.Event | None = None, **settings: Any) -> Outcome:
        """Run the function `main` of `source`."""
        self.write(source)
        return self.run(stop, run="tidy:main", **settings)

    def command(self, command: str | tuple[str, ...], stop: threading.Event | None = None, **settings: Any) -> Outcome:
        return self.run(stop, command=command, **settings)

    def run(self, stop: threading.Event | None = None, **settings: Any) -> Outcome:
        return self.runner.run(an_attempt(), a_job(**settings), Stopping() if stop is None else stop)

    def start(self, stop: Stopping, **settings: Any) -> Running:
        return Running(lambda: self.run(stop, **settings))


class Running:
    """A run in a thread of its own."""

    def __init__(self, run: Callable[[], Outcome]) -> None:
        self._outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)
        self._thread.start()

    def _work(self, run: Callable[[], Outcome]) -> None:
        self._outcome = run()

    def outcome(self) -> Outcome:
        self._thread.join(PATIENCE_SECONDS)
        assert self._outcome is not None, "the run did not end"
        return self._outcome


@pytest.fixture(scope="session")
def shared_template() -> Iterator[Template]:
    """What most tests fork children from: to load our package anew for each takes half a second."""
    template = Template(Surroundings())
    yield template
    template.close()


@pytest.fixture
def own_template() -> None:
    """Asked for by tests that look at the template, hurt it, or change what it finds at its start."""


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path, shared_template: Template) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    if "own_template" in request.fixturenames:
        yield bench
        bench.runner.close()
    else:
        bench.runner._template = shared_template
        yield bench
