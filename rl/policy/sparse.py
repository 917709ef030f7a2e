"""DeepSeek Sparse Attention: index scores, the top-k choice, and absorbed MLA over the chosen rows.

    I[t,s] = sum_j w[t,j] * ReLU(q_I[t,j] . k_I[s])                 (index score)
    S_t    = TopK_s I[t,:]          score descending, then position ascending
    u_t    = softmax_{s in S_t}((q_abs . c_s + q_rope . k_rope_s) * scale) c_s

The ReLU makes large plateaus of equal scores (exactly 0), on which ``torch.topk`` promises no order.
The learner and the engine both use the functions here, so they agree on one tie-break.
All tensors carry leading batch dims ``...``; Q queries, S rows, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NEG_INF = float("-inf")
GATHER_FROM = 1024  # contexts from which queries gather their k rows: below, one masked pass over all rows is faster
LOWEST_KEY = -(0x7F800000 << 32)  # of the lowest finite score; keys below are those of -inf
KEY_ROWS = 1024  # up to so many scores one ``topk`` of integer keys is faster than one of floats with ties repaired
GATHER_TILE = 1 << 20  # floats of gathered rows at a time, 4 MiB in fp32: larger tiles fall out of the CPU's caches


def index_scores(index_q: Tensor, index_w: Tensor, index_k: Tensor) -> Tensor:
    """I [..., Q, S] from index_q [..., Q, Hi, di], index_w [..., Q, Hi] and index_k [..., S, di].

    ``index_w`` already carries Hi^-0.5 * di^-0.5 (both are positive: they commute with the ReLU). The heads are summed
    in its precision (float32, as in the released model), whatever that of the keys is.
    """
    *batch, queries, heads, dim = index_q.shape
    dots = index_q.reshape(*batch, queries * heads, dim) @ index_k.transpose(-1, -2)
    dots = dots.relu() if dots.requires_grad else dots.relu_()
    dots = dots.to(index_w.dtype).view(*batch, queries, heads, -1)
    return (index_w.unsqueeze(-2) @ dots).squeeze(-2)


def select_topk(scores: Tensor, k: int) -> Tensor:
    """bool [..., Q, S]: the k best rows of each query; -inf marks rows that a query may not see.

    Order: score descending, then position ascending. Fewer than k visible rows: all of them.
    """
    if scores.shape[-1] <= k:
        return scores > NEG_INF
    if _partitions(scores):
        taken, best = _taken(scores, k)
        if np.count_nonzero(taken) == best.size * k:
            return torch.from_numpy(taken)
        kth = torch.from_numpy(best).to(scores.dtype)
    else:
        kth = scores.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    # With fewer than k visible rows kth is -inf: raised to the lowest finite value, hidden rows stay out.
    kth = kth.clamp_min(torch.finfo(scores.dtype).min)
    above = scores > kth
    room = k - above.sum(-1, keepdim=True, dtype=torch.int32)
    level = scores == kth
    return above | (level & (level.cumsum(-1, dtype=torch.int32) <= room))


def topk_indices(scores: Tensor, k: int) -> Tensor:
    """int64 [..., Q, k]: the positions that ``select_topk`` marks, in no particular order, -1 for unused.

    Takes k + 1 <= S rows of scores [..., Q, S]. Long rows: ``torch.topk`` is exact about the scores; only where the
    best row left out has the score of the worst one taken does the tie-break matter, and those queries are chosen
    again.
    """
    flat = scores.flatten(0, -2)
    if _partitions(scores):
        return _topk_by_partition(flat, k).view(*scores.shape[:-1], k)
    if scores.shape[-1] <= KEY_ROWS:
        return _topk_by_key(flat, k).view(*scores.shape[:-1], k)
    values, picked = flat.topk(k + 1, dim=-1, sorted=False)
    low, where = values.topk(2, dim=-1, largest=False)
    picked.masked_fill_(values == NEG_INF, -1)
    # The (k+1)-th best goes: the last column takes its place.
    picked = picked.scatter_(1, where[:, :1], picked[:, -1:].clone())[:, :k]
    tied = ((low[:, 0] == low[:, 1]) & (low[:, 1] > NEG_INF)).nonzero().squeeze(1)
    if len(tied):
        picked[tied] = _topk_by_key(flat[tied], k)
    return picked.view(*scores.shape[:-1], k)


def _partitions(scores: Tensor) -> bool:
    """Whether numpy looks for the k-th best of each row: vectorised, it takes a seventh of the time of ``torch.topk``
    on one thread and stays ahead of a few for short rows."""
    return scores.is_cpu and (scores.shape[-1] <= KEY_ROWS or torch.get_num_threads() == 1)


def _taken(scores: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [..., Q, S]: what is not below the k-th best score of its row, and that score [..., Q, 1]. More than k of a
    row where others have the k-th best score too, or fewer than k can be seen."""
    rows = scores.detach().float().numpy()
    last = rows.shape[-1] - k
    kth = np.partition(rows, last, axis=-1)[..., last : last + 1]
    return rows >= kth, kth


