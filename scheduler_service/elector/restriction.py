"""Functions that do their work on the leader alone.

    @leader_only(elector)
    def prune() -> int: ...            # on a standby: NotLeaderError, which says who leads

    @leader_only(elector, otherwise=0)
    async def count() -> int: ...      # on a standby: 0

The elector is asked when the work begins: at the call, and of a coroutine function when it is awaited.  What is
not promised: that we still lead when the work ends.  Work that writes somewhere passes on the term, which
`elector.require()` gives inside the function, so that what comes from an older term can be refused there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

from scheduler_service.leases import Observation
from scheduler_service.model import Lease

P = ParamSpec("P")
R = TypeVar("R")
Otherwise = TypeVar("Otherwise")
Otherwise_co = TypeVar("Otherwise_co", covariant=True)


class NotLeaderError(RuntimeError):
    """What is for the leader alone was not done, because this replica does not lead.

    `lock_id` is the election; `leader_id` and `term` tell who led when this replica last looked, None where
    nobody did or it is not known.
    """

    def __init__(
        self, message: str, *, lock_id: int | None = None, leader_id: str | None = None, term: int | None = None
    ) -> None:
        super().__init__(message)
        self.lock_id = lock_id
        self.leader_id = leader_id
        self.term = term


def not_leader(what: str, *, replica: str, lock_id: int, leader: Observation | None, why: str) -> NotLeaderError:
    """Return the error that says why `replica` did not do `what`; `leader` is another one, if any is known."""
    if leader is not None:
        why = f"{leader.leader_id} does, in term {leader.term}"
    return NotLeaderError(
        f"{what} is for the leader alone, and {replica} does not lead election {lock_id}: {why}",
        lock_id=lock_id,
        leader_id=leader.leader_id if leader is not None else None,
        term=leader.term if leader is not None else None,
    )


@runtime_checkable
class Leading(Protocol):
    """What `leader_only` needs of an elector."""

    def require(self, what: str = ...) -> Lease:
        """Return the lease that we may act under, or raise NotLeaderError."""


class ForLeader(Protocol):
    """A decorator that keeps the signature of what it wraps."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]:
        """Return `function`, for the leader alone."""


class ForLeaderOr(Protocol[Otherwise_co]):
    """A decorator that keeps the parameters, and adds another result."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | Otherwise_co]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R | Otherwise_co]: ...


class _Missing(Enum):
    MISSING = 0


@overload
def leader_only(elector: Leading) -> ForLeader: ...
@overload
def leader_only(elector: Leading, *, otherwise: Otherwise) -> ForLeaderOr[Otherwise]: ...
def leader_only(elector: Leading, *, otherwise: Any = _Missing.MISSING) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for functions, methods and coroutine functions that only the leader shall run.

    On a replica that does not lead, the function is not called: NotLeaderError is raised, or `otherwise` is
    returned as it stands where it was given.  What the function raises passes through.

    Raises TypeError for what runs later than it is called (generator functions), and for classes.
    """
    if not isinstance(elector, Leading) or isinstance(elector, type):
        raise TypeError(f"leader_only needs the elector to ask: @leader_only(elector), not {elector!r}")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = _checked(function)

        def may_not() -> bool:
            try:
                elector.require(name)
            except NotLeaderError:
                if otherwise is _Missing.MISSING:
                    raise
                return True
            return False

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return otherwise if may_not() else function(*arguments, **named)

        @functools.wraps(function)
        async def await_(*arguments: Any, **named: Any) -> Any:
            return otherwise if may_not() else await function(*arguments, **named)

        return await_ if inspect.iscoroutinefunction(function) else call

    return decorate


def _checked(function: Any) -> str:
    """Return the name of `function`; TypeError, saying what to do, if it cannot be wrapped."""
    name: str = getattr(function, "__qualname__", None) or repr(function)
    if isinstance(function, staticmethod | classmethod):
        raise TypeError(f"{name}: write @{type(function).__name__} above @leader_only, not below it")
    if inspect.isclass(function):
        raise TypeError(f"{name} is a class: put leader_only on those of its methods that are for the leader")
    if not callable(function):
        raise TypeError(f"{function!r} cannot be called, so leader_only cannot wrap it")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{name} is a generator function: its body runs when somebody iterates, and may do so when the lease is "
            "over; put leader_only on what is called for each item"
        )
    return name
