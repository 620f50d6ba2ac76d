"""JSON as others read it too: not what Python alone takes for JSON, and no key that is given twice."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn


def read_json(text: str | bytes) -> Any:
    """Return what JSON says; ValueError for NaN, Infinity and keys that are given twice, and for what is no JSON.

    A number that only infinity could stand for is refused as well: written again it would be `Infinity`.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:50]} is too large for a number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r} is given twice")
    return document
