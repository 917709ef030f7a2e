"""Weights that change while the policy is trained.

A weight is a number, or a schedule in the policy version v (optimiser steps whose weights the engines have got):

    w(v) = start + (end − start) · min(1, v / steps)

The version is the one at which a group was admitted, so that all members of a group are scored by the same weights,
also when the group has to be run again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """A straight line from ``start`` at version 0 to ``end`` at version ``steps``, constant after it."""

    start: float  # weight at policy version 0
    end: float  # weight at version `steps` and later
    steps: int  # policy versions from one to the other

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"weight.{name}={value!r}: give a finite number")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"weight.steps={self.steps!r}: give a number of policy versions, at least 1")

    def at(self, version: int) -> float:
        """The weight of a group that was admitted at ``version`` (>= 0)."""
        return self.start + (self.end - self.start) * min(1.0, max(0, version) / self.steps)

    def __str__(self) -> str:
        return f"{self.start:g} → {self.end:g} over {self.steps} policy versions"


def weight_at(weight: float | Schedule, version: int) -> float:
    """``weight`` itself, or the schedule's value at ``version``."""
    return weight.at(version) if isinstance(weight, Schedule) else float(weight)


def read_weight(part: str, weight: Any) -> float | Schedule:
    """A weight as written in a configuration: a number, a ``Schedule``, or ``{start, end, steps}``.

    Raises:
        ValueError: it is none of these; names the part.
    """
    if isinstance(weight, Schedule):
        return weight
    if isinstance(weight, Mapping):
        if set(weight) != {"start", "end", "steps"}:
            raise ValueError(f"rewards.parts.{part}.weight={dict(weight)}: a schedule is {{start, end, steps}}")
        try:
            return Schedule(**weight)
        except ValueError as error:
            raise ValueError(f"rewards.parts.{part}.{error}") from None
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
        raise ValueError(f"rewards.parts.{part}.weight={weight!r}: give a finite number, or {{start, end, steps}}")
    return float(weight)
