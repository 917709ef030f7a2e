"""Mixture-of-experts models of transformers: their routing recorded and replayed, with live gates (Keep Routing).

In transformers 5 the router of a layer is a module of its own that returns (logits, gates, experts). A hook on it puts
recorded experts in the place of the chosen ones and computes their gates from the router's own scores:

    Qwen3-MoE              s = softmax(l)    g_i = s_i / sum_{j in S} s_j            (norm_topk_prob)
    GLM-4.5, DeepSeek-V3   s = sigmoid(l)    g_i = s_i / sum_{j in S} s_j * scaling  (norm_topk_prob)

so gradients reach the router also through an expert that it would no longer choose (V3.2, sec. 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rl.policy.replay import ExpertTap, Record, Replay


def _softmax_gates(router: Any, logits: Tensor, experts: Tensor) -> Tensor:
    gates = logits.softmax(-1, dtype=torch.float32).gather(1, experts)
    if router.norm_topk_prob:
        gates = gates / gates.sum(-1, keepdim=True)
    return gates.to(logits.dtype)


def _sigmoid_gates(router: Any, logits: Tensor, experts: Tensor) -> Tensor:
    gates = logits.sigmoid().gather(1, experts)
    if router.norm_topk_prob:
        gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
    return gates * float(router.routed_scaling_factor)


# By model_type: the gates [T, K] of given experts [T, K] from the router's logits [T, E].
GATES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "qwen3_moe": _softmax_gates,
    "glm4_moe": _sigmoid_gates,
    "deepseek_v3": _sigmoid_gates,
}


@dataclass
class _Pass:
    """One forward pass over a padded batch: what to force in which layer, and what was chosen."""

    taps: list[ExpertTap | None]
    chosen: dict[int, Tensor] = field(default_factory=dict)  # by MoE layer, [rows, K]


class Routing:
    """The routers of one model. ``run`` surrounds each of its forward passes."""

    def __init__(self, module: nn.Module, model_type: str) -> None:
        self.gates = GATES[model_type]
        self.routers = [found for name, found in module.named_modules() if name.endswith(".mlp.gate")]
        self._now: _Pass | None = None
        for layer, router in enumerate(self.routers):
            router.register_forward_hook(_Hook(self, layer))

    @contextmanager
    def run(self, taps: list[ExpertTap | None]) -> Iterator[_Pass]:
        """A forward pass in which layer l repeats ``taps[l]``."""
        before, self._now = self._now, _Pass(taps)
        try:
            yield self._now
        finally:
            self._now = before

    def again(self) -> AbstractContextManager[None]:
        """What runs now once more: a layer that is run again in the backward pass routes as in its own pass."""
        return self._as_in(self._now)

    @contextmanager
    def _as_in(self, then: _Pass | None) -> Iterator[None]:
        before, self._now = self._now, then
        try:
            yield
        finally:
            self._now = before

    def route(self, layer: int, router: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits, gates, experts = output
        if self._now is None:
            return output
        tap = self._now.taps[layer]
        if tap is not None:
            experts = tap.choose(experts)
            gates = self.gates(router, logits, experts)
        self._now.chosen[layer] = experts
        return logits, gates, experts

    @torch.no_grad()
    def update_bias(self, counts: Tensor, gamma: float) -> None:
        """Aux-loss-free balancing (DeepSeek-V3, sec. 2.1.2); ``counts`` [L_moe, E]. Raises ValueError where there is no
        bias."""
        for router, row in zip(self.routers, counts, strict=True):
            bias = getattr(router, "e_score_correction_bias", None)
            if bias is None:
                raise ValueError("these routers have no e_score_correction_bias to balance: set router_bias_gamma=0")
            load = row.to(bias)
            bias += gamma * torch.sign(load.mean() - load)


class _Hook:
    """A forward hook that a copy of the model takes along: deepcopy gives it the copy's ``Routing``."""

    def __init__(self, routing: Routing, layer: int) -> None:
        self.routing, self.layer = routing, layer

    def __call__(self, router: nn.Module, args: Any, output: Any) -> Any:
        return self.routing.route(self.layer, router, output)


class PackedRouting:
    """Choices of a packed batch [T] that is run in padded buckets: taps for each, and the record over all."""

    def __init__(self, layers: int, replay: Replay | None) -> None:
        self.taps = [None if replay is None else replay.expert_tap(layer) for layer in range(layers)]
        self._overlaps: list[list[Tensor]] = [[] for _ in range(layers)]
        self._chosen: list[list[Tensor]] = [[] for _ in range(layers)]

    def bucket(self, index: Tensor, real: Tensor) -> list[ExpertTap | None]:
        """Taps for the rows of a bucket: ``index`` [B, W] into the packed tokens where ``real`` [B, W]."""
        at, inside = index.flatten(), real.flatten()
        found: list[ExpertTap | None] = []
        for tap, overlaps in zip(self.taps, self._overlaps, strict=True):
            if tap is None:
                found.append(None)
                continue
            at = at.clamp_max(len(tap.valid) - 1)
            counts = None if tap.counts is None else tap.counts[at]
            found.append(ExpertTap(tap.recorded[at], tap.valid[at] & inside, tap.force, overlaps, counts))
        return found

    def take(self, done: _Pass, real: Tensor) -> None:
        """Note what a bucket chose, padding left out."""
        inside = real.flatten()
        for layer, experts in done.chosen.items():
            self._chosen[layer].append(experts[inside])

    def finish(self, replay: Replay | None, record: Record | None, order: Tensor) -> None:
        """Hand overlaps and choices over, in packed order (``order`` [T]). Raises ReplayError as ``Replay`` does."""
        if record is not None and record.want_experts:
            record.expert_rows.extend(torch.cat(parts)[order] for parts in self._chosen)
        if replay is not None:
            for tap, parts in zip(self.taps, self._overlaps, strict=True):
                if tap is not None:
                    tap.overlaps.append(torch.cat(parts))
            replay.finish()
