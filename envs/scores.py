"""Scores that somebody gives: a number, or named numbers with "outcome" among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def scores_of(result: Any, who: str) -> dict[str, float]:
    """The scores that ``who`` gave. Raises ValueError for what is none, and for an outcome outside [0, 1]."""
    scores = dict(result) if isinstance(result, Mapping) else {"outcome": result}
    if "outcome" not in scores:
        raise ValueError(f'{who} gave {scores}: "outcome" is missing')
    numbers = {}
    for key, value in scores.items():
        if (number := _number(value)) is None:
            raise ValueError(f"{who} gave {key}={value!r}: must be a finite number")
        numbers[str(key)] = number
    if not 0.0 <= numbers["outcome"] <= 1.0:
        raise ValueError(f"{who} gave outcome={numbers['outcome']}: must be between 0 and 1")
    return numbers


def posted_scores(body: Mapping[str, Any]) -> dict[str, float]:
    """The scores in what was posted as a reward: {"reward": 0.5}, or named ones with "outcome". Raises ValueError."""
    if "reward" not in body and "outcome" not in body:
        raise ValueError('a reward is {"reward": 0.5}, or named scores with "outcome" among them')
    scores = dict(body)
    if "outcome" not in scores:
        scores["outcome"] = scores.pop("reward")
    return scores_of(scores, "what was posted")


def _number(value: Any) -> float | None:
    """A finite number of any kind (bool, Fraction, numpy's, a tensor of one element); None for everything else."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # an array, a tensor of several
        return None
    return number if math.isfinite(number) else None
