"""DeepSeek Sparse Attention: index scores, the top-k choice, and absorbed MLA over the chosen rows.

    I[t,s] = sum_j w[t,j] * ReLU(q_I[t,j] . k_I[s])                 (index score)
    S_t    = TopK_s I[t,:]          score descending, then position ascending
    u_t    = softmax_{s in S_t}((q_abs . c_s + q_rope . k_rope_s) * scale) c_s

The ReLU makes large plateaus of equal scores (exactly 0), on which ``torch.topk`` promises no order.
The learner and the engine both use the functions here, so they agree on one tie-break.
All tensors carry leading batch dims ``...``; Q queries, S rows, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NEG_INF = float("-inf")


def index_scores(index_q: Tensor, index_w: Tensor, index_k: Tensor) -> Tensor:
    """I [..., Q, S] from index_q [..., Q, Hi, di], index_w [..., Q, Hi] and index_k [..., S, di].

    ``index_w`` already carries Hi^-0.5 * di^-0.5 (both are positive: they commute with the ReLU).
    """
    *batch, queries, heads, dim = index_q.shape
    dots = index_q.reshape(*batch, queries * heads, dim) @ index_k.transpose(-1, -2)
    dots = dots.relu() if dots.requires_grad else dots.relu_()
    return (index_w.unsqueeze(-2) @ dots.view(*batch, queries, heads, -1)).squeeze(-2)


def select_topk(scores: Tensor, k: int) -> Tensor:
    """bool [..., Q, S]: the k best rows of each query; -inf marks rows that a query may not see.

    Order: score descending, then position ascending. Fewer than k visible rows: all of them.
    """
    if scores.shape[-1] <= k:
        return scores > NEG_INF
    kth = scores.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    # With fewer than k visible rows kth is -inf: raised to the lowest finite value, hidden rows stay out.
    kth = kth.clamp_min(torch.finfo(scores.dtype).min)
    above = scores > kth
    room = k - above.sum(-1, keepdim=True, dtype=torch.int32)
    level = scores == kth
    return above | (level & (level.cumsum(-1, dtype=torch.int32) <= room))


def mask_to_indices(mask: Tensor, k: int) -> Tensor:
    """int64 [..., Q, k]: positions of the True entries in ascending order, -1 after them."""
    slot = torch.where(mask, mask.cumsum(-1, dtype=torch.int64) - 1, k).clamp_max_(k)
    out = torch.full((*mask.shape[:-1], k + 1), -1, dtype=torch.int64, device=mask.device)
    rows = torch.arange(mask.shape[-1], device=mask.device).expand(mask.shape)
    return out.scatter_(-1, slot, rows)[..., :k]


def indices_to_mask(indices: Tensor, rows: int) -> Tensor:
    """bool [..., Q, rows] from int64 [..., Q, k]; -1 entries are ignored.

    Raises IndexError when an index is not below ``rows``.
    """
    mask = torch.zeros((*indices.shape[:-1], rows + 1), dtype=torch.bool, device=indices.device)
    slot = torch.where(indices < 0, rows, indices)
    return mask.scatter_(-1, slot, True)[..., :rows]


def row_attention(query: Tensor, rows: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """sum_s p_s row_s [..., H, Q, C+R] of query [..., H, Q, C+R] over rows [..., S, C+R].

    ``mask`` bool [..., Q, S]; None means causal with Q == S. One shared row per position serves as key
    (latent | rope) and as value (MQA mode of MLA). The latent output is the first C entries; the whole
    row is passed as value because fused CPU kernels want equal key and value widths.
    """
    heads = query.shape[-3]
    kv = rows.unsqueeze(-3)
    kv = kv.expand(*kv.shape[:-3], heads, *kv.shape[-2:])
    if mask is not None:
        mask = mask.unsqueeze(-3)
    return F.scaled_dot_product_attention(query, kv, kv, attn_mask=mask, is_causal=mask is None, scale=scale)


def masked_attention(query: Tensor, rows: Tensor, mask: Tensor | None, scale: float, latent_dim: int) -> Tensor:
    """Latent output [..., H, Q, C]: ``row_attention`` without the rope part of its values."""
    return row_attention(query, rows, mask, scale)[..., :latent_dim]


def gathered_attention(query: Tensor, rows: Tensor, indices: Tensor, scale: float) -> Tensor:
    """The same for [Q, H, C+R] queries that read only their own rows: O(Q*k), no [Q, S] matrix.

    rows [S, C+R], indices int64 [Q, k] with -1 for unused (at least one used). -> [Q, H, C+R].
    """
    picked = rows[indices.clamp_min(0)]  # [Q, k, C+R]
    logits = query @ picked.transpose(1, 2) * scale  # [Q, H, k]
    return logits.masked_fill((indices < 0).unsqueeze(1), NEG_INF).softmax(-1) @ picked


def attention_target(query: Tensor, rows: Tensor, mask: Tensor, scale: float) -> Tensor:
    """p [Q, S]: attention probabilities summed over all heads, then L1-normalised (detached).

    query [H, Q, C+R], rows [S, C+R], mask bool [Q, S].
    """
    with torch.no_grad():
        logits = (query @ rows.transpose(-1, -2) * scale).masked_fill(~mask, NEG_INF)
        return logits.softmax(-1).mean(0)  # each head sums to 1, so the mean is the normalised sum


def indexer_kl(scores: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_I = sum_t KL(p[t,:] || softmax(I[t,:])) over the rows in ``mask``; scalar.

    scores, target [Q, S]; gradients flow into ``scores`` only.
    """
    log_q = scores.masked_fill(~mask, NEG_INF).log_softmax(-1).masked_fill(~mask, 0.0)
    return (torch.xlogy(target, target) - target * log_q).sum()


class _IndexerLoss(torch.autograd.Function):
    """Takes the gradients of the (scalar) loss in the forward pass: no [Hi, Q, S] tensor stays alive."""

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> Tensor:  # type: ignore[override]
        index_q, index_w, index_k, target, mask = args
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (index_q, index_w, index_k)]
            loss = indexer_kl(index_scores(*inputs), target, mask)
            ctx.save_for_backward(*torch.autograd.grad(loss, inputs))
        return loss.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (*(grad * saved for saved in ctx.saved_tensors), None, None)


def indexer_loss(index_q: Tensor, index_w: Tensor, index_k: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """``indexer_kl`` of the index scores of index_q [Q, Hi, di], index_w [Q, Hi], index_k [S, di]; scalar."""
    if torch.is_grad_enabled() and index_q.requires_grad:
        return _IndexerLoss.apply(index_q, index_w, index_k, target, mask)
    return indexer_kl(index_scores(index_q, index_w, index_k), target, mask)
