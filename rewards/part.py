"""What a reward part is: a small callable with a name and a weight.

A part maps one finished episode and the environment's scores to one number p_i; the composer adds them up,
R = Σ_i w_i · p_i. A part may also take a sample out of training altogether (``mask_reason``), which is not
the same as reward 0: a masked sample enters neither the loss nor its group's mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from envs.types import Episode


class RewardError(ValueError):
    """A part, or the environment's score, gave something that is no reward.

    ``part`` names it. The rollout worker masks the sample and counts it; it never becomes reward 0.
    """

    def __init__(self, part: str, problem: str) -> None:
        super().__init__(f"reward part '{part}': {problem}")
        self.part = part


@dataclass(frozen=True, kw_only=True)
class RewardPart(ABC):
    """Base of all parts. Subclasses are frozen dataclasses, so Hydra builds them from plain fields."""

    name: str  # key in Trajectory.reward_parts and in the metrics reward/part/<name>
    weight: float = 1.0  # w_i

    @abstractmethod
    def __call__(self, episode: Episode, scores: Mapping[str, float]) -> float:
        """The unweighted value p_i. ``scores`` are the environment's named scores ("outcome" always)."""

    def mask_reason(self, episode: Episode) -> str | None:
        """Why this sample must not be trained on, or None. Becomes ``Trajectory.failure_kind``."""
        return None
