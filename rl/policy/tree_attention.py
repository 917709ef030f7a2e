"""Attention of a prefix tree inside models of transformers: each distinct token goes through the model once.

    layer(nodes [1, U]):   queries of a sequence's own nodes  x  keys and values of the path that leads to them
                           (of all ranks, where the nodes are split over some: rl.policy.context_parallel)

transformers asks a registered function for the attention of every layer. Ours puts the keys and values of each path
together, for sequences of similar size at once, and attends as transformers' own ``sdpa`` does; everything else of a
model, its router included, sees tokens only. Paths together may be many times as long as the tree is large, so what was
put together is not kept: the backward pass does it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rl.policy.context_parallel import RowSplit
from rl.policy.prefix_tree import PrefixTree, Stretch, cut_by_pairs

NAME = "prefix_tree"
PAIRS = 4096  # (query, key) pairs that cost about as much as one more call
MOST_PAIRS = 1 << 25  # of one call: its mask, one for each head that shares keys, stays small beside a layer
LEAST = 64  # queries of a piece, however long their path is


@dataclass
class _Bucket:
    """Stretches attended at once: ``asks`` int64 [B, Q], the nodes that ask; ``seen`` int64 [B, K], where the keys of
    their paths are; both padded. ``place`` int64 [B, Q]: the last of its keys that a node sees; ``real`` bool [B,
    Q]."""

    asks: Tensor
    seen: Tensor
    place: Tensor
    real: Tensor

    @property
    def mask(self) -> Tensor:
        """bool [B, 1, Q, K]; made when it is needed: those of all buckets would be larger than all else."""
        rows = torch.arange(self.seen.shape[1], device=self.seen.device)
        return (rows <= self.place[..., None])[:, None]


class TreeAttention:
    """What the attention of one pass over ``tree`` needs, the same for all layers."""

    def __init__(self, tree: PrefixTree | RowSplit) -> None:
        self.split = tree if isinstance(tree, RowSplit) else None
        bounds = tree.bounds
        stretches = [
            Stretch(s.seq, a, b, s.at + a - s.begin)
            for s in tree.stretches
            for a, b in cut_by_pairs(s.begin, s.end, MOST_PAIRS, LEAST)
        ]
        place_T = tree.node_T if isinstance(tree, PrefixTree) else tree.place_T  # of the keys of a row
        device = place_T.device
        self.buckets: list[_Bucket] = []
        for members in area_buckets([(s.end - s.begin, s.end) for s in stretches]):
            chosen = [stretches[m] for m in members]
            first, begin, end, start = (
                torch.tensor(values, device=device)[:, None]
                for values in (
                    [s.at for s in chosen], [s.begin for s in chosen], [s.end for s in chosen],
                    [bounds[s.seq] for s in chosen],
                )
            )  # fmt: skip
            own = end - begin
            at = torch.arange(int(own.max()), device=device)
            real = at < own
            at = torch.where(real, at, 0)  # padding repeats the first query
            rows = torch.arange(int(end.max()), device=device)
            seen = place_T[start + torch.where(rows < end, rows, 0)]
            self.buckets.append(_Bucket(first + at, seen, begin + at, real))
        answered = torch.cat([b.asks[b.real] for b in self.buckets])
        self.order = answered.argsort()  # answers of all buckets, in the order of the nodes

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float) -> Tensor:
        """[1, U, H, D] of queries [1, H, U, D], keys and values [1, H', U, D]; R in the place of U where the nodes are
        split over ranks."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [U, heads, D]
        if self.split is not None:
            width = k.shape[-1]
            k, v = self.split.gather(torch.cat((k, v), dim=-1)).split([width, v.shape[-1]], dim=-1)
        outs = []
        for bucket in self.buckets:
            run = partial(_attend_bucket, bucket, scaling, dropout)
            if torch.is_grad_enabled():
                outs.append(checkpoint(run, q, k, v, use_reentrant=False, preserve_rng_state=False))
            else:
                outs.append(run(q, k, v))
        return torch.cat(outs)[self.order][None]


def _attend_bucket(
    bucket: _Bucket, scaling: float | None, dropout: float, queries: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """[N, H, D] of the N nodes that ask; queries [U, H, D], keys and values [V, H', D], those of all nodes.

    The heads that share keys ask as one head with as many more queries: copies of the keys for each of them, which
    masked attention wants otherwise, take longer than the attention.
    """
    q, k, v = (
        _gather(x, at).transpose(1, 2) for x, at in ((queries, bucket.asks), (keys, bucket.seen), (values, bucket.seen))
    )
    batch, heads, asks, width = q.shape
    shared = k.shape[1]
    q = q.reshape(batch, shared, -1, width)
    mask = bucket.mask.repeat(1, 1, heads // shared, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return out.reshape(batch, heads, asks, -1).transpose(1, 2)[bucket.real]


def _gather(x: Tensor, at: Tensor) -> Tensor:
    """[B, N, heads, D] of x [U, heads, D] at int64 [B, N]. A row is wanted often; as an embedding it is the cheapest to
    take the gradient of."""
    return F.embedding(at, x.reshape(len(x), -1)).view(*at.shape, *x.shape[1:])


def area_buckets(sizes: Sequence[tuple[int, int]], waste: float = 0.5) -> list[list[int]]:
    """Indices grouped so that padding every (queries, keys) of a group to its largest wastes at most ``waste`` of the
    pairs, and what a call costs; of several, to at most MOST_PAIRS."""
    buckets: list[list[int]] = []
    area = widest = longest = 0
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i], reverse=True):
        queries, keys = sizes[i]
        if buckets:
            padded = widest * max(longest, keys) * (len(buckets[-1]) + 1)
            if padded <= MOST_PAIRS and (1 - waste) * padded - PAIRS <= area + queries * keys:
                buckets[-1].append(i)
                area, longest = area + queries * keys, max(longest, keys)
                continue
        buckets.append([i])
        area, widest, longest = queries * keys, queries, keys
    return buckets


_now: TreeAttention | None = None  # of the pass that runs


@contextmanager
def attending(config: Any, tree: TreeAttention | None) -> Iterator[None]:
    """Models with this ``config`` attend as ``tree`` says, as long as the block runs; None: nothing changes."""
    global _now
    before = _now, config._attn_implementation
    if tree is not None:
        _now, config._attn_implementation = tree, NAME
    try:
        yield
    finally:
        _now, config._attn_implementation = before


def again(config: Any) -> AbstractContextManager[None]:
    """What runs now once more: a layer that is run again in the backward pass attends as in its own pass."""
    return attending(config, _now)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if _now is None:
        raise RuntimeError(f"attention {NAME!r} runs inside of a pass over a prefix tree only")
    return _now(query, key, value, scaling, dropout), None


def can_share(model: Any) -> bool:
    """Whether a transformers model computes a tree as it computes its sequences: attention comes from the registered
    function (sdpa's otherwise), every layer sees all tokens before, and places come from ``position_ids`` alone, not
    from the mask (ALiBi) or from the whole length (some scalings of RoPE). Registers the attention."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    config = model.config
    if not model._supports_attention_backend or config._attn_implementation != "sdpa":
        return False
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope"):
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None
