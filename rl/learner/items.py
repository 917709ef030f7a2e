"""What of a group is trained on: its segments, each with the advantage and the token weight of its trajectory."""

from __future__ import annotations

from collections.abc import Sequence

from rl.learner.pack_item import PackItem
from rl.objective.advantage import BatchSize, group_advantages, group_token_weights
from rl.objective.config import ObjectiveConfig
from rl.types import Group, Trajectory


def items_of(
    groups: Sequence[Group],
    objective: ObjectiveConfig,
    version: int,
    skip_zero: bool,
    size: BatchSize,
    advantages: list[float],
) -> list[PackItem]:
    """Segments with their advantage and token weight (to be divided by the minibatch's divisor).

    ``version``: of the weights that learn. ``skip_zero``: leave out trajectories of advantage 0 that have no teacher.
    Counts the groups into ``size``, and appends the valid advantages to ``advantages``.
    """
    items: list[PackItem] = []
    for group in groups:
        lengths = [_trainable_tokens(t) for t in group.trajectories]
        size.add(lengths)
        weights = group_token_weights(lengths, objective.loss_aggregation, objective.loss_constant)
        valid = [t.failure_kind is None for t in group.trajectories]
        rewards = [t.reward for t in group.trajectories]
        values = group_advantages(rewards, valid, objective.advantage_norm)
        advantages.extend(a for a, ok in zip(values, valid, strict=True) if ok)
        kl_coef = objective.kl_coef_for(group.family)
        taught = None if objective.distill.teacher_for(group.family) is None else group.family
        for trajectory, advantage, w in zip(group.trajectories, values, weights, strict=True):
            if w == 0.0 or (advantage == 0.0 and skip_zero and taught is None):
                continue
            items.extend(
                PackItem(
                    s.tokens, s.loss_mask, w, advantage, s.logprobs, s.exact(version), s.replay, kl_coef,
                    taught, f"trajectory {trajectory.id} segment {i}", s.kept,
                )
                for i, s in enumerate(trajectory.segments)
            )  # fmt: skip
    return items


def _trainable_tokens(trajectory: Trajectory) -> int:
    """|o_i|: sampled tokens over all segments; 0 for a failed (masked) trajectory."""
    return 0 if trajectory.failure_kind is not None else trajectory.sampled_tokens
