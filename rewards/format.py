"""The format penalty: p = −min(cap, penalty · n), n = calls the policy got wrong in form.

Small on purpose: it breaks ties between episodes with the same outcome and must never outweigh the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.types import Episode
from rewards.part import LengthUse, RewardPart, Scores


@dataclass(frozen=True, kw_only=True)
class FormatPenalty(RewardPart):
    """Counts come from ``Episode.counts``, which environments fill while they answer bad calls."""

    name: str = "format"
    isolate: bool | None = False  # it reads a few counts
    penalty: float = 0.05  # per bad call
    cap: float = 0.25  # most that one episode can lose
    counted: tuple[str, ...] = ("malformed_call", "unknown_tool", "bad_arguments")  # counts that are n

    def __post_init__(self) -> None:
        for field_name in ("penalty", "cap"):
            value = getattr(self, field_name)
            if not value >= 0:
                raise ValueError(f"format.{field_name}={value}: it is subtracted, give a number >= 0")
        if self.cap > -self.bounds[0]:
            raise ValueError(f"format.cap={self.cap}: reaches below format.bounds={list(self.bounds)}; widen them")

    def __call__(self, episode: Episode, scores: Scores) -> float:
        bad = sum(episode.counts.get(key, 0) for key in self.counted)
        return -min(self.cap, self.penalty * bad)

    def length_use(self) -> LengthUse:
        return LengthUse("none")
