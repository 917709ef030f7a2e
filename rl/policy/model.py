"""DeepSeek-V3.2's and GLM-5's transformer on flat tokens: x += MLA(norm(x)); x += FFN(norm(x)), FFN dense or MoE.

One definition for learner and engine: the attention context decides which rows a query sees.
Parameters carry Hugging Face's names (DeepseekV32ForCausalLM, GlmMoeDsaForCausalLM).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rl.policy.attention import MLAttention
from rl.policy.attention_context import AttentionContext
from rl.policy.layers import MLP, RMSNorm, Rotary
from rl.policy.moe import Experts, MoE, Router
from rl.policy.replay import ExpertTap, IndexerTap, Record, Replay

if TYPE_CHECKING:
    from transformers import DeepseekV32Config


class DecoderLayer(nn.Module):
    """Attention and feed-forward with pre-norm residuals."""

    def __init__(self, config: DeepseekV32Config, layer: int) -> None:
        super().__init__()
        assert config.mlp_layer_types is not None
        self.self_attn = MLAttention(config, layer)
        sparse = config.mlp_layer_types[layer] == "sparse"
        self.mlp = MoE(config) if sparse else MLP(config.hidden_size, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        *,
        ctx: AttentionContext,
        tap: IndexerTap | None,
        expert_tap: ExpertTap | None,
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """x [T, hidden] -> [T, hidden], the experts chosen [T, K] (None in a dense layer), and the terms of L_I that
        were added to the record: FSDP gathers a layer for its backward pass by the gradients of what it returns, and
        where the indexer learns alone there are no others."""
        noted = [] if tap is None or tap.record is None else tap.record.kl_terms
        before = len(noted)
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, ctx, tap)
        h = self.post_attention_layernorm(x)
        if not isinstance(self.mlp, MoE):
            return x + self.mlp(h), None, noted[before:]
        h, experts = self.mlp(h, expert_tap)
        return x + h, experts, noted[before:]


class Backbone(nn.Module):
    """Embedding, layers, final norm (the ``model.`` prefix of the weight names)."""

    def __init__(self, config: DeepseekV32Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Rotary(config)


class DSAForCausalLM(nn.Module):
    """The DSA/MoE policy. Tokens are flat [T]; ``ctx`` knows the sequences."""

    # Float32 in every dtype of the rest: a rounded router chooses other experts; V3.2's code keeps the indexer's head
    # weights so.
    _keep_in_fp32_modules_strict = ("mlp.gate", "indexer.weights_proj")

    def __init__(self, config: DeepseekV32Config) -> None:
        super().__init__()
        if config.hidden_act != "silu":
            raise ValueError(f"hidden_act is {config.hidden_act!r}; only 'silu' is implemented")
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.recompute = False  # run every layer again in the backward pass, and keep only its input
        self.num_experts = config.n_routed_experts
        self.moe_layers = [layer.mlp for layer in self.decoder_layers if isinstance(layer.mlp, MoE)]
        self.num_moe_layers = len(self.moe_layers)
        self.num_indexers = sum(layer.self_attn.indexer is not None for layer in self.decoder_layers)
        self.apply(self._init_weights)

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.model.layers))

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding | Router):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Experts):
            nn.init.normal_(module.gate_up_proj, std=std)
            nn.init.normal_(module.down_proj, std=std)

    def hidden(
        self,
        input_ids_T: Tensor,
        ctx: AttentionContext,
        replay: Replay | None = None,
        record: Record | None = None,
    ) -> Tensor:
        """Final hidden states [T, hidden] of int64 tokens [T]."""
        x = F.embedding(input_ids_T, self.model.embed_tokens.weight)
        cos, sin = self.model.rotary(ctx.positions)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        replay = replay or Replay()
        taps_indexer = record is not None and (record.want_indexer or record.want_indexer_kl != "off")
        moe = indexers = 0
        for layer in self.decoder_layers:
            tap = expert_tap = None
            if layer.self_attn.indexer is not None:  # a layer that borrows a choice follows what is forced there
                tap = replay.indexer_tap(indexers, record if taps_indexer else None)
                indexers += 1
            if isinstance(layer.mlp, MoE):
                expert_tap = replay.expert_tap(moe)
                moe += 1
            run = partial(layer, ctx=ctx, tap=tap, expert_tap=expert_tap)
            # What the indexer learns from or is compared by is noted in the pass, once: such a layer is not run again.
            if self.recompute and torch.is_grad_enabled() and not (tap is not None and tap.watches):
                x, experts, _ = checkpoint(run, x, cos, sin, use_reentrant=False, preserve_rng_state=False)
            else:
                x, experts, _ = run(x, cos, sin)
            if experts is not None and record is not None and record.want_experts:
                record.expert_rows.append(experts)
        replay.finish()
        normed: Tensor = self.model.norm(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """[T, V] from [T, hidden]."""
        return F.linear(hidden, self.lm_head.weight)

    def forward(
        self,
        input_ids_T: Tensor,
        ctx: AttentionContext,
        replay: Replay | None = None,
        record: Record | None = None,
    ) -> Tensor:
        """Logits [T, V]."""
        return self.logits(self.hidden(input_ids_T, ctx, replay, record))

    @torch.no_grad()
    def update_router_bias(self, counts: Tensor, gamma: float) -> None:
        """Aux-loss-free balancing (DeepSeek-V3, sec. 2.1.2) with ``counts`` [L_moe, E], tokens per expert."""
        if counts.shape != (self.num_moe_layers, self.num_experts):
            raise ValueError(
                f"counts has shape {tuple(counts.shape)}; expected tokens per MoE layer and expert, "
                f"{(self.num_moe_layers, self.num_experts)}"
            )
        for layer, row in zip(self.moe_layers, counts, strict=True):
            layer.gate.update_bias(row, gamma)
