"""The rewards of DeepSeekMath-V2 (arXiv 2511.22570) as pure functions; no model, no text.

    score            R_score(s', s) = 1 − |s' − s|
    verifier         R_V = R_format · R_score(s', s) · R_meta            (R_meta = 1 without a meta-verifier)
    meta-verifier    R   = R_format · R_score(ms', ms)
    self-analysis    R_Z = R_score(s', s) · R_meta(Z)
    generator        R   = R_format(Y, Z) · (α·R_Y + β·R_Z),  R_Y = s,  α = 0.76, β = 0.24

s', ms' are what the policy wrote, s, ms the truth: a label, or the mean of several verifications, so anything in
[0, 1]. With R_meta = 1 the generator's table is

    s   s'  R          s   s'  R          s   s'  R
    1   1   1.00       ½   1   0.50       0   1   0.00
    1   ½   0.88       ½   ½   0.62       0   ½   0.12
    1   0   0.76       ½   0   0.50       0   0   0.24

so that the right solution is worth more than any honesty, and an honest account of a wrong one more than a boast.
The texts that carry the scores are read by ``envs.proof.texts``, whose names are here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from envs.proof.texts import (
    EVALUATION,
    META_ANALYSIS,
    META_RATING,
    SCORE,
    SCORES,
    SELF_EVALUATION_HEADING,
    SOLUTION_HEADING,
    Evaluation,
    Generation,
    evaluation_text,
    generation_text,
    meta_text,
    parse_evaluation,
    parse_generation,
    parse_meta,
)
from envs.types import Message

__all__ = [
    "ALPHA",
    "BETA",
    "EVALUATION",
    "META_ANALYSIS",
    "META_RATING",
    "SCORE",
    "SCORES",
    "SELF_EVALUATION_HEADING",
    "SOLUTION_HEADING",
    "Evaluation",
    "Generation",
    "ProofPrompts",
    "evaluation_text",
    "generation_text",
    "generator_reward",
    "meta_text",
    "parse_evaluation",
    "parse_generation",
    "parse_meta",
    "score_reward",
    "self_evaluation_reward",
    "verifier_reward",
]

ALPHA = 0.76  # weight of the proof's own score
BETA = 0.24  # weight of the self-analysis


class ProofPrompts(Protocol):
    """What a model is asked in each role. ``envs.proof.prompts`` has two; name your own in the configuration.

    ``analysis`` and ``critiques`` are evaluations as they were written, from their first phrase to the boxed score.
    """

    def prove(self, problem: str) -> Sequence[Message]: ...

    def verify(self, problem: str, solution: str) -> Sequence[Message]: ...

    def meta(self, problem: str, solution: str, analysis: str) -> Sequence[Message]: ...

    def refine(self, problem: str, output: str, critiques: Sequence[str]) -> Sequence[Message]: ...


def score_reward(predicted: float, truth: float) -> float:
    """R_score(s', s) = 1 − |s' − s|, in [0, 1]. Raises ValueError outside [0, 1]."""
    return 1.0 - abs(_unit("predicted", predicted) - _unit("truth", truth))


def verifier_reward(well_formed: bool, predicted: float | None, truth: float, meta: float = 1.0) -> float:
    """R_V = R_format · R_score(s', s) · R_meta, in [0, 1]; with ``meta`` left out also the meta-verifier's reward.

    ``predicted`` may be None (nothing could be read) where ``well_formed`` is False.

    Raises:
        ValueError: a number outside [0, 1], or no prediction in a well-formed answer.
    """
    _unit("truth", truth)
    _unit("meta", meta)
    if not well_formed:
        return 0.0
    if predicted is None:
        raise ValueError("predicted=None: a well-formed evaluation has a score; pass well_formed=False")
    return score_reward(predicted, truth) * meta


def self_evaluation_reward(self_score: float, truth: float, meta: float = 1.0) -> float:
    """R_Z = R_score(s', s) · R_meta(Z), in [0, 1]. Raises ValueError outside [0, 1]."""
    return score_reward(self_score, truth) * _unit("meta", meta)


def generator_reward(well_formed: bool, r_y: float, r_z: float, alpha: float = ALPHA, beta: float = BETA) -> float:
    """R = R_format · (α·R_Y + β·R_Z), in [0, 1] as long as α + β ≤ 1.

    Raises:
        ValueError: a number outside [0, 1], or α + β > 1.
    """
    total = _unit("alpha", alpha) + _unit("beta", beta)
    if total > 1.0 + 1e-9:
        raise ValueError(f"alpha + beta = {total}: must be at most 1, so that the reward stays in [0, 1]")
    value = alpha * _unit("r_y", r_y) + beta * _unit("r_z", r_z)
    # 0.76 + 0.24 may be a hair above 1 in floating point.
    return min(1.0, value) if well_formed else 0.0


def _unit(name: str, value: float) -> float:
    if math.isnan(value) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={value}: must be in [0, 1]")
    return float(value)
