"""A highly available cron service: one leader, every tick decided once.

Modules import only from modules above them in this order:

    clock strict_json passwords rush mailbox schedule moments model events logs policy signatures callables config
    database tables leases guard ledger silence elector context runner results workers timetable dispatcher
    housekeeping reloading forfeits watch metrics service web testing cli

What a program needs that uses the election, or that is a job, is here by name; each is loaded when it is first
asked for, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler_service.context import Cancelled, GiveUp, RetryLater, RunContext, current_run
    from scheduler_service.elector import Elector, NotLeaderError, leader_only
    from scheduler_service.model import Lease

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "Elector",
    "GiveUp",
    "Lease",
    "NotLeaderError",
    "RetryLater",
    "RunContext",
    "current_run",
    "leader_only",
]

_MODULES = {
    "Cancelled": "context",
    "Elector": "elector",
    "GiveUp": "context",
    "Lease": "model",
    "NotLeaderError": "elector",
    "RetryLater": "context",
    "RunContext": "context",
    "current_run": "context",
    "leader_only": "elector",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
