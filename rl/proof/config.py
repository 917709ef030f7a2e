"""The settings of labels made without people (``rl.proof.labels``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rl.bounds import Bounded, PositiveInt


@dataclass
class LabelConfig(Bounded):
    """How many opinions a label takes."""

    section: ClassVar[str] = "labels"

    analyses: PositiveInt = 8  # n, evaluations of each proof
    min_analyses: PositiveInt = 4  # well-formed ones that must be there, else there is no label
    assessments: PositiveInt = 3  # m, of each evaluation that finds an issue; odd, so that a majority exists
    confirmed: PositiveInt = 2  # k, evaluations with the lowest score that must be confirmed
    concurrency: PositiveInt = 64  # calls under way at once
    per_call: PositiveInt = 8  # answers asked for in one call

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_analyses", "confirmed"):
            if getattr(self, name) > self.analyses:
                raise ValueError(f"labels.{name}={getattr(self, name)}: must be from 1 to analyses={self.analyses}")
