"""The learner's state split over ranks: what ``rl.learner.precision.ComputeWeights`` is for one process.

Masters, their gradients' sums and AdamW's state are float32 shards (ZeRO-3, Rajbhandari et al. 2020); a layer is
gathered in the dtype that computes. What leaves the learner (weights for the engines, checkpoints, the saved policy) is
gathered tensor by tensor, and only the first rank keeps it: the calls here that give whole tensors are collective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rl.learner.deal import Deal
from rl.learner.precision import ComputeWeights
from rl.learner.ranks import Ranks
from rl.policy.api import Policy
from rl.policy.context_parallel import check_rows
from rl.policy.dtypes import DTYPES, cast_copy
from rl.policy.expert_parallel import expert_modules
from rl.policy.flops import CostModel
from rl.policy.lora import LoraPolicy, merged
from rl.policy.sharding import Meshes, empty_copy, filled, gather, sharded_copy, sharded_from_first
from rl.policy.weight_source import WeightSource


@dataclass(frozen=True)
class Beside:
    """Another sharded policy, and what it looks like when it is not."""

    policy: Policy
    empty: Policy


class ShardedWeights:
    """What learns, sharded, computes in ``dtype`` and is its own master; see ``ComputeWeights`` for the methods.

    ``policy``: whole on the first rank, of the others its shape alone is used (it may be on the meta device). With
    ``offload`` the shards rest in the host's memory. Raises ValueError for weights that are not float32, and for a
    policy whose rows cannot be split where the ranks share micro-batches.
    """

    def __init__(self, policy: Policy, dtype: str, ranks: Ranks, device: torch.device, offload: bool = False) -> None:
        if wrong := [name for name, parameter in policy.named_parameters() if parameter.dtype != torch.float32]:
            raise ValueError(f"master weights must be float32: {wrong[0]} is not ({len(wrong)} of them)")
        _check_rows(policy, ranks)
        self.dtype, self._ranks, self._device = DTYPES[dtype], ranks, device
        self._offload = offload and device.type != "cpu"
        self._empty = empty_copy(policy)
        self._like = cast_copy(self._empty, self.dtype)  # says the dtype of every weight
        self.masters = self.policy = sharded_from_first(
            self._empty, policy if self.first else None, ranks.meshes, self.dtype, device, self._offload
        )

    @property
    def first(self) -> bool:
        """Whether this is the rank that keeps what is gathered."""
        return self._ranks.rank == 0

    def refresh(self) -> None:
        """Nothing to do: a layer is cast when it is gathered."""

    def weights(self) -> dict[str, Tensor]:
        """On the first rank everything an engine needs, in ``dtype`` and on the host; empty on the others."""
        if isinstance(self.policy, LoraPolicy):
            adapter = self._adapter(self.policy, self._like)
            return adapter if self.first else {}
        return gather(self.policy.weights(), self.first, _dtypes(self._like.weights()))

    def source(self) -> WeightSource:
        """``weights`` for a stream, in ``dtype``: each tensor is gathered when its turn comes, and every rank iterates.
        (An adapter is gathered at once.)"""
        if isinstance(self.policy, LoraPolicy):
            return WeightSource(self.weights())
        return WeightSource(self.policy.weights(), _dtypes(self._like.weights()))

    def base_weights(self) -> dict[str, Tensor]:
        """The same of what an adapter is added to; empty without an adapter."""
        if not (isinstance(self.policy, LoraPolicy) and isinstance(self._like, LoraPolicy)):
            return {}
        return gather(self.policy.base_weights(), self.first, _dtypes(self._like.base_weights()))

    def in_dtype(self, dtype: torch.dtype) -> Policy:
        """The policy as it is now, computing in ``dtype``: each rank copies its own shards."""
        if dtype == self.dtype:
            return self.policy
        return sharded_copy(self._empty, self.policy, self._ranks.meshes, dtype, self._device, self._offload)

    def beside(self, given: Policy | None = None) -> Beside:
        """``given`` (whole on the first rank, of the others its shape alone is used; default what learns as it is now),
        sharded and in this dtype."""
        if given is None:
            copied = sharded_copy(self._empty, self.policy, self._ranks.meshes, self.dtype, self._device, self._offload)
            return Beside(copied, self._empty)
        _check_rows(given, self._ranks)
        whole, empty = cast_copy(given, torch.float32, share=True), empty_copy(given)
        meshes = self._ranks.meshes if expert_modules(given.module) else Meshes(self._ranks.meshes.weights)
        policy = sharded_from_first(
            empty, whole if self.first else None, meshes, self.dtype, self._device, self._offload
        )
        return Beside(policy, empty)

    def whole(self, other: Beside | None = None) -> Policy | None:
        """On the first rank an unsharded float32 copy of the policy that learns, or of ``other``, on the host."""
        sharded, empty = (other.policy, other.empty) if other is not None else (self.policy, self._empty)
        state = gather(sharded.module.state_dict(), self.first)
        return filled(empty, state) if self.first else None

    def save(self, directory: str | Path, masters: bool = False) -> None:
        """The policy in the hub's layout and in ``dtype`` (``masters``: in float32), written by the first rank, which
        holds one tensor at a time."""
        like = self._empty if masters else self._like
        if isinstance(self.policy, LoraPolicy) and isinstance(like, LoraPolicy):
            base = WeightSource(self.policy.base_weights(), _dtypes(like.base_weights()))
            given = merged(base, self._adapter(self.policy, like))
        else:
            given = WeightSource(self.policy.weights(), _dtypes(like.weights())).given()
        try:
            if self.first:
                like.save(directory, given)
        finally:
            for _ in given.tensors:  # ranks gather together, whatever has become of the files
                pass

    def _adapter(self, policy: LoraPolicy, like: Policy) -> dict[str, Tensor]:
        """The adapter of ``policy`` as one process has it in the dtypes of ``like``; on every rank, and on the host."""
        dtypes = _dtypes(dict(like.named_parameters()))
        state = gather({n: p for n, p in policy.named_parameters() if ".lora_" in n}, dtypes=dtypes)
        return filled(like, state).weights()


def taken_up(
    policy: Policy, dtype: str, ranks: Ranks | None, offload: bool, share_frozen: bool = False
) -> tuple[ComputeWeights | ShardedWeights, Deal | None]:
    """What learns, as one process has it or one of ``ranks``; and which micro-batches are this one's (None: all)."""
    if ranks is None:
        return ComputeWeights(policy, dtype, share_frozen, offload), None
    context, sharers = ranks.context, 1 if ranks.context is None else ranks.context.size
    cost = CostModel.of(policy.module.config, policy.module)
    deal = Deal(ranks.rank // sharers, ranks.size // sharers, cost, context)
    return ShardedWeights(policy, dtype, ranks, ranks.device, offload), deal


def _check_rows(policy: Policy, ranks: Ranks) -> None:
    if ranks.context is not None:
        check_rows(type(policy.module).__name__, policy.shares_prefixes, ranks.context.size)


def _dtypes(named: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
    return {name: value.dtype for name, value in named.items()}
