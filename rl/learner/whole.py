"""A learner's state as it leaves its process or processes: without shards, on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rl.learner.moments import Moments
from rl.policy.api import Policy
from rl.policy.lora import LoraPolicy
from rl.policy.sharding import empty_copy, filled, gather

if TYPE_CHECKING:
    from rl.learner.ranks import Ranks


@dataclass(frozen=True)
class Whole:
    """A learner's state without shards: the float32 policy (with its adapter), pi_ref, and the rest but the moments."""

    policy: Policy
    reference: Policy | None
    state: dict[str, Any]

    def copied(self, live: bool) -> Whole:
        """One in the host's memory that stays as it is now. ``live``: the policies' tensors are those that learn, and
        not gathered ones."""
        return Whole(_copy(self.policy), self.reference and _copy(self.reference), self.state) if live else self

    @property
    def bytes(self) -> int:
        """Of the tensors that a checkpoint of it holds."""
        held = list(self.policy.weights().values())
        if self.reference is not None:
            held += self.reference.weights().values()
        return sum(value.numel() * value.element_size() for value in held)


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds, as it was after ``step``. ``held``: None on ranks but the first; ``moments``:
    this rank's; ``rng``: of the process; ``extra``: the caller's."""

    step: int
    held: Whole | None
    moments: Moments
    rng: dict[str, Any]
    extra: dict[str, Any]
    ranks: Ranks | None


def _copy(policy: Policy) -> Policy:
    state = policy.module.state_dict()
    if isinstance(policy, LoraPolicy):  # of which a checkpoint holds the adapter alone
        state = {name: value for name, value in state.items() if ".lora_" in name}
    return filled(empty_copy(policy), gather(state))


def on_host(named: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray | torch.Tensor]:
    """numpy arrays where numpy has the dtype, else tensors."""
    out: dict[str, np.ndarray | torch.Tensor] = {}
    for name, value in named.items():
        host = value.detach().to("cpu", copy=True)
        out[name] = host if host.dtype == torch.bfloat16 else host.numpy()
    return out
