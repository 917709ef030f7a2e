"""Scores of sampled tokens straight from hidden states in Triton: no [N, V] tensor, forward or backward.

    z = h W^T / T over the support,   log pi(a) = z_a - L,   L = logsumexp z,   H = L - sum_j exp(z_j - L) z_j
    dz = g (1[j = a] - exp(z_j - L)) / T,   dh = dz W,   dW = dz^T h

Forward: every program sums its part of the vocabulary online, the parts are put together afterwards. Backward, as in
Cut Cross-Entropy (Wijmans et al. 2024) the logits are computed again, here column tile by column tile: a kernel makes
dz [N, tile], and two matrix products take it in. Logits are rounded to the hidden states' dtype, as the head of the
engine does. Nothing is added by atomics.
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

TOKENS, WORDS, DEPTH = 64, 128, 64  # of one tile of logits; not tuned: no GPU was at hand
PARTS = 16  # of the vocabulary, at most: programs of a few tokens fill a GPU too
TERMS = 1 << 26  # elements of dz at a time


@triton.jit
def _logits(
    hidden, weight, bits, n, v, temperature, N, V, D, BYTES,
    BN: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr, DOT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """z [BN, BV] of tokens n and words v, and which of them are in the support."""
    z = tl.zeros([BN, BV], dtype=tl.float32)
    for begin in range(0, D, BD):
        d = begin + tl.arange(0, BD)
        h = tl.load(
            hidden + n[:, None].to(tl.int64) * D + d[None, :], mask=(n[:, None] < N) & (d[None, :] < D), other=0.0
        )
        w = tl.load(
            weight + v[:, None].to(tl.int64) * D + d[None, :], mask=(v[:, None] < V) & (d[None, :] < D), other=0.0
        )
        z += tl.dot(h.to(DOT), tl.trans(w.to(DOT)), input_precision="ieee")
    kept = (n[:, None] < N) & (v[None, :] < V)
    if MASKED:
        byte = tl.load(bits + n[:, None].to(tl.int64) * BYTES + (v // 8)[None, :], mask=kept, other=0)
        kept = kept & (((byte.to(tl.int32) >> (v % 8)[None, :]) & 1) == 1)
    return z.to(hidden.dtype.element_ty).to(tl.float32) / temperature, kept


@triton.jit
def _sums(
    hidden, weight, targets, bits, best_out, total_out, mean_out, chosen_out, temperature, N, V, D, BYTES, SPAN,
    BN: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr, DOT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    n, part = tl.program_id(0) * BN + tl.arange(0, BN), tl.program_id(1)  # neighbours share their words in the cache
    target = tl.load(targets + n, mask=n < N, other=-1)
    best, total = tl.full([BN], float("-inf"), dtype=tl.float32), tl.zeros([BN], dtype=tl.float32)
    mean, chosen = tl.zeros([BN], dtype=tl.float32), tl.zeros([BN], dtype=tl.float32)
    for begin in range(part * SPAN, tl.minimum((part + 1) * SPAN, V), BV):
        v = begin + tl.arange(0, BV)
        z, kept = _logits(hidden, weight, bits, n, v, temperature, N, V, D, BYTES, BN, BV, BD, DOT, MASKED)
        chosen += tl.sum(tl.where(v[None, :] == target[:, None], z, 0.0), 1)
        higher = tl.maximum(best, tl.max(tl.where(kept, z, float("-inf")), 1))
        zero = tl.where(higher == float("-inf"), 0.0, higher)  # nothing of the support so far
        terms = tl.where(kept, tl.exp(z - zero[:, None]), 0.0)
        shrink = tl.exp(best - zero)
        total = total * shrink + tl.sum(terms, 1)
        mean = mean * shrink + tl.sum(terms * z, 1)
        best = higher
    where = part * N + n
    tl.store(best_out + where, best, mask=n < N)
    tl.store(total_out + where, total, mask=n < N)
    tl.store(mean_out + where, mean, mask=n < N)
    tl.store(chosen_out + where, chosen, mask=n < N)


@triton.jit
def _grad_of_logits(
    hidden, weight, targets, bits, norm, grad, out, temperature, N, V, D, BYTES, START, WIDTH,
    BN: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr, DOT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    n, column = tl.program_id(0) * BN + tl.arange(0, BN), tl.program_id(1) * BV + tl.arange(0, BV)
    v = START + column
    z, kept = _logits(hidden, weight, bits, n, v, temperature, N, V, D, BYTES, BN, BV, BD, DOT, MASKED)
    target = tl.load(targets + n, mask=n < N, other=-1)
    total, g = tl.load(norm + n, mask=n < N, other=0.0), tl.load(grad + n, mask=n < N, other=0.0)
    probs = tl.where(kept, tl.exp(z - total[:, None]), 0.0)
    dz = g[:, None] * (tl.where(v[None, :] == target[:, None], 1.0, 0.0) - probs) / temperature
    where = out + n[:, None].to(tl.int64) * WIDTH + column[None, :]
    tl.store(where, dz.to(out.dtype.element_ty), mask=(n[:, None] < N) & (column[None, :] < WIDTH))


class _HeadScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        hidden, weight, targets = (x.contiguous() for x in args[:3])
        temperature, bits = args[3:]
        tokens, depth = hidden.shape
        words = len(weight)
        sizes = {"N": tokens, "V": words, "D": depth, "BYTES": 0 if bits is None else bits.shape[1]}
        sizes |= {"BN": TOKENS, "BV": WORDS, "BD": min(DEPTH, power_of_two(depth)), "DOT": dot_type(hidden)}
        sizes |= {"MASKED": bits is not None, **WARPS}
        span = triton.cdiv(triton.cdiv(words, PARTS), WORDS) * WORDS
        parts = triton.cdiv(words, span)
        found = torch.empty(4, parts, tokens, dtype=torch.float32, device=hidden.device)
        if tokens:
            grid = triton.cdiv(tokens, TOKENS), parts
            _sums[grid](hidden, weight, targets, bits, *found, temperature, SPAN=span, **sizes)
        best, total, mean, chosen = found
        top = best.amax(0)
        share = (best - top).exp()
        total, mean, chosen = (total * share).sum(0), (mean * share).sum(0), chosen.sum(0)
        norm = top + total.log()
        ctx.save_for_backward(hidden, weight, targets, norm, *(() if bits is None else (bits,)))
        ctx.temperature, ctx.sizes = temperature, sizes
        greedy = chosen >= top
        entropy = norm - mean / total
        ctx.mark_non_differentiable(entropy, greedy)
        return chosen - norm, entropy, greedy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, norm, *rest = ctx.saved_tensors
        grad, bits = grad.contiguous(), rest[0] if rest else None
        tokens, words = len(hidden), len(weight)
        of_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        step = max(WORDS, TERMS // max(1, tokens) // WORDS * WORDS)
        for start in range(0, words if tokens else 0, step):
            tile = slice(start, min(start + step, words))
            width = tile.stop - start
            dz = hidden.new_empty(tokens, width)
            grid = triton.cdiv(tokens, TOKENS), triton.cdiv(width, WORDS)
            given = hidden, weight, targets, bits, norm, grad, dz
            _grad_of_logits[grid](*given, ctx.temperature, START=start, WIDTH=width, **ctx.sizes)
            if ctx.needs_input_grad[0]:
                of_hidden += dz @ weight[tile]
            if of_weight is not None:
                torch.mm(dz.T, hidden, out=of_weight[tile])
        return of_hidden.to(hidden.dtype), of_weight, None, None, None


def head_scores(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, support: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probs float32, entropies in nats float32, arg-max hits bool), each [N]; gradients through the first alone.

    hidden [N, D], weight [V, D] of a head without bias, targets int [N]. ``support`` uint8 [N, ceil(V / 8)]: bit v % 8
    of byte v // 8 says whether the sampler kept word v; it must hold the target. None: the whole vocabulary.
    """
    found: tuple[Tensor, Tensor, Tensor] = _HeadScores.apply(hidden, weight, targets, temperature, support)
    return found
