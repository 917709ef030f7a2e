"""A frozen policy beside the one that learns, in the dtype that computes: pi_ref of the KL term, or a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from rl.learner.precision import ComputeWeights
from rl.learner.sharded import Beside, ShardedWeights
from rl.policy.api import Policy
from rl.policy.dtypes import cast_copy
from rl.policy.lora import LoraPolicy
from rl.policy.sharding import reshard


class Reference:
    """``policy``: a given one, or a copy of the one that learns as it is now; with an adapter and none given it is the
    base, which needs no copy (``own`` False)."""

    def __init__(
        self, weights: ComputeWeights | ShardedWeights, given: Policy | None, device: torch.device, frozen_base: bool
    ) -> None:
        self._weights = weights
        self.own = given is not None or not frozen_base
        self.policy = weights.policy
        if not self.own:
            return
        # It rounds as the policy does: their KL is 0 while the weights are equal.
        self._sharded: Beside | None = None
        if isinstance(weights, ShardedWeights):
            self._sharded = weights.beside(given)
            self.policy = self._sharded.policy
        else:
            self.policy = cast_copy(given or weights.policy, weights.dtype)
            self.policy.module.to(device)
        self.policy.set_ops(weights.policy.ops)
        for _, parameter in self.policy.named_parameters():
            parameter.requires_grad_(False)

    @contextmanager
    def active(self) -> Iterator[Policy]:
        """The policy to score with, for as long as the block runs."""
        base = None if self.own else self._weights.policy
        with base.off() if isinstance(base, LoraPolicy) else nullcontext():
            yield self.policy
        reshard(self.policy)

    def whole(self) -> Policy | None:
        """Unsharded, as it is to be stored, or None: it is the base, or another rank has it."""
        if isinstance(self._weights, ShardedWeights) and self.own:
            return self._weights.whole(self._sharded)
        return self.policy if self.own else None

    def refresh(self) -> None:
        """Take over what learns as it is now."""
        self.policy.module.load_state_dict(self._weights.masters.module.state_dict())
