"""Compile templates and statements before somebody waits for them.

    started -> the election has had its first answer -> each kind of page is made once, for nobody -> done

The first use of a template or a statement takes as long as a hundred later ones: together half a second of the
first page.  The replica is its own first visitor, on a thread that lives for that, and only once it leads or knows
who does: until then the start has better use for the processor.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

from scheduler_service.database import StoreUnavailable
from scheduler_service.events import Event
from scheduler_service.web.view import View

DECIDED = frozenset({"leader_elected", "leader_observed"})


class Warming:
    """Calls `visit` once, when it disturbs no election any more."""

    def __init__(self, view: View, visit: Callable[[], None]) -> None:
        self._view = view
        self._visit = visit
        self._lock = threading.Lock()
        self._begun = False
        view.parts.events.subscribe(self._on_event)
        if view.parts.elector.current() is not None or view.parts.elector.observed() is not None:
            self._begin()  # it was decided before we could hear of it

    def _on_event(self, event: Event) -> None:
        if event.name in DECIDED:
            self._begin()

    def _begin(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, True
        if not begun:
            threading.Thread(target=self._warm, name="warming", daemon=True).start()

    def _warm(self) -> None:
        try:
            self._visit()
        except StoreUnavailable:
            pass  # then the first page takes longer
        finally:
            self._view.close()  # nobody looks: no connection is kept for them
            # All that is loaded stays.  To look through it for garbage, again and again, would hold up every thread of
            # the replica for a tenth of a second.
            gc.freeze()
