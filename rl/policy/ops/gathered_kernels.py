"""Attention of every query to its own list of rows in Triton: absorbed MLA over the indexer's choice, or any other.

    p[t,h,i] = softmax_i(scale * q[t,h] . row[n[t,i]]),   o[t,h] = sum_i p[t,h,i] c[n[t,i]],   row = (c | k_rope)

n [Q, k] names rows in any order, -1 is no row: the ancestors of a token in a tree are such a list too. The softmax is
taken online (Milakov and Gimelshein 2018), its log-sum-exp is kept, and the backward pass computes p again
(FlashAttention-2, Dao 2023):

    dl = p (g . c - g . o) scale,   dq = dl row,   drow = (p g | 0) + dl q        added up over all that chose the row

The last sum is made by atomic additions, whose order differs from run to run; under
``torch.use_deterministic_algorithms`` the terms are written down and added up in order instead, tile by tile.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from rl.policy.ops.launch import WARPS, dot_type, power_of_two

HEADS, CHOSEN = 16, 32  # of one tile; not tuned: no GPU was at hand
TERMS = 1 << 26  # floats of gradient terms written down at a time: 256 MiB


@triton.jit
def _pick(rows, indices, t, begin, K, C, R, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr):
    """The latents [BN, BC] and rope keys [BN, BR] that query t chose at [begin, begin + BN), their numbers and use."""
    slots, c, r = begin + tl.arange(0, BN), tl.arange(0, BC), tl.arange(0, BR)
    chosen = tl.load(indices + t * K + slots, mask=slots < K, other=-1).to(tl.int64)
    used = chosen >= 0
    start = rows + chosen[:, None] * (C + R)
    latent = tl.load(start + c[None, :], mask=used[:, None] & (c[None, :] < C), other=0.0)
    rope = tl.load(start + C + r[None, :], mask=used[:, None] & (r[None, :] < R), other=0.0)
    return chosen, used, latent, rope


@triton.jit
def _heads(x, t, begin, H, C, R, BH: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr):
    """x [Q, H, C + R] of query t and the heads [begin, begin + BH): [BH, BC] and [BH, BR]."""
    heads, c, r = begin + tl.arange(0, BH), tl.arange(0, BC), tl.arange(0, BR)
    start = x + (t * H + heads[:, None]) * (C + R)
    latent = tl.load(start + c[None, :], mask=(heads[:, None] < H) & (c[None, :] < C), other=0.0)
    rope = tl.load(start + C + r[None, :], mask=(heads[:, None] < H) & (r[None, :] < R), other=0.0)
    return latent, rope


@triton.jit
def _attend(
    query, rows, indices, out, lse, scale, K, H, C, R,
    BH: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    t, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * BH
    q_latent, q_rope = _heads(query, t, first, H, C, R, BH, BC, BR)
    best, total = tl.full([BH], float("-inf"), dtype=tl.float32), tl.zeros([BH], dtype=tl.float32)
    mixed = tl.zeros([BH, BC], dtype=tl.float32)
    for begin in range(0, K, BN):
        _chosen, used, latent, rope = _pick(rows, indices, t, begin, K, C, R, BN, BC, BR)
        if tl.max(used.to(tl.int32), 0) > 0:
            logits = tl.dot(q_latent.to(DOT), tl.trans(latent.to(DOT)), input_precision="ieee")
            logits += tl.dot(q_rope.to(DOT), tl.trans(rope.to(DOT)), input_precision="ieee")
            logits = tl.where(used[None, :], logits * scale, float("-inf"))
            higher = tl.maximum(best, tl.max(logits, 1))
            probs, keep = tl.exp(logits - higher[:, None]), tl.exp(best - higher)
            total = total * keep + tl.sum(probs, 1)
            values = probs.to(latent.dtype).to(DOT)
            mixed = mixed * keep[:, None] + tl.dot(values, latent.to(DOT), input_precision="ieee")
            best = higher
    heads, c = first + tl.arange(0, BH), tl.arange(0, BC)
    some = total > 0  # a query without any row: output 0, no gradient
    mixed = mixed / tl.where(some, total, 1.0)[:, None]
    where = out + (t * H + heads[:, None]) * C + c[None, :]
    tl.store(where, mixed.to(out.dtype.element_ty), mask=(heads[:, None] < H) & (c[None, :] < C))
    tl.store(lse + t * H + heads, tl.where(some, best + tl.log(tl.where(some, total, 1.0)), 0.0), mask=heads < H)


@triton.jit
def _probabilities(
    q_latent, q_rope, latent, rope, used, grad, lse, delta, t, first, scale, H,
    BH: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """p and the gradient of the logits before they are scaled, both [BH, BN]; the gradient is that of q . row."""
    heads = first + tl.arange(0, BH)
    logits = tl.dot(q_latent.to(DOT), tl.trans(latent.to(DOT)), input_precision="ieee")
    logits += tl.dot(q_rope.to(DOT), tl.trans(rope.to(DOT)), input_precision="ieee")
    norm = tl.load(lse + t * H + heads, mask=heads < H, other=0.0)
    probs = tl.where(used[None, :] & (heads[:, None] < H), tl.exp(logits * scale - norm[:, None]), 0.0)
    of_probs = tl.dot(grad.to(DOT), tl.trans(latent.to(DOT)), input_precision="ieee")
    mean = tl.load(delta + t * H + heads, mask=heads < H, other=0.0)
    return probs, probs * (of_probs - mean[:, None]) * scale


@triton.jit
def _grad_of_queries(
    query, rows, indices, grad, lse, delta, grad_query, scale, K, H, C, R,
    BH: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    t, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * BH
    q_latent, q_rope = _heads(query, t, first, H, C, R, BH, BC, BR)
    g, _none = _heads(grad, t, first, H, C, 0, BH, BC, BR)
    of_latent, of_rope = tl.zeros([BH, BC], dtype=tl.float32), tl.zeros([BH, BR], dtype=tl.float32)
    for begin in range(0, K, BN):
        _chosen, used, latent, rope = _pick(rows, indices, t, begin, K, C, R, BN, BC, BR)
        if tl.max(used.to(tl.int32), 0) > 0:
            _probs, of_logits = _probabilities(
                q_latent, q_rope, latent, rope, used, g, lse, delta, t, first, scale, H, BH, DOT
            )
            step = of_logits.to(latent.dtype).to(DOT)
            of_latent += tl.dot(step, latent.to(DOT), input_precision="ieee")
            of_rope += tl.dot(step, rope.to(DOT), input_precision="ieee")
    heads, c, r = first + tl.arange(0, BH), tl.arange(0, BC), tl.arange(0, BR)
    start = grad_query + (t * H + heads[:, None]) * (C + R)
    kind = grad_query.dtype.element_ty
    tl.store(start + c[None, :], of_latent.to(kind), mask=(heads[:, None] < H) & (c[None, :] < C))
    tl.store(start + C + r[None, :], of_rope.to(kind), mask=(heads[:, None] < H) & (r[None, :] < R))


@triton.jit
def _grad_of_rows(
    query, rows, indices, grad, lse, delta, grad_rows, scale, K, H, C, R,
    BH: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, DOT: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    t, begin = tl.program_id(0).to(tl.int64), tl.program_id(1) * BN
    chosen, used, latent, rope = _pick(rows, indices, t, begin, K, C, R, BN, BC, BR)
    of_latent, of_rope = tl.zeros([BN, BC], dtype=tl.float32), tl.zeros([BN, BR], dtype=tl.float32)
    if tl.max(used.to(tl.int32), 0) > 0:
        for first in range(0, H, BH):  # all heads of a term here: one addition a row, not one a head
            q_latent, q_rope = _heads(query, t, first, H, C, R, BH, BC, BR)
            g, _none = _heads(grad, t, first, H, C, 0, BH, BC, BR)
            probs, of_logits = _probabilities(
                q_latent, q_rope, latent, rope, used, g, lse, delta, t, first, scale, H, BH, DOT
            )
            step = tl.trans(of_logits.to(latent.dtype).to(DOT))
            of_latent += tl.dot(tl.trans(probs.to(latent.dtype).to(DOT)), g.to(DOT), input_precision="ieee")
            of_latent += tl.dot(step, q_latent.to(DOT), input_precision="ieee")
            of_rope += tl.dot(step, q_rope.to(DOT), input_precision="ieee")
    slots, c, r = begin + tl.arange(0, BN), tl.arange(0, BC), tl.arange(0, BR)
    of_c, of_r = c[None, :] < C, r[None, :] < R
    if ATOMIC:
        start = grad_rows + chosen[:, None] * (C + R)
        tl.atomic_add(start + c[None, :], of_latent, mask=used[:, None] & of_c, sem="relaxed")
        tl.atomic_add(start + C + r[None, :], of_rope, mask=used[:, None] & of_r, sem="relaxed")
    else:
        start = grad_rows + (t * K + slots[:, None]) * (C + R)
        tl.store(start + c[None, :], of_latent, mask=(slots[:, None] < K) & of_c)
        tl.store(start + C + r[None, :], of_rope, mask=(slots[:, None] < K) & of_r)


class _GatheredAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        query, rows, indices, scale, latent = *(x.contiguous() for x in args[:3]), *args[3:]
        queries, heads, width = query.shape
        sizes = {"K": indices.shape[1], "H": heads, "C": latent, "R": width - latent}
        sizes |= {"BH": HEADS, "BN": CHOSEN, "BC": power_of_two(latent), "BR": power_of_two(width - latent)}
        sizes |= {"DOT": dot_type(rows), **WARPS}
        out: Tensor = query.new_empty(queries, heads, latent)
        lse = torch.empty(queries, heads, dtype=torch.float32, device=query.device)
        if queries:
            _attend[(queries, triton.cdiv(heads, HEADS))](query, rows, indices, out, lse, scale, **sizes)
        ctx.save_for_backward(query, rows, indices, out, lse)
        ctx.scale, ctx.sizes = scale, sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, rows, indices, out, lse = ctx.saved_tensors
        sizes = ctx.sizes
        grad = grad.contiguous()
        delta = torch.linalg.vecdot(grad.float(), out.float())
        grad_query = torch.empty_like(query)
        # Popular rows collect the gradients of many queries: summed in float32.
        grad_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
        queries, chosen = indices.shape
        if queries and ctx.needs_input_grad[0]:
            grid = queries, triton.cdiv(sizes["H"], HEADS)
            _grad_of_queries[grid](query, rows, indices, grad, lse, delta, grad_query, ctx.scale, **sizes)
        ordered = torch.are_deterministic_algorithms_enabled()
        step = max(1, TERMS // (chosen * rows.shape[1])) if ordered else max(1, queries)
        for begin in range(0, queries if ctx.needs_input_grad[1] else 0, step):
            tile = slice(begin, begin + step)
            picked = indices[tile]
            terms = rows.new_empty(*picked.shape, rows.shape[1], dtype=torch.float32) if ordered else grad_rows
            given = query[tile], rows, picked, grad[tile], lse[tile], delta[tile], terms
            _grad_of_rows[(len(picked), triton.cdiv(chosen, CHOSEN))](*given, ctx.scale, ATOMIC=not ordered, **sizes)
            if ordered:  # sorted by row first, then added: index_add_ would use atomics
                grad_rows.index_put_((picked.clamp_min(0).flatten(),), terms.flatten(0, 1), accumulate=True)
        return grad_query, grad_rows.to(rows.dtype), None, None, None


def gathered_attention(query: Tensor, rows: Tensor, indices: Tensor, scale: float, latent_dim: int) -> Tensor:
    """Latent output [Q, H, C] of query [Q, H, C+R] over rows [S, C+R]; indices int [Q, k], any order, -1 for unused.

    A row named twice counts twice. A query that names no row gets 0 and gives no gradient.
    """
    mixed: Tensor = _GatheredAttention.apply(query, rows, indices, scale, latent_dim)
    return mixed
