"""Group advantage and per-token loss weights.

    A_i = R_i - mean(R_1..R_G)                       (V3.2: mean only, no division by std)
    J   = 1/groups sum_groups 1/G sum_i 1/|o_i| sum_t (...)      (V3.2; DAPO and Dr.GRPO weigh otherwise)

Infrastructure failures are not samples: they count in neither the mean, G nor the loss.
Plain Python on floats: there are G numbers in a group, and they live on the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

AGGREGATIONS = ("sequence_mean", "token_mean", "constant")


def group_advantages(rewards: Sequence[float], valid: Sequence[bool], norm: str = "mean") -> list[float]:
    """Advantage of every trajectory of one group; 0.0 where ``valid`` is False.

    ``norm="std"`` divides by the population standard deviation + 1e-6 (the older GRPO).
    """
    if len(rewards) != len(valid):
        raise ValueError(f"{len(rewards)} rewards for {len(valid)} valid flags: one flag per trajectory is needed")
    kept = [r for r, ok in zip(rewards, valid, strict=True) if ok]
    if not kept:
        return [0.0] * len(rewards)
    mean = sum(kept) / len(kept)
    # sum/len of equal floats can miss the value by one ulp; equal rewards must give exactly 0.
    if all(r == kept[0] for r in kept):
        mean = kept[0]
    scale = 1.0
    if norm == "std":
        scale = math.sqrt(sum((r - mean) ** 2 for r in kept) / len(kept)) + 1e-6
    elif norm != "mean":
        raise ValueError(f"advantage norm {norm!r}: use 'mean' or 'std'")
    return [(r - mean) / scale if ok else 0.0 for r, ok in zip(rewards, valid, strict=True)]


def token_weights(
    lengths: Sequence[Sequence[int]], aggregation: str = "sequence_mean", constant: int | None = None
) -> list[list[float]]:
    """Weight of ONE sampled token of each trajectory in the batch loss.

    ``lengths[g][i]``: sampled tokens |o_i| of trajectory i of group g, all its segments together; 0 for a
    masked trajectory. Groups without a valid trajectory do not count.

    "sequence_mean" (V3.2) and "token_mean" (DAPO): weights x tokens sum to 1. "constant" (Dr.GRPO): every token
    weighs 1 / (valid trajectories x ``constant``), whatever the lengths are.
    """
    whole = BatchSize()
    for group in lengths:
        whole.add(group)
    divisor = whole.divisor(aggregation)
    return [[w / divisor for w in group_token_weights(group, aggregation, constant)] for group in lengths]


def group_token_weights(
    lengths: Sequence[int], aggregation: str = "sequence_mean", constant: int | None = None
) -> list[float]:
    """``token_weights`` of one group, times ``BatchSize.divisor`` of the whole batch: known before the others are."""
    if aggregation == "constant" and not (constant or 0) > 0:
        raise ValueError(f"loss constant {constant}: loss aggregation 'constant' needs a number of tokens above 0")
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"loss aggregation {aggregation!r}: use {', '.join(map(repr, AGGREGATIONS))}")
    valid = sum(n > 0 for n in lengths)
    divisors = {"sequence_mean": [valid * n for n in lengths], "constant": [constant or 0] * len(lengths)}
    divided_by = divisors.get(aggregation, [1] * len(lengths))
    return [1.0 / d if n else 0.0 for n, d in zip(lengths, divided_by, strict=True)]


@dataclass
class BatchSize:
    """What counts in a batch, added up group by group."""

    groups: int = 0  # with a valid trajectory
    sequences: int = 0  # valid trajectories
    tokens: int = 0  # sampled, of valid trajectories

    def add(self, lengths: Sequence[int]) -> None:
        """One more group, with the lengths of ``token_weights``."""
        self.groups += any(lengths)
        self.sequences += sum(n > 0 for n in lengths)
        self.tokens += sum(lengths)

    def divisor(self, aggregation: str) -> int:
        """What the loss sum over ``group_token_weights`` is divided by; 1 for a batch without valid trajectories."""
        count = {"sequence_mean": self.groups, "token_mean": self.tokens, "constant": self.sequences}
        return max(count.get(aggregation, 1), 1)
