"""A detector: a number of every step, the limit above which it is an alarm, and what then is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rl.doctor.records import StepRecord


class Reading(NamedTuple):
    """What a detector has measured, and where (in words, may be empty)."""

    value: float
    where: str = ""


Memory = dict[str, Any]  # of one detector, from step to step
Measure = Callable[[StepRecord, Memory], Reading | None]  # None: this step has nothing that it could look at


@dataclass(frozen=True)
class Detector:
    """``measure`` in words is ``shows``; it fires above ``limit`` in ``in_a_row`` steps one after the other.

    ``basis``: how the limit was obtained. ``cause``, ``cure``: what a user reads. ``reads``: what it has to be given.
    """

    name: str
    reads: Literal["metrics", "rollouts", "both"]
    measure: Measure
    shows: str
    limit: float
    basis: str
    cause: str
    cure: str
    in_a_row: int = 1
    says_each: bool = False  # every alarm is news

    def sentence(self, reading: Reading) -> str:
        """The alarm in one line."""
        where = f" ({reading.where})" if reading.where else ""
        return (
            f"warning: {self.name}: {self.shows} is {reading.value:.3g}, limit {self.limit:g}{where}: {self.cause}; "
            f"{self.cure}"
        )
