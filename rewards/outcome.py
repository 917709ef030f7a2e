"""The rule-based outcome reward of DeepSeek-V3.2: did the environment's verifier accept the result."""

from __future__ import annotations

from dataclasses import dataclass

from envs.types import Episode
from rewards.part import LengthUse, RewardError, RewardPart, Scores


@dataclass(frozen=True, kw_only=True)
class Outcome(RewardPart):
    """p = scores[key], in [0, 1].

    Raises:
        RewardError: the environment's ``score`` did not return ``key``, or a value outside [0, 1].
    """

    name: str = "outcome"
    bounds: tuple[float, float] = (0.0, 1.0)  # least and largest value before the weight; beyond them it is masked
    isolate: bool | None = False  # it looks one number up
    key: str = "outcome"  # which of the environment's scores counts

    def __call__(self, episode: Episode, scores: Scores) -> float:
        if self.key not in scores:
            raise RewardError(
                self.name,
                f"score() of family '{episode.task.family}' returned {sorted(scores)} without '{self.key}'; "
                f"return {{'{self.key}': <0..1>}}",
            )
        return float(scores[self.key])

    def length_use(self) -> LengthUse:
        return LengthUse("none")
