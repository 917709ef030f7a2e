"""Rotary embeddings of vLLM on a CPU, for heads in a dimension of their own.

The kernel takes [tokens, heads x size] and rotates the wrong numbers of [tokens, heads, size]. DeepSeek-V2's and V3's
attention hands over such slices (the rotated part of a head): their log-probs came out wrong by 0.5 nats from the
second token on.
"""

from __future__ import annotations

from typing import Any

import torch


def rotate_heads_right() -> None:
    """Make vLLM's CPU layers rotate such tensors in torch. Call before the engine loads a model."""
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    kernel = RotaryEmbedding.forward_cpu
    if getattr(kernel, "takes_heads", False):
        return

    def forward_cpu(self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None) -> Any:
        if query.dim() == 2:
            return kernel(self, positions, query, key)
        return self.forward_native(positions, query, key)

    forward_cpu.takes_heads = True  # type: ignore[attr-defined]
    RotaryEmbedding.forward_cpu = forward_cpu  # type: ignore[method-assign]
