"""The length policy, one switch for every experiment. n = tokens that the policy sampled in the episode
(``count: sampled``), or those of its thinking (``count: thinking``).

=================  ==========================================================================================
``none``           p = 0: no length pressure (the Speciale switch)
``linear``         p = −min(1, n / L), with L = max_tokens
``soft_overlong``  DAPO (arXiv 2503.14476, eq. 13), with C = buffer_tokens:
                   p = 0 for n ≤ L − C;  p = ((L − C) − n) / C for L − C < n ≤ L;  p = −1 for n > L
``mask``           p = 0, and an episode that was cut off (token, context or turn limit) is not trained on
``budget``         p = −min(1, max(0, n − B) / B), with B = the task's ``metadata["token_budget"]``, or max_tokens for
                   a task that has none: 0 within the budget, −1 from twice the budget on
=================  ==========================================================================================

DeepSeek-V3.2 names a length penalty but gives no formula, so the choice and the weight are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.types import Episode, StopReason
from rewards.part import Given, LengthUse, RewardError, RewardPart, Scored, Scores
from rewards.schedule import Schedule

POLICIES = ("none", "linear", "soft_overlong", "mask", "budget")
COUNTED = ("sampled", "thinking")
CUT_OFF = (StopReason.MAX_TOKENS, StopReason.CONTEXT, StopReason.TOTAL_TOKENS, StopReason.MAX_TURNS)
BUDGET = "token_budget"  # key of a task's metadata


@dataclass(frozen=True, kw_only=True)
class Length(RewardPart):
    """Length pressure. ``weight`` scales it against the outcome (0.1 costs at most 0.1)."""

    name: str = "length"
    weight: float | Schedule = 0.1  # w_i, or {start, end, steps}: linear in the policy version
    bounds: tuple[float, float] = (-1.0, 0.0)  # least and largest value before the weight; beyond them it is masked
    isolate: bool | None = False  # it reads one number
    policy: str = "none"  # none | linear | soft_overlong | mask | budget
    count: str = "sampled"  # n: sampled (thinking, calls and answers of the whole episode) | thinking
    max_tokens: int = 0  # L of linear and soft_overlong; budget: B of a task without metadata.token_budget
    buffer_tokens: int = 0  # C, width of DAPO's ramp below L; needed by soft_overlong

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"length.policy={self.policy!r}: choose one of {', '.join(POLICIES)}")
        if self.count not in COUNTED:
            raise ValueError(f"length.count={self.count!r}: choose one of {', '.join(COUNTED)}")
        if self.policy in ("linear", "soft_overlong") and self.max_tokens <= 0:
            raise ValueError(f"length.max_tokens={self.max_tokens}: policy '{self.policy}' needs a budget > 0")
        if self.policy == "soft_overlong" and not 0 < self.buffer_tokens <= self.max_tokens:
            raise ValueError(
                f"length.buffer_tokens={self.buffer_tokens}: policy 'soft_overlong' needs "
                f"0 < buffer_tokens <= max_tokens ({self.max_tokens})"
            )

    def __call__(self, episode: Episode, scores: Scores) -> Given:
        n = episode.thinking_tokens if self.count == "thinking" else episode.sampled_tokens
        if self.policy == "linear":
            return -min(1.0, n / self.max_tokens)
        if self.policy == "soft_overlong":
            free = self.max_tokens - self.buffer_tokens
            if n <= free:
                return 0.0
            return (free - n) / self.buffer_tokens if n <= self.max_tokens else -1.0
        if self.policy == "budget":
            budget = self._budget(episode)
            return Scored(-min(1.0, max(0.0, n - budget) / budget), {BUDGET: budget})
        if self.policy == "mask" and episode.stop_reason in CUT_OFF:
            return Scored(0.0, mask=f"length_mask_{episode.stop_reason.value}")
        return 0.0

    def length_use(self) -> LengthUse:
        tokens = "thinking tokens" if self.count == "thinking" else "sampled tokens"
        if self.policy == "none":
            return LengthUse("none")
        if self.policy == "mask":
            return LengthUse("selects", "episodes that a token, context or turn limit cut off are not trained on")
        how = {
            "linear": f"falls by 1/{self.max_tokens} with each of the {tokens}, to −1 at {self.max_tokens}",
            "soft_overlong": f"falls from {self.max_tokens - self.buffer_tokens} {tokens} on, "
            f"to −1 at {self.max_tokens}",
            "budget": f"falls beyond the task's budget of {tokens}"
            f"{f' ({self.max_tokens} where it has none)' if self.max_tokens else ''}, to −1 at twice the budget",
        }[self.policy]
        return LengthUse("direct", how)

    def _budget(self, episode: Episode) -> float:
        given = episode.task.metadata.get(BUDGET, self.max_tokens or None)
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < float("inf"):
            where = f"task '{episode.task.id}' has metadata['{BUDGET}']={given!r} and {self.name}.max_tokens is unset"
            raise RewardError(self.name, f"{where}: give a number of tokens > 0 in one of them", "wrong_type")
        return float(given)
