"""DSAPolicy: the DSA/MoE model of ``rl.policy.model`` behind the Policy protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rl.policy.api import CuSeqlens
from rl.policy.attention_context import AttentionMode, PackedContext
from rl.policy.context_parallel import RowSplit
from rl.policy.io import save_dsa
from rl.policy.model import DSAForCausalLM
from rl.policy.ops.operators import TORCH, Operators
from rl.policy.prefix_tree import PrefixTree
from rl.policy.replay import Record, Replay
from rl.policy.weight_plan import Given
from rl.policy.weight_source import WeightSource


class DSAPolicy:
    """The DSA/MoE policy of ``rl.policy.model`` behind the Policy protocol.

    ``mode`` "sparse" is V3.2; "dense" attends to everything (indexer warm-up, before adaptation).
    """

    def __init__(self, module: DSAForCausalLM, mode: AttentionMode = "sparse") -> None:
        if mode not in ("dense", "sparse"):
            raise ValueError(f"policy.mode is {mode!r}; expected 'dense' or 'sparse'")
        self.module = module
        self.mode: AttentionMode = mode
        self.vocab_size = module.config.vocab_size
        self.num_experts, self.num_moe_layers = module.num_experts, module.num_moe_layers
        self.ops = TORCH

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.module.model.layers)

    @property
    def shares_prefixes(self) -> bool:
        return True

    def packed_logits(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        return self.logits(self.packed_hidden(tokens_T, cu_seqlens, replay, record, rows))

    def packed_hidden(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        ctx = PackedContext(cu_seqlens, mode=self.mode, device=tokens_T.device, ops=self.ops)
        asked = ctx.asks if isinstance(cu_seqlens, RowSplit) else ctx.bounds[-1]
        if asked != len(tokens_T):
            raise ValueError(f"cu_seqlens ends at {asked} but there are {len(tokens_T)} tokens")
        if not isinstance(cu_seqlens, PrefixTree):
            hidden = self.module.hidden(tokens_T, ctx, replay, record)
            if isinstance(cu_seqlens, RowSplit):
                cu_seqlens.finish(record)
            return hidden if rows is None else hidden[rows]
        tree = cu_seqlens
        hidden = self.module.hidden(tokens_T[tree.first_U], ctx, tree.replay(replay), record)
        tree.finish(record)
        return tree.spread(hidden) if rows is None else hidden[tree.node_T[rows]]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.module.logits(hidden)

    def head_weight(self) -> Tensor:
        return self.module.lm_head.weight

    def set_ops(self, ops: Operators) -> None:
        self.ops = ops

    def set_recompute(self, on: bool) -> None:
        self.module.recompute = on

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters()

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.module.state_dict().items()}

    def update_router_bias(self, counts: Tensor, gamma: float) -> None:
        """Aux-loss-free balancing; ``counts`` [L_moe, E]. For pre-training and cold start only."""
        self.module.update_router_bias(counts, gamma)

    def set_index_topk(self, k: int) -> None:
        """Rows each query attends to in sparse mode, in every layer; stored with the policy."""
        self.module.config.index_topk = k
        for layer in self.module.decoder_layers:
            layer.self_attn.spec = replace(layer.self_attn.spec, topk=k)

    def reset_indexer(self, seed: int) -> None:
        """Fresh random indexer weights (a dense checkpoint's never learned); nothing else changes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in self.module.decoder_layers:
                if (indexer := layer.self_attn.indexer) is not None:
                    indexer.apply(self.module._init_weights)
                    indexer.k_norm.reset_parameters()

    def save(self, directory: str | Path, given: Given | None = None) -> None:
        save_dsa(self.module, directory, given or WeightSource(self.weights()).given())
