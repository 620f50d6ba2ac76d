"""Hand what happens to a logger of Python's logging, for programs that use the election alone.

    leader_elected term=4 lock_id=7 how=expired crash_detection=false instance=web-1-7f3a21

A handler may block, and whoever emits may be the thread that renews the lease (I9): so events wait in a queue for a
thread of their own.  When nobody takes them, further ones are dropped, counted and told.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
import traceback

from scheduler_service.events import CATALOGUE, WARNING, Event, Events

LIMIT = 1_000  # events that wait

_PLAIN = re.compile(r"[^\s=\"']+")


class Journal:
    """A queue, and the thread that logs what is in it, each under the event's level.

    The record has the event's name as `event` and its fields as `fields`, for formatters that write JSON.  Without
    a logger there is nothing to do, and no thread.
    """

    def __init__(self, logger: logging.Logger | None, events: Events) -> None:
        self._logger = logger
        self.forget()
        if logger is not None:
            # Here and not on the thread: a child that is forked amid an import waits for its end for ever.
            from scheduler_service.logs import render  # noqa: PLC0415  # imports structlog

            self._plain, self._visible = render.plain, render.visible
            events.subscribe(self.put)

    def forget(self) -> None:
        """Begin anew, in a forked child too, where the thread is not."""
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dropped_count = 0
        self._stopped = False

    def put(self, event: Event) -> None:
        """Log `event` soon, or count it as dropped when too much waits; never blocks."""
        if self._stopped:
            return
        with self._changing:
            if self._queue.qsize() >= LIMIT:
                self._dropped_count += 1
                return
            self._queue.put(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
                self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Log what waits and end the thread, unless a handler takes longer than that."""
        self._stopped = True
        self._queue.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            self._log(event)
            if self._queue.empty():
                self._tell_dropped()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        with self._changing:
            count, self._dropped_count = self._dropped_count, 0
        if count:
            self._log(Event("events_dropped", WARNING, {"count": count}))

    def _log(self, event: Event) -> None:
        if self._logger is None or not self._logger.isEnabledFor(event.level):
            return
        fields = {name: self._plain(event.fields[name]) for name in _reading_order(event)}  # without passwords
        line = " ".join([event.name, *(f"{name}={_shown(value)}" for name, value in fields.items())])
        try:
            self._logger.log(event.level, "%s", self._visible(line), extra={"event": event.name, "fields": fields})
        except Exception:  # of a filter; as logging does with those of a handler
            if logging.raiseExceptions:
                traceback.print_exc()


def _reading_order(event: Event) -> list[str]:
    known = CATALOGUE[event.name][1].replace("?", "").split() if event.name in CATALOGUE else []
    return [*(name for name in known if name in event.fields), *(name for name in event.fields if name not in known)]


def _shown(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
