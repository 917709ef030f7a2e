"""MLA in absorbed (MQA) mode with the DSA lightning indexer.

    q_r = RMSNorm(W_qa x)            c = RMSNorm(W_kva x)[:C]       k_rope = RoPE(W_kva x)[C:]
    q_abs[h] = W_UK[h]^T q_nope[h]   score = (q_abs . c + q_rope . k_rope) * scale
    o[h] = W_UV[h] (sum_s p_s c_s)   u = W_o [o_1 .. o_H]
    indexer: q_I = RoPE(W_Iq q_r), k_I = RoPE(LayerNorm(W_Ik x)), w = W_Iw x * Hi^-0.5 * di^-0.5

The absorbed form is used by learner and engine alike (V3.2 sec. 2.1, appendix A), so both round the same way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.policy.attention_context import AttentionContext, AttentionSpec, MLAQuery, MLARow
from rl.policy.index_precision import rounded, rounds
from rl.policy.layers import RMSNorm, rope_half_split, rope_interleaved, rope_pairs, softmax_scale, turns, weight_of
from rl.policy.replay import IndexerTap


class Indexer(nn.Module):
    """Lightning indexer (V3.2 eq. 1 and its released code), rounded where the policy says so
    (``rl.policy.index_precision``). The Hadamard rotation is omitted: a no-op in fp32.

    V3.2 rotates halves of the first dims, GLM-5 interleaved pairs.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.rope = rope_pairs if config.model_type == "glm_moe_dsa" else rope_half_split
        self.n_heads, self.head_dim = config.index_n_heads, config.index_head_dim
        self.rounds = rounds(config)
        self.wq_b = nn.Linear(config.q_lora_rank, self.n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(config.hidden_size, self.head_dim, bias=False)
        self.k_norm = nn.LayerNorm(self.head_dim, eps=1e-6)
        self.weights_proj = nn.Linear(config.hidden_size, self.n_heads, bias=False)
        self.score_scale = self.n_heads**-0.5 * self.head_dim**-0.5

    def forward(self, x: Tensor, qr: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """index_q [T, Hi, di], scaled index_w [T, Hi], index_k [T, di]; x [T, hidden], qr [T, q_lora]."""
        q = self.rope(self.wq_b(qr).view(-1, self.n_heads, self.head_dim), turn)
        k = self.wk(x)
        k = F.layer_norm(
            k.float(), (self.head_dim,), self.k_norm.weight.float(), self.k_norm.bias.float(), self.k_norm.eps
        ).to(k.dtype)
        w = self.weights_proj(x.to(self.weights_proj.weight.dtype)).float() * self.score_scale
        k = self.rope(k, turn)
        return (rounded(q), w, rounded(k)) if self.rounds else (q, w, k)


def lenders(config: Any) -> list[int]:
    """The layer whose choice each layer attends to: itself, or for a "shared" one the last "full" one before it.

    ``indexer_types`` of the configuration, "full" or "shared" per layer (GLM-5.2, arXiv 2603.12201); V3.2 has none: an
    indexer in every layer. Raises ValueError when it has another length or entry, or begins with "shared".
    """
    layers = range(config.num_hidden_layers)
    kinds = getattr(config, "indexer_types", None) or ["full" for _ in layers]
    if len(kinds) != len(layers) or kinds[0] != "full" or not {*kinds} <= {"full", "shared"}:
        raise ValueError(
            f"indexer_types is {kinds[:4]}... for {len(layers)} layers; expected 'full' or 'shared' for each layer, "
            "the first one 'full'"
        )
    return [max(full for full in layers[: layer + 1] if kinds[full] == "full") for layer in layers]


class MLAttention(nn.Module):
    """One attention layer; parameters carry Hugging Face's DeepseekV32 names.

    ``indexer`` is None in a layer that attends to the choice of an earlier one.
    """

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.nope, self.rope, self.v_dim = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.kv_lora = config.kv_lora_rank
        self.q_a_proj = nn.Linear(config.hidden_size, config.q_lora_rank, bias=config.attention_bias)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank)
        self.q_b_proj = nn.Linear(config.q_lora_rank, self.heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(config.hidden_size, self.kv_lora + self.rope, bias=config.attention_bias)
        self.kv_a_layernorm = RMSNorm(self.kv_lora)
        self.kv_b_proj = nn.Linear(self.kv_lora, self.heads * (self.nope + self.v_dim), bias=False)
        self.o_proj = nn.Linear(self.heads * self.v_dim, config.hidden_size, bias=config.attention_bias)
        lender = lenders(config)
        borrows = lender[layer] != layer
        self.indexer = None if borrows else Indexer(config)
        self.spec = AttentionSpec(
            scale=softmax_scale(config),
            topk=config.index_topk,
            latent_dim=self.kv_lora,
            rope_dim=self.rope,
            index_dim=config.index_head_dim,
            borrows=lender[layer] if borrows else None,
            lends=lender.count(layer) > 1,
        )

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, ctx: AttentionContext, tap: IndexerTap | None = None
    ) -> Tensor:
        """x [T, hidden] -> [T, hidden]; cos, sin [T, rope/2]."""
        tokens, turn = x.shape[0], turns(cos, sin)
        qr = self.q_a_layernorm(self.q_a_proj(x))
        q = self.q_b_proj(qr).view(tokens, self.heads, self.nope + self.rope)
        q_nope, q_rope = q.split([self.nope, self.rope], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.kv_lora, self.rope], dim=-1)
        up = weight_of(self.kv_b_proj).view(self.heads, self.nope + self.v_dim, self.kv_lora)
        w_uk, w_uv = up.split([self.nope, self.v_dim], dim=1)
        q_abs = (q_nope.transpose(0, 1) @ w_uk).transpose(0, 1)  # [T, H, C]

        if self.indexer is None:
            index_q, index_w, index_k = x.new_empty(tokens, 0, 0), x.new_empty(tokens, 0), x.new_empty(tokens, 0)
        else:
            # The indexer learns from L_I only (V3.2 sec. 2.1.1), so its inputs are detached, and without L_I
            # nothing of it needs a graph.
            learns = tap is not None and tap.record is not None and tap.record.want_indexer_kl != "off"
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
                index_q, index_w, index_k = self.indexer(x.detach(), qr.detach(), turn)

        query = MLAQuery(q_abs, rope_interleaved(q_rope, turn), index_q, index_w)
        row = MLARow(self.kv_a_layernorm(latent), rope_interleaved(k_rope, turn), index_k)
        if tap is None:
            mixed = ctx.attend(self.layer, query, row, self.spec)
        else:
            mixed = ctx.attend(self.layer, query, row, self.spec, tap)
        out = mixed.transpose(0, 1) @ w_uv.transpose(1, 2)  # [H, T, v]
        y: Tensor = self.o_proj(out.transpose(0, 1).reshape(tokens, self.heads * self.v_dim))
        return y
