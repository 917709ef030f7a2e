"""Experts of the mixture-of-experts models that vLLM itself defines (Qwen3-MoE, GLM-4.5, DeepSeek-V3): weights that can
be updated in place, and a record of which experts each token had.

On a CPU vLLM packs expert weights for its kernel when a model is loaded first, and only then; an update would write
plain rows into packed storage (tokens come out wrong by several nats, and nothing says so). ``keep_experts_plain``
leaves them as they are and multiplies with torch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F


def keep_experts_plain() -> None:
    """Make vLLM's CPU experts use their parameters directly. Call before the engine loads a model."""
    from vllm.model_executor.layers.fused_moe.experts import cpu_moe

    base = cpu_moe.CPUUnquantizedExperts
    for cls in (base, *base.__subclasses__()):
        setattr(cls, "process_weights_after_loading", _stay_plain)  # noqa: B010 (mypy knows no assignment to methods)
        setattr(cls, "apply", _apply_plain)  # noqa: B010


def _stay_plain(self: Any, layer: torch.nn.Module) -> None:
    """In the place of packing."""


def _apply_plain(
    self: Any,
    output: torch.Tensor,
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    activation: Any,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> None:
    """sum_k g_k W_2 (silu(W_gate x) * W_up x), x [T, hidden], w1 [E, 2I, hidden], w2 [E, hidden, I]; into ``output``.

    ``expert_map``: the local number of each expert, -1 where another rank has it. Raises ValueError for another
    activation than silu, and for biases.
    """
    if str(getattr(activation, "value", activation)).lower() != "silu" or self.w1_bias is not None:
        raise ValueError(f"experts with activation {activation} or biases are not supported on a CPU")
    experts = topk_ids.long() if expert_map is None else expert_map[topk_ids.long()].long()
    mixed = torch.zeros_like(output, dtype=torch.float32)
    for expert in experts.unique().tolist():
        if expert < 0:
            continue
        token, choice = torch.where(experts == expert)
        gate, up = F.linear(hidden_states[token], w1[expert]).chunk(2, dim=-1)
        value = F.linear(F.silu(gate) * up, w2[expert])
        mixed.index_add_(0, token, value.float() * topk_weights[token, choice, None].float())
    output.copy_(mixed)


class ExpertsRecorder:
    """``table`` [slots, L_moe, K] uint8 (int16 above 256 experts): experts of the token now at that cache slot."""

    def __init__(self, layers: int, slots: int, chosen: int, experts: int) -> None:
        self.table = torch.zeros(slots, layers, chosen, dtype=torch.uint8 if experts <= 256 else torch.int16)

    @classmethod
    def watch(cls, model: torch.nn.Module, slots: int) -> ExpertsRecorder | None:
        """Watch the routers of a vLLM model; None where it has no experts."""
        from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

        runners = [module for module in model.modules() if isinstance(module, MoERunner)]
        if not runners:
            return None
        router: Any = runners[0].router
        recorder = cls(len(runners), slots, router.top_k, router.global_num_experts)
        for layer, runner in enumerate(runners):
            runner.router.set_capture_fn(partial(recorder._note, layer))
        return recorder

    def _note(self, layer: int, chosen: torch.Tensor) -> None:
        """``chosen`` [rows, K] of one layer and step; rows beyond the step's tokens are padding."""
        from vllm.forward_context import get_forward_context

        mapping = get_forward_context().slot_mapping
        if not isinstance(mapping, dict) or not mapping:  # profiling: no token has a slot
            return
        slots = next(iter(mapping.values())).long()
        tokens = min(len(slots), len(chosen))
        used = slots[:tokens] >= 0
        self.table[slots[:tokens][used], layer] = chosen[:tokens][used].to(self.table.dtype)
