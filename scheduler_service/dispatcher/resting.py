"""When the dispatcher's thread may rest between two steps.

    step --answered, nothing left--> rest --a signal, an election, something due--> step
         --held up: nothing can be done yet, whatever is due--> rest, for as long as it was told, or until an election

An election during a step counts as one during the rest after it: what the step found is of the time before.
"""

from __future__ import annotations

import threading

from scheduler_service.rush import Rush


class Rest:
    """What is known at the end of a step, and what came after it; `changed` guards it, and is the dispatcher's.

    Any thread may signal.  `rush` is told how each step ended.
    """

    def __init__(self, changed: threading.Condition, rush: Rush) -> None:
        self._changed = changed
        self._rush = rush
        self._signalled = False  # something may be started that could not before
        self._elected = False  # since the step began
        self._held_up = False
        self._unanswered_count = 0  # steps in a row that ended without an answer of the database

    def signal(self) -> None:
        """Let the next step look what may be started."""
        with self._changed:
            self._signalled = True
            self._changed.notify()

    def elected(self) -> None:
        """Begin to lead: all jobs are due."""
        with self._changed:
            self._rush.tell(going_on=True)
            self._elected, self._held_up = True, False
            self.signal()

    def take_signal(self) -> bool:
        """Return whether there was a signal; from now on there is none."""
        with self._changed:
            signalled, self._signalled = self._signalled, False
            return signalled

    def over(self, *, ready: bool) -> bool:
        """Whether the thread is to step again; `ready` tells that something is due."""
        return not self._held_up and (self._signalled or ready)

    # --- how a step began and ended

    def step_begins(self) -> None:
        """Hear of elections from here on."""
        with self._changed:
            self._elected = False

    def answered(self, *, going_on: bool) -> None:
        """The step did what it could; `going_on` tells that there is more."""
        self._unanswered_count = 0
        self._end(going_on=going_on, held_up=False)

    def unanswered(self) -> None:
        """The database did not answer.  A connection that broke is replaced at once, one that breaks again is not."""
        self.signal()  # what the statement did is unknown: read again what waits
        self._end(going_on=False, held_up=self._unanswered_count > 0)
        self._unanswered_count += 1

    def less_is_asked(self) -> None:
        """Something else is asked after the failure that is on its way: it does not wait for the database to return."""
        self._unanswered_count = 0

    def in_doubt(self) -> None:
        """The database was not asked, because the lease is not trusted: that is no answer."""
        self._end(going_on=False, held_up=True)

    def _end(self, *, going_on: bool, held_up: bool) -> None:
        with self._changed:
            self._rush.tell(going_on=going_on or self._elected)
            self._held_up = held_up and not self._elected
