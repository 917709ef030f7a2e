"""The length policy, one object for every experiment. n = tokens the policy sampled in the episode.

=================  ==========================================================================================
``none``           p = 0: no length pressure (the Speciale switch)
``linear``         p = −min(1, n / max_tokens)
``soft_overlong``  DAPO (arXiv 2503.14476, eq. 13), with L = max_tokens and C = buffer_tokens:
                   p = 0 for n ≤ L − C;  p = ((L − C) − n) / C for L − C < n ≤ L;  p = −1 for n > L
``mask``           p = 0, and an episode that was cut off (token, context or turn limit) is not trained on
=================  ==========================================================================================

DeepSeek-V3.2 names a length penalty but gives no formula, so the choice and the weight are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.types import Episode, StopReason
from rewards.part import Given, RewardPart, Scored, Scores
from rewards.schedule import Schedule

POLICIES = ("none", "linear", "soft_overlong", "mask")
CUT_OFF = (StopReason.MAX_TOKENS, StopReason.CONTEXT, StopReason.TOTAL_TOKENS, StopReason.MAX_TURNS)


@dataclass(frozen=True, kw_only=True)
class Length(RewardPart):
    """Length pressure. ``weight`` scales it against the outcome (0.1 costs at most 0.1)."""

    name: str = "length"
    weight: float | Schedule = 0.1  # w_i, or {start, end, steps}: linear in the policy version
    bounds: tuple[float, float] = (-1.0, 0.0)  # least and largest value before the weight; beyond them it is masked
    isolate: bool | None = False  # it reads one number
    policy: str = "none"  # none | linear | soft_overlong | mask
    max_tokens: int = 0  # L, in sampled tokens per episode; needed by linear and soft_overlong
    buffer_tokens: int = 0  # C, width of DAPO's ramp below L; needed by soft_overlong

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"length.policy={self.policy!r}: choose one of {', '.join(POLICIES)}")
        if self.policy in ("linear", "soft_overlong") and self.max_tokens <= 0:
            raise ValueError(f"length.max_tokens={self.max_tokens}: policy '{self.policy}' needs a budget > 0")
        if self.policy == "soft_overlong" and not 0 < self.buffer_tokens <= self.max_tokens:
            raise ValueError(
                f"length.buffer_tokens={self.buffer_tokens}: policy 'soft_overlong' needs "
                f"0 < buffer_tokens <= max_tokens ({self.max_tokens})"
            )

    def __call__(self, episode: Episode, scores: Scores) -> Given:
        n = episode.sampled_tokens
        if self.policy == "linear":
            return -min(1.0, n / self.max_tokens)
        if self.policy == "soft_overlong":
            free = self.max_tokens - self.buffer_tokens
            if n <= free:
                return 0.0
            return (free - n) / self.buffer_tokens if n <= self.max_tokens else -1.0
        if self.policy == "mask" and episode.stop_reason in CUT_OFF:
            return Scored(0.0, mask=f"length_mask_{episode.stop_reason.value}")
        return 0.0
