"""Electors for tests, and a way to wait for what they tell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from scheduler_service.elector import Elector
from scheduler_service.events import Event, Events

PATIENCE_SECONDS = 20.0


class Heard:
    """Every event that was emitted; others may wait for the next of a name."""

    def __init__(self) -> None:
        self.events = Events()
        self.events.subscribe(self._hear)
        self._all: list[Event] = []
        self._changed = threading.Condition()

    def _hear(self, event: Event) -> None:
        with self._changed:
            self._all.append(event)
            self._changed.notify_all()

    def all(self, name: str, **fields: Any) -> list[Event]:
        """Return the events of that name that have these fields."""
        with self._changed:
            return [event for event in self._all if event.name == name and fields.items() <= event.fields.items()]

    def wait(self, name: str, *, after: int = 0, seconds: float = PATIENCE_SECONDS, **fields: Any) -> Event:
        """Return the first such event but `after`, when it has come."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.all(name, **fields)) > after, timeout=seconds):
                told = "\n".join(f"{event.name} {dict(event.fields)}" for event in self._all)
                raise AssertionError(f"no {name} {fields} within {seconds} s; there were:\n{told}")
            return self.all(name, **fields)[after]

    @property
    def names(self) -> list[str]:
        """The names of all events, in order."""
        with self._changed:
            return [event.name for event in self._all]


class Told:
    """An elector with the events that it emits."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.heard = Heard()
        self.elector = Elector(*arguments, events=self.heard.events, **settings)

    def __enter__(self) -> Told:
        self.elector.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.elector.stop()


def wait_until(condition: Callable[[], bool], *, what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Look again and again, where there is nothing to be told by; AssertionError after `seconds`."""
    pause = threading.Event()
    for _ in range(round(seconds / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError(f"not within {seconds} s: {what}")
