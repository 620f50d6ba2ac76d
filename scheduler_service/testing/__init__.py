"""For people who test their jobs and schedules: run a configuration from one moment to another on a fake clock.

    def test_the_report_survives_a_night_without_a_leader(scheduler):
        world = scheduler.load("config.yaml")
        world.no_leader("2026-03-29T00:30Z", "2026-03-29T02:30Z")
        runs = world.run("2026-03-28T12:00Z", "2026-03-30T00:00Z")
        runs.assert_ran("report", at=["2026-03-29T01:00Z"])

`scheduler` is a pytest fixture, there as soon as the package is installed.  Without pytest: `Scheduler(folder)`.

What decides is the service's own code, stepped from event to event; nothing sleeps and no thread is started.
Same input, same result: neither the machine's clock nor its time zone nor its environment matters.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler_service.testing.course import OrderError
    from scheduler_service.testing.runs import Run, Runs, Start, Tick
    from scheduler_service.testing.scheduler import Scheduler
    from scheduler_service.testing.world import World

__all__ = ["OrderError", "Run", "Runs", "Scheduler", "Start", "Tick", "World"]

_PLACES = {
    "OrderError": "course",
    "Run": "runs",
    "Runs": "runs",
    "Scheduler": "scheduler",
    "Start": "runs",
    "Tick": "runs",
    "World": "world",
}


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: pytest imports the plugin, and with it this package, at every start.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
