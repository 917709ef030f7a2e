"""A learner's state as it leaves its process or processes: without shards, on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rl.policy.api import Policy


@dataclass(frozen=True)
class Whole:
    """A learner's state without shards: the float32 policy (with its adapter), pi_ref, and the rest but the moments."""

    policy: Policy
    reference: Policy | None
    state: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Of the tensors that a checkpoint of it holds."""
        held = list(self.policy.weights().values())
        if self.reference is not None:
            held += self.reference.weights().values()
        return sum(value.numel() * value.element_size() for value in held)


def on_host(named: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray | torch.Tensor]:
    """numpy arrays where numpy has the dtype, else tensors."""
    out: dict[str, np.ndarray | torch.Tensor] = {}
    for name, value in named.items():
        host = value.detach().to("cpu", copy=True)
        out[name] = host if host.dtype == torch.bfloat16 else host.numpy()
    return out
