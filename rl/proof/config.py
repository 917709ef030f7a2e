"""The settings of labels made without people (``rl.proof.labels``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LabelConfig:
    """How many opinions a label takes."""

    analyses: int = 8  # n, evaluations of each proof
    min_analyses: int = 4  # well-formed ones that must be there, else there is no label
    assessments: int = 3  # m, of each evaluation that finds an issue; odd, so that a majority exists
    confirmed: int = 2  # k, evaluations with the lowest score that must be confirmed
    concurrency: int = 64  # calls under way at once
    per_call: int = 8  # answers asked for in one call

    def __post_init__(self) -> None:
        for name in ("analyses", "assessments", "confirmed", "concurrency", "per_call"):
            if getattr(self, name) < 1:
                raise ValueError(f"labels.{name}={getattr(self, name)}: must be at least 1")
        for name in ("min_analyses", "confirmed"):
            if not 1 <= getattr(self, name) <= self.analyses:
                raise ValueError(f"labels.{name}={getattr(self, name)}: must be from 1 to analyses={self.analyses}")
