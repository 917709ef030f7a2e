"""From whatever a part gives to a number that may be used, or to a problem with a name.

This runs where the part runs (its thread or its process), because even looking at a foreign object can hang or raise:
``float(x)`` calls its code. What comes out is plain numbers and short strings.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rewards.part import PartOptions, RewardError, Scored

PROBLEMS = {
    "raised": "the part raised",
    "timeout": "the part was not done within timeout_s",
    "killed": "its process ended (killed, out of memory, os._exit)",
    "not_finite": "NaN or infinite",
    "out_of_bounds": "outside bounds",
    "wrong_type": "neither a number nor Scored, or not one per episode",
    "too_large": "too many details, or names too long",
    "unpicklable": "the episode or the part cannot be sent to another process",
}
MAX_DETAILS = 100
MAX_TEXT = 4000  # characters of an error's text that are kept
_NAME = re.compile(r"[\w.@+-]{1,64}")  # what a metric's name may hold
_ROUNDING = 1e-9  # a sum of tenths may miss a bound by the last bit


@dataclass(frozen=True)
class Term:
    """A value within its part's bounds."""

    value: float
    details: dict[str, float] = field(default_factory=dict)
    mask: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Problem:
    """Why there is no value. ``kind`` is one of ``PROBLEMS``."""

    kind: str
    text: str


Result = Term | Problem


def checked(part: PartOptions, given: Any) -> Result:
    """``given`` as a term of ``part``, or what is wrong with it."""
    if not isinstance(given, Scored):
        given = Scored(given)
    value = _number("", given.value)
    if isinstance(value, Problem):
        return value
    low, high = part.bounds
    if not low - _ROUNDING <= value <= high + _ROUNDING:
        return Problem("out_of_bounds", f"gave {value:g}, outside bounds=[{low:g}, {high:g}]")
    if not isinstance(given.details, Mapping):
        return Problem("wrong_type", f"details are a {type(given.details).__name__}; give a dict of numbers")
    if len(given.details) > MAX_DETAILS:
        return Problem("too_large", f"gave {len(given.details)} details; at most {MAX_DETAILS}")
    details: dict[str, float] = {}
    for name, raw in given.details.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            shown = name[:64] if isinstance(name, str) else type(name).__name__
            return Problem("wrong_type", f"a detail is named {shown!r}; use at most 64 letters, digits and . _ -")
        number = _number(f"detail '{name}' is ", raw)
        if isinstance(number, Problem):
            return number
        details[name] = number
    mask = given.mask
    if mask is not None and not (isinstance(mask, str) and _NAME.fullmatch(mask)):
        return Problem("wrong_type", "mask must be None or one word of at most 64 letters, digits and . _ -")
    if not isinstance(given.note, str):
        return Problem("wrong_type", f"note is a {type(given.note).__name__}; give text")
    return Term(min(max(value, low), high), details, mask, given.note[:MAX_TEXT])


def checked_group(part: PartOptions, given: Any, n: int) -> list[Result] | Problem:
    """One result per episode of a group of ``n``, or one problem for all of them."""
    if isinstance(given, (str, bytes, Mapping)) or not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
        return Problem("wrong_type", f"gave a {type(given).__name__}; a group part gives one value per episode")
    if len(given) != n:
        return Problem("wrong_type", f"gave {len(given)} values for {n} episodes")
    return [checked(part, given[i]) for i in range(n)]


def raised(error: BaseException) -> Problem:
    """The problem of a part that raised. ``str(error)`` is foreign code too."""
    if type(error) is RewardError and error.kind in PROBLEMS:
        return Problem(error.kind, str(error.problem)[:MAX_TEXT])
    try:
        text = str(error)[:MAX_TEXT]
    except BaseException:  # an exception whose text cannot be read is still an exception
        text = "(its text cannot be read)"
    try:
        where = "".join(traceback.format_tb(error.__traceback__))[-MAX_TEXT:]
    except BaseException:
        where = ""
    return Problem("raised", f"raised {type(error).__name__}: {text}\n{where}".rstrip())


def _number(what: str, value: Any) -> float | Problem:
    if isinstance(value, (bool, int, float)) or (hasattr(value, "__float__") and not isinstance(value, type)):
        try:
            number = float(value)
        except OverflowError:  # an integer beyond what a float holds
            return Problem("not_finite", f"{what or 'gave '}an integer that no float holds")
        if math.isfinite(number):
            return number
        return Problem("not_finite", f"{what or 'gave '}{number}, which is not a finite number")
    return Problem("wrong_type", f"{what or 'gave '}a {type(value).__name__}, which is not a finite number")
