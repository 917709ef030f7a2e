"""JSON as the standard has it, read from the beginning of a text that goes on: what a policy writes is not trusted.

Python's own reader takes NaN, Infinity and numbers that overflow, keeps the last of several equal keys, and lets half
a surrogate pair through, which no tokenizer can encode afterwards. All of them are the writer's mistakes here. So is a
value that is nested deeper than whoever renders, stores or sends it can follow.
"""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 100  # lists and objects within each other; no tool asks for as many, and recursion ends at about 500


def read_json_prefix(text: str) -> tuple[Any, int]:
    """The value at the beginning of ``text``, and where it ends. Raises ValueError in words for the writer."""
    try:
        value, end = _DECODER.raw_decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    written = text[:end]
    if written.count("[") + written.count("{") > DEEPEST:
        _refuse_deep(value)
    if "\\u" in written or not written.isascii():
        _refuse_half_pairs(value)
    return value, end


def read_json(text: str) -> Any:
    """The value that the whole of ``text`` is, but for space around it. Raises ValueError."""
    value, end = read_json_prefix(text.strip())
    if text.strip()[end:]:
        raise ValueError(f"Extra data: '{text.strip()[end : end + 20]}'")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:40]!r} is given twice")
        found[key] = value
    return found


def _refuse_deep(value: Any) -> None:
    inside = [value]
    for _ in range(DEEPEST + 1):
        nested = [one for one in inside if isinstance(one, dict | list)]
        inside = [inner for one in nested for inner in (one.values() if isinstance(one, dict) else one)]
        if not nested:
            return
    raise ValueError("nested too deeply")


def _refuse_half_pairs(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair (\\ud800 to \\udfff) is no character") from error


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float, object_pairs_hook=_object)
