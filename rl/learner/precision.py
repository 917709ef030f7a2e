"""Mixed precision: fp32 master weights, and the copy of them that computes.

    theta_c = cast(theta),   g = sum over micro-batches of float32(d loss / d theta_c),   theta <- AdamW(theta, g)

AdamW at an RL learning rate moves a weight by about 1e-6; bfloat16 has 8 bits of mantissa, so that such a step is
rounded away (Micikevicius et al. 2018, "Mixed Precision Training"). Masters, gradients that are added up, and the
optimiser's state are therefore float32, whatever the checkpoint is stored in.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rl.policy.api import Policy
from rl.policy.dtypes import DTYPES, cast_copy, stays_float32
from rl.policy.lora import LoraPolicy
from rl.policy.weight_source import WeightSource

# Largest log-prob difference of an engine that computes right, in units of ``noise`` (rms effect of rounding to
# bfloat16) times the dtype's unit roundoff over bfloat16's. Measured (docs/models.md): up to 4.9 in bfloat16; in
# float32 up to 38 on untrained policies, but over 27 syncs of a run of SmolLM2 single tokens at log-probs near -16 were
# 145 and more apart. The root mean square over the probe, which no single token decides, must be an eighth of it.
MARGINS = {"float32": 1024.0, "bfloat16": 32.0, "float16": 32.0}
RESULT_ULPS = 8.0  # of a float32 log-prob itself: softmax and logarithm round too


class ComputeWeights:
    """``policy``: what runs forward and backward, in ``dtype``; its gradients are added to the masters' in float32.

    With float32 it is the masters themselves, unless ``offload`` is set: the masters move to the host's memory then,
    where their gradients are summed and the optimiser works, and their device keeps the copy alone (ZeRO-Offload, Ren
    et al. 2021). ``share_frozen``: a master that does not learn exists in ``dtype`` only (the base of an adapter: no
    float32 copy of it). Set ``requires_grad`` of the masters before, and call ``refresh`` after every change of them.
    Raises ValueError for masters that are not float32.
    """

    def __init__(self, masters: Policy, dtype: str, share_frozen: bool = False, offload: bool = False) -> None:
        self.masters, self.dtype = masters, DTYPES[dtype]
        if wrong := [name for name, parameter in masters.named_parameters() if parameter.dtype != torch.float32]:
            raise ValueError(f"master weights must be float32: {wrong[0]} is not ({len(wrong)} of them)")
        self.policy = masters
        self._share_frozen = share_frozen
        self._pairs: list[tuple[Tensor, Tensor]] = []  # (master, its cast copy)
        if self.dtype == torch.float32 and not offload:
            return
        device = next(masters.named_parameters())[1].device
        if offload:
            masters.module.to("cpu")
        if share_frozen:
            for name, parameter in masters.named_parameters():
                if not (parameter.requires_grad or stays_float32(masters.module, name)):
                    parameter.data = parameter.data.to(self.dtype)
        self.policy = cast_copy(masters, self.dtype, share=not offload)
        self.policy.module.to(device)
        pairs = zip(masters.named_parameters(), self.policy.named_parameters(), strict=True)
        for (_, master), (_, cast) in pairs:
            if cast is master:
                continue
            self._pairs.append((master, cast))
            if master.requires_grad:
                cast.register_post_accumulate_grad_hook(partial(_add_to, master))
        self._pairs += zip(masters.module.buffers(), self.policy.module.buffers(), strict=True)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the masters as they are now."""
        for master, cast in self._pairs:
            cast.copy_(master)

    def weights(self) -> dict[str, Tensor]:
        """``Policy.weights`` of what computes: the live tensors, in ``dtype``."""
        return self.policy.weights()

    def base_weights(self) -> dict[str, Tensor]:
        """What ``weights`` are added to; empty without an adapter."""
        return self.policy.base_weights() if isinstance(self.policy, LoraPolicy) else {}

    def source(self) -> WeightSource:
        """``weights`` for a stream: one tensor after the other."""
        return WeightSource(self.weights())

    def in_dtype(self, dtype: torch.dtype) -> Policy:
        """The policy as it is now, computing in ``dtype``; to compute with and to drop."""
        if dtype == self.dtype:
            return self.policy
        masters = next(self.masters.named_parameters())[1].device == next(self.policy.named_parameters())[1].device
        if dtype == torch.float32 and masters and not self._share_frozen:
            return self.masters
        return cast_copy(self.policy, dtype)  # the masters are on the host, or some exist in ``self.dtype`` only

    def whole(self) -> Policy:
        """The masters."""
        return self.masters

    def save(self, directory: str | Path, masters: bool = False) -> None:
        """The policy in the hub's layout and in ``dtype``; ``masters``: in float32."""
        (self.masters if masters else self.policy).save(directory)


def coarser(one: str, other: str) -> str:
    """The dtype with the larger unit roundoff."""
    return max(one, other, key=lambda name: torch.finfo(DTYPES[name]).eps)


def sync_tolerance(noise: float, logprobs: Tensor, dtype: str) -> float:
    """Largest |log pi_engine - log pi_learner| that rounding explains, nats.

    ``noise``: root mean square over the probe's tokens of what rounding to bfloat16 changes, so that depth and
    magnitude of this very model are in it. ``dtype``: the coarser of the two that are compared.
    """
    roundoff = torch.finfo(DTYPES[dtype]).eps / torch.finfo(torch.bfloat16).eps
    result = RESULT_ULPS * torch.finfo(torch.float32).eps * float(logprobs.abs().max())
    return MARGINS[dtype] * roundoff * noise + result


def _add_to(master: nn.Parameter, cast: Tensor) -> None:
    """Move the gradient of ``cast`` to ``master``, in float32."""
    assert cast.grad is not None
    if master.grad is None:
        master.grad = cast.grad.to(master.device, master.dtype)
    else:
        master.grad += cast.grad.to(master.device)
    cast.grad = None
