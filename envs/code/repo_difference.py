"""How a result differs from what is expected, in words: neither of the two is copied.

    difference("[10]\\n", "[10, 20]\\n")      "a list of 1 element, where one of 2 elements is expected"
    difference("7\\n", "8\\n")                "a whole number that is too small"
    difference("ValueError: no\\n", "8\\n")   "a ValueError, where a whole number is expected"

``got`` and ``expected`` are what an example printed, or the last line of a traceback.
"""

from __future__ import annotations

import ast
import re
from typing import Any

_RAISED = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Warning|Iteration|Exit|Interrupt|NotFound)\w*)(?::|$)")
_NAMES = {
    bool: "a truth value", int: "a whole number", float: "a number", complex: "a complex number", str: "a text",
    bytes: "bytes", list: "a list", tuple: "a tuple", dict: "a dict", set: "a set", type(None): "nothing",
}  # fmt: skip
_NOTHING = object()
_OTHER = object()


def difference(got: str, expected: str) -> str:
    """A phrase that says what comes, and what should. Never a value, but names of exceptions and of types."""
    raised, wanted = _exception(got), _exception(expected)
    if raised or wanted:
        if raised and raised == wanted:
            return f"{_a(raised)} with another message than expected"
        first = _a(raised) if raised else _kind(_value(got), got)
        return f"{first}, where {_a(wanted) if wanted else _kind(_value(expected), expected)} is expected"
    one, other = _value(got), _value(expected)
    if one is _OTHER or other is _OTHER:
        return _of_text(got, expected)
    if isinstance(one, bool) and isinstance(other, bool):
        return f"{one}, and not {other}"
    if type(one) is not type(other) and not _numbers(one, other):
        return f"{_kind(one, got)}, where {_kind(other, expected)} is expected"
    return _of_values(one, other)


def _of_values(one: Any, other: Any) -> str:
    if _numbers(one, other):
        return f"{_NAMES[type(one)]} that is too {'small' if one < other else 'large'}"
    if isinstance(one, str | bytes):
        return _of_letters(one, other)
    name = _NAMES.get(type(one), "another value")
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{name} of {_count(len(one), 'element')}, where one of {_count(len(other), 'element')} is expected"
        wrong = [n for n, (a, b) in enumerate(zip(one, other, strict=True), 1) if a != b]
        if sorted(map(repr, one)) == sorted(map(repr, other)):
            return f"{name} with the right elements in the wrong order"
        if len(wrong) == 1 and len(one) > 1:
            return f"{name} of {len(one)} elements of which number {wrong[0]} is wrong"
        return f"{name} of {_count(len(one), 'element')}, {len(wrong)} of them wrong" if wrong else name
    if isinstance(one, dict):
        missing, more = len(other.keys() - one.keys()), len(one.keys() - other.keys())
        if missing or more:
            return f"a dict with {_count(missing, 'key')} missing and {more} too many"
        return f"a dict with the right keys and {_count(sum(one[k] != other[k] for k in one), 'wrong value')}"
    if isinstance(one, set | frozenset):
        return f"a set with {_count(len(other - one), 'element')} missing and {len(one - other)} too many"
    return f"{name} that is wrong"


def _of_letters(one: str | bytes, other: str | bytes) -> str:
    name = _NAMES[type(one)]
    if one.lower() == other.lower():
        return f"{name} that is right but for upper and lower case"
    if one.split() == other.split():
        return f"{name} that is right but for spaces"
    if len(one) != len(other) and (one in other or other in one):  # type: ignore[operator]
        return f"only a part of {name}" if len(one) < len(other) else f"{name} with something added"
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"{name} that differs from its character {place + 1} on"


def _of_text(got: str, expected: str) -> str:
    """Of what is printed and is no literal: lines, and where they begin to differ."""
    if not got.strip():
        return "nothing, where a result is expected"
    if not expected.strip():
        return "a result, where nothing is expected"
    one, other = got.rstrip().split("\n"), expected.rstrip().split("\n")
    if len(one) == len(other) == 1:
        return _of_letters(one[0], other[0]).replace("a text", "a result")
    if len(one) != len(other):
        return f"{_count(len(one), 'line')}, where {_count(len(other), 'line')} should come"
    wrong = [n for n, (a, b) in enumerate(zip(one, other, strict=True), 1) if a.strip() != b.strip()]
    return f"{len(one)} lines of which the first wrong one is number {wrong[0]}" if wrong else "lines with other spaces"


def _exception(text: str) -> str:
    found = _RAISED.match(text.strip().split("\n")[-1])
    return found[1] if found else ""


def _value(text: str) -> Any:
    """A literal; ``_NOTHING``; ``_OTHER``: printed text that is no literal."""
    if text.strip() in ("", "nothing"):
        return _NOTHING
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _OTHER


def _kind(value: Any, text: str) -> str:
    if value is _NOTHING:
        return "nothing"
    if value is _OTHER:
        lines = len(text.strip().split("\n"))
        return "a result" if lines == 1 else f"a result of {lines} lines"
    return _NAMES.get(type(value), "another value")


def _numbers(one: Any, other: Any) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in (one, other)) and one != other


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
