"""Electors in a forked child, where their threads are not: each begins anew, so that no copy leads."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgetful(Protocol):
    """What can begin anew."""

    def forget(self) -> None:
        """Know nothing of what the parent goes on doing."""


_remembered: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def remember(elector: Forgetful) -> None:
    """Let `elector` begin anew in every forked child, for as long as it lives."""
    _remembered.add(elector)


def _after_fork() -> None:
    for elector in list(_remembered):
        elector.forget()


os.register_at_fork(after_in_child=_after_fork)
