"""Adds up the parts of a reward: R = Σ_i w_i · p_i, every term kept by name.

Nothing here catches errors: a part that raises or gives NaN ends in ``RewardError`` naming the part, and the
rollout worker masks that sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from envs.types import Episode
from rewards.format import FormatPenalty
from rewards.length import Length
from rewards.outcome import Outcome
from rewards.part import RewardError, RewardPart


@dataclass(frozen=True)
class Reward:
    """The reward of one episode.

    ``parts`` are the weighted terms w_i · p_i (they sum to ``total``) and, as ``score/<name>``, the raw
    scores of the environment, which evaluation reads so that it does not move with the weights.
    ``masked`` is why the sample must not be trained on, or None.
    """

    total: float
    parts: dict[str, float]
    masked: str | None = None


class RewardComposer:
    """Scores episodes with a fixed list of parts.

    Args:
        parts: instances of ``RewardPart``; names must differ.
    """

    def __init__(self, parts: Iterable[RewardPart]) -> None:
        self.parts = tuple(parts)
        names = [part.name for part in self.parts]
        if not names:
            raise ValueError("rewards.parts is empty: give at least rewards.outcome.Outcome")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"rewards.parts: name '{repeated[0]}' is used twice; set a different `name`")
        for part in self.parts:
            if not math.isfinite(part.weight):
                raise ValueError(f"rewards.parts.{part.name}.weight={part.weight}: give a finite number")

    def __call__(self, episode: Episode, scores: Mapping[str, float]) -> Reward:
        """Compose the reward of ``episode`` from the environment's ``scores``.

        Raises:
            RewardError: a score or a part is NaN, infinite or not a number, or a part raised.
        """
        raw = {f"score/{key}": _finite(key, value) for key, value in scores.items()}
        terms: dict[str, float] = {}
        masked: str | None = None
        for part in self.parts:
            try:
                value = part(episode, scores)
                masked = masked or part.mask_reason(episode)
            except RewardError:
                raise
            except Exception as error:
                raise RewardError(part.name, f"raised {type(error).__name__}: {error}") from error
            terms[part.name] = part.weight * _finite(part.name, value)
        # fsum: the same total in whatever order the parts are listed.
        return Reward(math.fsum(terms.values()), terms | raw, masked)


def default_composer() -> RewardComposer:
    """Outcome (weight 1), format penalty (0.05 per bad call, at most 0.25), no length policy."""
    return RewardComposer([Outcome(), FormatPenalty(), Length(policy="none")])


def _finite(part: str, value: object) -> float:
    if isinstance(value, (bool, int, float)) or hasattr(value, "__float__"):
        number = float(value)  # type: ignore[arg-type]
        if math.isfinite(number):
            return number
    raise RewardError(part, f"gave {value!r}, which is not a finite number")
