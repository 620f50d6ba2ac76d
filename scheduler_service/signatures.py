"""How a function is called, looked up once: each run asks."""

from __future__ import annotations

import inspect
import re
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, UnionType
from typing import Any, Union, get_args, get_origin


@dataclass(frozen=True, slots=True)
class KnownCall:
    """What `inspect` says of a function; no signature for some written in C."""

    signature: inspect.Signature | None
    context: str | None  # the parameter annotated RunContext
    others: inspect.Signature  # without it
    needs_nothing: bool  # beside it
    takes_context_alone: bool  # it is the first parameter, and may be given by position


_functions: weakref.WeakKeyDictionary[FunctionType, KnownCall] = weakref.WeakKeyDictionary()


def known_call(function: Callable[..., Any]) -> KnownCall:
    """Return how a function is called; of a plain one it is remembered for as long as the function lives."""
    known = _functions.get(function) if isinstance(function, FunctionType) else None
    if known is None:
        signature = _signature(function)
        parameters = list(signature.parameters.values()) if signature else []
        name = next((parameter.name for parameter in parameters if _asks_for_context(parameter)), None)
        others = inspect.Signature([parameter for parameter in parameters if parameter.name != name])
        needed = [one for one in others.parameters.values() if one.default is one.empty and not _is_variadic(one)]
        first = bool(parameters) and parameters[0].name == name and parameters[0].kind is not parameters[0].KEYWORD_ONLY
        known = KnownCall(signature, name, others, not needed, not needed and first)
        if isinstance(function, FunctionType):
            _functions[function] = known
    return known


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib  # noqa: PLC0415  # a module of 3.14

            return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None  # some functions written in C tell nothing: they judge for themselves when called


def _asks_for_context(parameter: inspect.Parameter) -> bool:
    return not _is_variadic(parameter) and _means_context(parameter.annotation)


def _is_variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _means_context(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return re.search(r"\bRunContext\b", annotation) is not None
    if get_origin(annotation) in (Union, UnionType):
        return any(_means_context(part) for part in get_args(annotation))
    # Not evaluated: the name may be imported for type checkers only.
    forward = getattr(annotation, "__forward_arg__", None)
    return _means_context(forward) if forward is not None else getattr(annotation, "__name__", None) == "RunContext"
