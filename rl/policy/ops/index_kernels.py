"""Index scores in Triton, heads summed inside: I[t,s] = sum_j w[t,j] ReLU(q[t,j] . k[s]), forward and backward.

``rl.policy.sparse.index_scores`` makes [Q, Hi, S] products on the way; here a tile of [Q, S] collects its heads one by
one. Products are rounded to the keys' dtype before the ReLU, as there, so that both choose alike. The backward pass
computes the products again, and adds nothing by atomics: it is deterministic.
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

QUERIES, ROWS = 64, 64  # of one tile; not tuned: no GPU was at hand


@triton.jit
def _products(queries, keys, DOT: tl.constexpr):
    """q . k, float32 that is rounded to the keys' dtype."""
    dots = tl.dot(queries.to(DOT), tl.trans(keys.to(DOT)), input_precision="ieee")
    return dots.to(keys.dtype).to(tl.float32)


@triton.jit
def _queries(q, asks, h, there, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """q of head h, [BQ, BD]."""
    d = tl.arange(0, BD)
    return tl.load(q + (asks[:, None] * H + h) * D + d[None, :], mask=there[:, None] & (d[None, :] < D), other=0.0)


@triton.jit
def _scores(
    q, w, k, low, high, out, Q, S,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    asks, rows, d = tl.program_id(0) * BQ + tl.arange(0, BQ), tl.program_id(1) * BS + tl.arange(0, BS), tl.arange(0, BD)
    first = tl.load(low + asks, mask=asks < Q, other=S)
    last = tl.load(high + asks, mask=asks < Q, other=0)
    total = tl.zeros([BQ, BS], dtype=tl.float32)
    inside = d[None, :] < D
    if (tl.min(first, 0) < (tl.program_id(1) + 1) * BS) & (tl.max(last, 0) > tl.program_id(1) * BS):
        keys = tl.load(k + rows[:, None] * D + d[None, :], mask=(rows[:, None] < S) & inside, other=0.0)
        for h in range(H):
            queries = tl.load(
                q + (asks[:, None] * H + h) * D + d[None, :], mask=(asks[:, None] < Q) & inside, other=0.0
            )
            dots = (
                tl.dot(queries.to(DOT), tl.trans(keys.to(DOT)), input_precision="ieee")
                .to(k.dtype.element_ty)
                .to(tl.float32)
            )
            weight = tl.load(w + asks * H + h, mask=asks < Q, other=0.0).to(tl.float32)
            total += weight[:, None] * tl.maximum(dots, 0.0)
    seen = (rows[None, :] >= first[:, None]) & (rows[None, :] < last[:, None])
    where = out + asks[:, None].to(tl.int64) * S + rows[None, :]
    tl.store(where, tl.where(seen, total, float("-inf")), mask=(asks[:, None] < Q) & (rows[None, :] < S))


@triton.jit
def _grad_of_queries(
    q, w, k, low, high, grad, grad_q, grad_w, Q, S,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    asks, h, d = tl.program_id(0) * BQ + tl.arange(0, BQ), tl.program_id(1), tl.arange(0, BD)
    there, inside = asks < Q, d[None, :] < D
    first, last = tl.load(low + asks, mask=there, other=S), tl.load(high + asks, mask=there, other=0)
    place = (asks[:, None] * H + h) * D + d[None, :]
    queries = tl.load(q + place, mask=there[:, None] & inside, other=0.0)
    weight = tl.load(w + asks * H + h, mask=there, other=0.0).to(tl.float32)
    of_q, of_w = tl.zeros([BQ, BD], dtype=tl.float32), tl.zeros([BQ], dtype=tl.float32)
    for begin in range(0, S, BS):
        rows = begin + tl.arange(0, BS)
        keys = tl.load(k + rows[:, None] * D + d[None, :], mask=(rows[:, None] < S) & inside, other=0.0)
        seen = (rows[None, :] >= first[:, None]) & (rows[None, :] < last[:, None])
        g = tl.load(grad + asks[:, None].to(tl.int64) * S + rows[None, :], mask=seen, other=0.0)
        dots = (
            tl.dot(queries.to(DOT), tl.trans(keys.to(DOT)), input_precision="ieee")
            .to(k.dtype.element_ty)
            .to(tl.float32)
        )
        of_w += tl.sum(g * tl.maximum(dots, 0.0), 1)
        upstream = tl.where(dots > 0, g * weight[:, None], 0.0)
        of_q += tl.dot(upstream.to(k.dtype.element_ty).to(DOT), keys.to(DOT), input_precision="ieee")
    tl.store(grad_q + place, of_q.to(grad_q.dtype.element_ty), mask=there[:, None] & inside)
    tl.store(grad_w + asks * H + h, of_w.to(grad_w.dtype.element_ty), mask=there)


@triton.jit
def _grad_of_keys(
    q, w, k, low, high, grad, grad_k, Q, S,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    rows, d = tl.program_id(0) * BS + tl.arange(0, BS), tl.arange(0, BD)
    inside = d[None, :] < D
    keys = tl.load(k + rows[:, None] * D + d[None, :], mask=(rows[:, None] < S) & inside, other=0.0)
    of_k = tl.zeros([BS, BD], dtype=tl.float32)
    for begin in range(0, Q, BQ):
        asks = begin + tl.arange(0, BQ)
        there = asks < Q
        first, last = tl.load(low + asks, mask=there, other=S), tl.load(high + asks, mask=there, other=0)
        seen = (rows[None, :] >= first[:, None]) & (rows[None, :] < last[:, None])
        g = tl.load(grad + asks[:, None].to(tl.int64) * S + rows[None, :], mask=seen, other=0.0)
        for h in range(H):
            queries = _queries(q, asks, h, there, H, D, BD)
            dots = (
                tl.dot(queries.to(DOT), tl.trans(keys.to(DOT)), input_precision="ieee")
                .to(k.dtype.element_ty)
                .to(tl.float32)
            )
            weight = tl.load(w + asks * H + h, mask=there, other=0.0).to(tl.float32)
            upstream = tl.where(dots > 0, g * weight[:, None], 0.0).to(k.dtype.element_ty)
            of_k += tl.dot(tl.trans(upstream.to(DOT)), queries.to(DOT), input_precision="ieee")
    tl.store(
        grad_k + rows[:, None] * D + d[None, :], of_k.to(grad_k.dtype.element_ty), mask=(rows[:, None] < S) & inside
    )


class _IndexScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        index_q, index_w, index_k, low, high = (x.contiguous() for x in args)
        queries, heads, dim = index_q.shape
        rows = len(index_k)
        out = torch.empty(queries, rows, dtype=torch.float32, device=index_q.device)
        blocks = {"BD": power_of_two(dim), "BQ": QUERIES, "BS": ROWS, "DOT": dot_type(index_k), **WARPS}
        if queries and rows:
            grid = (triton.cdiv(queries, QUERIES), triton.cdiv(rows, ROWS))
            _scores[grid](index_q, index_w, index_k, low, high, out, queries, rows, H=heads, D=dim, **blocks)
        ctx.save_for_backward(index_q, index_w, index_k, low, high)
        ctx.blocks = blocks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        queries, heads, dim = inputs[0].shape
        rows = len(inputs[2])
        grads = [torch.zeros_like(x) for x in inputs[:3]]
        if queries and rows:
            given = *inputs, grad.contiguous()
            blocks = {"H": heads, "D": dim, **ctx.blocks}
            _grad_of_queries[(triton.cdiv(queries, QUERIES), heads)](*given, *grads[:2], queries, rows, **blocks)
            _grad_of_keys[(triton.cdiv(rows, ROWS),)](*given, grads[2], queries, rows, **blocks)
        return *grads, None, None


def index_scores(index_q: Tensor, index_w: Tensor, index_k: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """I float32 [Q, S] of index_q [Q, Hi, di], index_w [Q, Hi] and index_k [S, di]; -inf where a row is not seen.

    Query t sees the rows low[t] <= s < high[t] (int [Q]): its own sequence up to itself, wherever that lies.
    """
    scores: Tensor = _IndexScores.apply(index_q, index_w, index_k, low, high)
    return scores