def _topk_by_partition(scores: Tensor, k: int) -> Tensor:
    """int64 [Q, k] as ``_topk_by_key``; its queries are those where a tie is cut or fewer than k rows can be seen."""
    taken, _ = _taken(scores, k)
    queries, rows = taken.shape
    where = np.flatnonzero(taken)
    if len(where) == queries * k:
        return torch.from_numpy(where.reshape(queries, k) - np.arange(0, queries * rows, rows)[:, None])
    whole = np.count_nonzero(taken, axis=1) == k
    picked = torch.empty(queries, k, dtype=torch.long)
    picked[torch.from_numpy(whole)] = torch.from_numpy(taken[whole].nonzero()[1].reshape(-1, k))
    others = torch.from_numpy(~whole)
    picked[others] = _topk_by_key(scores[others], k)
    return picked


def _topk_by_key(scores: Tensor, k: int) -> Tensor:
    """int64 [Q, k], unordered, -1 for unused: the k best of scores [Q, S], score descending, then position ascending.

    An integer key holds the score's bits, made monotonic, above the reversed position: keys have no ties.
    """
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are the same score
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = (bits.long() << 32) | torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
    keys, picked = key.topk(k, dim=-1, sorted=False)
    return picked.masked_fill_(keys < LOWEST_KEY, -1)


def ascending(picked: Tensor) -> Tensor:
    """The positions int64 [..., k] of each query in ascending order, -1 (unused) after them."""
    last = torch.iinfo(torch.long).max
    ordered = picked.masked_fill(picked < 0, last).sort(dim=-1).values
    return ordered.masked_fill_(ordered == last, -1)


def mask_to_indices(mask: Tensor, k: int) -> Tensor:
    """int64 [..., Q, k]: positions of the True entries in ascending order, -1 after them."""
    slot = torch.where(mask, mask.cumsum(-1, dtype=torch.int64) - 1, k).clamp_max_(k)
    out = torch.full((*mask.shape[:-1], k + 1), -1, dtype=torch.int64, device=mask.device)
    rows = torch.arange(mask.shape[-1], device=mask.device).expand(mask.shape)
    return out.scatter_(-1, slot, rows)[..., :k]


def indices_to_mask(indices: Tensor, rows: int) -> Tensor:
    """bool [..., Q, rows] from [..., Q, k] of any signed integers; -1 entries are ignored.

    Raises IndexError when an index is not below ``rows``.
    """
    mask = torch.zeros((*indices.shape[:-1], rows + 1), dtype=torch.bool, device=indices.device)
    indices = indices.long()
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


