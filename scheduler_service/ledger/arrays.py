"""Arrays as parameters of a statement on PostgreSQL, each written as one literal.

The driver writes an array element by element, which costs more than everything else about a large batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.types import UserDefinedType


class Array(UserDefinedType[Sequence[Any]]):
    """An array of one of the server's types; elements are None, text, times, numbers or booleans."""

    cache_ok = True
    render_bind_cast = True

    def __init__(self, element: str) -> None:
        self.element = element

    def get_col_spec(self, **_: Any) -> str:
        """Return the array's type in SQL."""
        return f"{self.element}[]"

    def bind_processor(self, dialect: object) -> Callable[[Sequence[Any] | None], str | None]:  # noqa: ARG002  # SQLAlchemy's
        """Return what writes a list as a literal."""
        return lambda values: None if values is None else literal(values)


def literal(values: Sequence[Any]) -> str:
    """Return an array's text: {NULL,"a",2026-01-31T12:00:00+00:00,1.5,t}."""
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        # Quoted, or the word null would be one, and braces and commas would mean something.
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, datetime):
        return value.isoformat()
    return repr(value)  # numbers to the last digit, True and False, nan and inf
