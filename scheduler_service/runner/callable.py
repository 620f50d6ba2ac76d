"""Call one function, and say how it ended, whatever it does.

    returns                                  succeeded, with its value in a few words
    sys.exit(), sys.exit(0)                  succeeded: scripts end so
    sys.exit(3), sys.exit("no such folder")  failed
    raises Cancelled, after a request        cancelled
    raises RetryLater                        failed, and tried again when it says, if a start is left
    raises GiveUp                            failed, and not tried again
    raises anything else                     failed, with the traceback from the job's code on

A function that returns after it was asked to stop has succeeded: it alone knows whether its work was
done; one that breaks off says so with `run.check()`.

A coroutine gets an event loop of its own.  A request to stop cancels its task, once: the CancelledError
is its chance to clean up.  Tasks that it leaves behind are cancelled when it ends.

The function runs in the calling thread; `thread` and `child` decide which one that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import os
import reprlib
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from scheduler_service.callables import CallableError, bind, check_arguments, find
from scheduler_service.context import LONGEST_WAIT_SECONDS, Cancelled, GiveUp, RetryLater, RunContext, stop_reason
from scheduler_service.model import State
from scheduler_service.runner.ending import Ending
from scheduler_service.runner.output import clean

STOP_LOOK_SECONDS = 0.1  # how often a coroutine's request to stop is looked at
ERROR_CHARACTERS = 8000
RESULT_CHARACTERS = 1000

# Where a traceback has not reached the job's code yet: this package, and the event loop.
_OURS = (str(Path(__file__).parent.parent) + os.sep, str(Path(asyncio.__file__).parent) + os.sep)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 400
_short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = _short.maxdict = 20


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be called."""

    reference: str  # module:function
    jobs_folder: Path
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


Span = Callable[[], contextlib.AbstractContextManager[None]]


def run_callable(call: Call, run: RunContext, going_on: Span = contextlib.nullcontext) -> Ending:
    """Find and call the job's function in the current context; nothing that it raises gets out.

    `going_on` makes a context manager, entered when the function is loaded and left when it has returned:
    what is awaitable is awaited after that.
    """
    process_id = os.getpid()
    try:
        ending = _call(call, run, going_on)
    except BaseException as error:  # to look at what it raised was to run the job's code again
        ending = Ending(State.FAILED, error_text(error))
    if os.getpid() != process_id:
        # The job forked, and its child came back here: it must not carry on with the worker's work.
        os._exit(0 if ending.state is State.SUCCEEDED else 1)
    return ending


def _call(call: Call, run: RunContext, going_on: Span) -> Ending:
    stop = run.stopping
    try:
        function = find(call.reference, call.jobs_folder)
        args, kwargs = _arguments(function, call, run)
        with going_on():
            value = function(*args, **kwargs)
        if inspect.isawaitable(value):
            value = _complete(value, stop)
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            return Ending(State.FAILED, f"{call.reference} returned a generator, so nothing of it ran: remove 'yield'")
        return Ending(State.SUCCEEDED, result=_result_text(value))
    except CallableError as error:
        return Ending(State.FAILED, clean(str(error)))
    except SystemExit as error:
        return _exited(error.code)
    except BaseException as error:  # KeyboardInterrupt, too, is only this job's
        if _is_cancellation(error, stop):
            return Ending(State.CANCELLED, f"stopped: {stop_reason(stop)}")
        return _failed(error)


def _failed(error: BaseException) -> Ending:
    # From a TaskGroup they come in a group, with whatever else went wrong at the same time.
    text, raised = error_text(error), list(_leaves(error))
    if any(isinstance(one, GiveUp) for one in raised):
        return Ending(State.FAILED, text, final=True)
    waits = [wait for one in raised if isinstance(one, RetryLater) and (wait := _wait(one)) is not None]
    return Ending(State.FAILED, text, retry_seconds=max(waits, default=None))


def _wait(error: RetryLater) -> float | None:
    """Return the wait that a job asked for; None where a class of its own made something else of it."""
    seconds = getattr(error, "seconds", None)
    if isinstance(seconds, int | float) and 0 <= seconds <= LONGEST_WAIT_SECONDS:
        return float(seconds)
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _complete(awaitable: Awaitable[Any], stop: threading.Event) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(_stoppable(awaitable, stop))


def _arguments(function: Callable[..., Any], call: Call, run: RunContext) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # Those of the configuration were checked with it; those of a trigger come from anywhere.
    check_arguments(function, call.args, call.kwargs)
    try:
        # Copied, because what a job does to its arguments must not reach its next run.
        args = copy.deepcopy(call.args) if call.args else ()
        return bind(function, args, copy.deepcopy(dict(call.kwargs)) if call.kwargs else {}, run)
    except TypeError as error:
        raise CallableError(f"{call.reference} cannot be called with these args and kwargs: {error}") from error


async def _stoppable(awaitable: Awaitable[Any], stop: threading.Event) -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    timer: asyncio.Handle

    # A timer, not a task: a job that waits for all tasks of its loop must not wait for us.
    def look() -> None:
        nonlocal timer
        if not stop.is_set():
            timer = loop.call_later(STOP_LOOK_SECONDS, look)
        elif task is not None:
            task.cancel(stop_reason(stop))

    timer = loop.call_soon(look)
    try:
        return await awaitable
    finally:
        timer.cancel()


def _is_cancellation(error: BaseException, stop: threading.Event) -> bool:
    if not stop.is_set():
        return False
    if isinstance(error, BaseExceptionGroup):  # of a TaskGroup
        return error.split((Cancelled, asyncio.CancelledError))[1] is None
    return isinstance(error, Cancelled | asyncio.CancelledError)


def _exited(code: object) -> Ending:
    if code is None or code == 0:
        return Ending(State.SUCCEEDED, exit_code=0)
    if isinstance(code, int):
        return Ending(State.FAILED, f"exit code {code}", int(code) & 0xFF)
    return Ending(State.FAILED, _shortened(clean(_safely(str, code)), ERROR_CHARACTERS), 1)


def error_text(error: BaseException, *, whole: bool = False) -> str:
    """Return the traceback of `error` from the job's code on, or whole; at most ERROR_CHARACTERS."""
    try:
        trace = error.__traceback__ if whole else _from_the_job(error.__traceback__)
        shown = traceback.TracebackException(type(error), error, trace, compact=True)
        text = "".join(shown.format() if shown.stack else shown.format_exception_only())
    except BaseException as second:  # an exception may be as broken as it likes
        text = f"{type(error).__name__} (and its traceback cannot be shown: {type(second).__name__})"
    return _shortened(clean(text.strip()), ERROR_CHARACTERS)


def _from_the_job(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return trace


def _result_text(value: object) -> str | None:
    return None if value is None else _shortened(clean(_safely(_short.repr, value)), RESULT_CHARACTERS)


def _safely(convert: Any, value: object) -> str:
    try:
        return str(convert(value))
    except BaseException as error:  # the job's own code runs here
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head, tail = limit // 4, limit - limit // 4
    return f"{text[:head]}\n… {len(text) - limit} characters left out …\n{text[-tail:]}"
