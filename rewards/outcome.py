"""The rule-based outcome reward of DeepSeek-V3.2: did the environment's verifier accept the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from envs.types import Episode
from rewards.part import RewardError, RewardPart


@dataclass(frozen=True, kw_only=True)
class Outcome(RewardPart):
    """p = scores[key], in [0, 1].

    Raises:
        RewardError: the environment's ``score`` did not return ``key``, or a value outside [0, 1].
    """

    name: str = "outcome"
    key: str = "outcome"  # which of the environment's scores counts

    def __call__(self, episode: Episode, scores: Mapping[str, float]) -> float:
        if self.key not in scores:
            raise RewardError(
                self.name,
                f"score() of family '{episode.task.family}' returned {sorted(scores)} without '{self.key}'; "
                f"return {{'{self.key}': <0..1>}}",
            )
        value = float(scores[self.key])
        # NaN fails this comparison too, which is wanted.
        if not 0.0 <= value <= 1.0:
            raise RewardError(
                self.name,
                f"score '{self.key}' of task '{episode.task.id}' is {value}; it must lie in [0, 1]",
            )
        return value