class _GatheredAttention(torch.autograd.Function):
    """Keeps its inputs only: gathered rows, [Q, k, C+R], are many times as large, so each tile of queries gathers
    them anew in the backward pass, and their gradients are added up in one [S, C+R] tensor."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        query, rows, indices, scale = args
        ctx.save_for_backward(query, rows, indices)
        ctx.scale = scale
        return _gather_and_attend(query, rows, indices, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, rows, indices = ctx.saved_tensors
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        # Popular rows collect the gradients of many queries: summed in fp32 at least.
        grad_rows = torch.zeros(rows.shape, dtype=torch.promote_types(rows.dtype, torch.float32), device=rows.device)
        for tile in _tiles(query, indices):
            q, g = query[tile], grad[tile]
            picked, mask = _pick(rows, indices[tile])
            probs = ((q @ picked.transpose(1, 2)).mul_(ctx.scale).masked_fill_(~mask, NEG_INF)).softmax(-1)
            grad_probs = g @ picked.transpose(1, 2)
            grad_logits = probs * (grad_probs - (grad_probs * probs).sum(-1, keepdim=True)) * ctx.scale
            grad_query[tile] = grad_logits @ picked
            # as values: probs^T g; as keys: grad_logits^T q
            grad_picked = torch.cat((probs, grad_logits), dim=1).transpose(1, 2) @ torch.cat((g, q), dim=1)
            where = indices[tile].clamp_min(0).flatten()
            grad_rows.index_add_(0, where, grad_picked.flatten(0, 1).to(grad_rows.dtype))
        return grad_query, grad_rows.to(rows.dtype), None, None


def _tiles(query: Tensor, indices: Tensor) -> list[slice]:
    """Runs of queries whose gathered rows stay in a CPU core's cache."""
    size = max(1, GATHER_TILE // (indices.shape[1] * query.shape[2]))
    return [slice(a, a + size) for a in range(0, len(query), size)]


def _pick(rows: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [Q, k, C+R] of one tile of queries, and bool [Q, 1, k]: which of them are used."""
    picked = rows.index_select(0, indices.clamp_min(0).flatten()).view(*indices.shape, -1)
    return picked, (indices >= 0).unsqueeze(1)


def _gather_and_attend(query: Tensor, rows: Tensor, indices: Tensor, scale: float, full: bool = False) -> Tensor:
    def attend(tile: slice) -> Tensor:
        if full:
            kv = rows.index_select(0, indices[tile].flatten()).view(-1, 1, indices.shape[1], rows.shape[1])
            return F.scaled_dot_product_attention(query[tile].unsqueeze(1), kv, kv, scale=scale).squeeze(1)
        picked, mask = _pick(rows, indices[tile])
        # The heads of one token share their rows, so they are the queries of one fused call.
        return row_attention(query[tile].unsqueeze(1), picked, mask, scale).squeeze(1)

    tiles = _tiles(query, indices)
    if len(tiles) == 1:
        return attend(tiles[0])
    out = torch.empty_like(query, memory_format=torch.contiguous_format)  # small results kept between tiles fragment
    for tile in tiles:
        out[tile] = attend(tile)
    return out


def gathered_attention(query: Tensor, rows: Tensor, indices: Tensor, scale: float, *, full: bool = False) -> Tensor:
    """``row_attention`` for [Q, H, C+R] queries that read only their own rows: O(Q*k), no [Q, S] matrix.

    rows [S, C+R], indices int [Q, k] with -1 for unused (at least one used; ``full``: all are). -> [Q, H, C+R].
    """
    if torch.is_grad_enabled():
        return _with_less_memory(query, rows, indices, scale)
    return _gather_and_attend(query, rows, indices, scale, full)


_with_less_memory: Callable[[Tensor, Tensor, Tensor, float], Tensor] = _GatheredAttention.apply


def attention_target(query: Tensor, rows: Tensor, mask: Tensor, scale: float) -> Tensor:
    """p [Q, S]: attention probabilities summed over all heads, then L1-normalised (detached).

    query [H, Q, C+R], rows [S, C+R], mask bool [Q, S].
    """
    with torch.no_grad():
        logits = (query @ rows.transpose(-1, -2) * scale).masked_fill(~mask, NEG_INF)
        return logits.softmax(-1).mean(0)  # each head sums to 1, so the mean is the normalised sum


def indexer_kl(scores: Tensor, target: Tensor, mask: Tensor, counts: Tensor | None = None) -> Tensor:
    """L_I = sum_t n_t KL(p[t,:] || softmax(I[t,:])) over the rows in ``mask``; scalar.

    scores, target [Q, S]; gradients flow into ``scores`` only. ``counts`` n int64 [Q]: how often a query counts; None:
    once.
    """
    log_q = scores.masked_fill(~mask, NEG_INF).log_softmax(-1).masked_fill(~mask, 0.0)
    terms = torch.xlogy(target, target) - target * log_q
    return terms.sum() if counts is None else (terms.sum(-1) * counts).sum()


class IndexerLoss:
    """L_I of consecutive queries of one sequence, added up piece by piece; gradients are taken with each piece.

    So no [Hi, Q, S] tensor stays alive, and the gradients of the keys that all queries share add up in one tensor.
    index_q [Q, Hi, di], index_w [Q, Hi], index_k [S, di]; ``scores`` makes I of them.
    """

    def __init__(
        self,
        index_q: Tensor,
        index_w: Tensor,
        index_k: Tensor,
        scores: Callable[[Tensor, Tensor, Tensor], Tensor] = index_scores,
    ) -> None:
        self.inputs, self.scores = (index_q, index_w, index_k), scores
        self.value = torch.zeros((), device=index_q.device)
        self.learns = torch.is_grad_enabled() and index_q.requires_grad
        self.grads = [torch.zeros_like(x) for x in self.inputs] if self.learns else []
        self.done = 0

    def add(self, target: Tensor, mask: Tensor, counts: Tensor | None = None) -> None:
        """The next queries: target and mask [queries, rows], the first ``rows`` keys; ``counts`` as in
        ``indexer_kl``."""
        asks, rows = slice(self.done, self.done + len(target)), slice(target.shape[1])
        self.done = asks.stop
        index_q, index_w, index_k = self.inputs
        inputs = [x.detach().requires_grad_(self.learns) for x in (index_q[asks], index_w[asks], index_k[rows])]
        with torch.set_grad_enabled(self.learns):
            loss = indexer_kl(self.scores(*inputs), target, mask, counts)
        self.value += loss.detach()
        if self.learns:
            for whole, where, grad in zip(
                self.grads, (asks, asks, rows), torch.autograd.grad(loss, inputs), strict=True
            ):
                whole[where] += grad

    def total(self) -> Tensor:
        """The sum, scalar, with its gradients."""
        return _with_gradients(self.value, *self.inputs, *self.grads) if self.learns else self.value


class _WithGradients(torch.autograd.Function):
    """A scalar whose gradients with respect to the inputs behind it are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *inputs_grads: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs_grads[len(inputs_grads) // 2 :])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [grad * saved for saved in ctx.saved_tensors]
        return (None, *grads, *(None for _ in grads))


_with_gradients: Callable[..., Tensor] = _WithGradients.apply
