"""Attention mass recalled: how much of what dense attention looks at the indexer's choice still contains.

    recall[t] = sum_{s in S_t} p[t,s]      p[t,:] = head-summed dense attention, L1-normalised over all s <= t

S_t is the indexer's top-k. Next to it are the bounds that make the number readable: ``oracle`` (S_t = the k largest
p[t,s]: no choice of k rows recalls more), ``recent`` (the last k rows) and ``random`` (expected over uniform choices,
exactly k / (t + 1)). Only queries that see more than k rows are measured: the others recall everything.

Where the one row is known that a query needs, also whether it is among the k rows: mass alone does not say so, and a
row that dense attention itself passes over is one that no indexer can learn to choose.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rl.policy.attention_context import AttentionContext, AttentionMode, AttentionSpec, MLAQuery, MLARow, PackedContext
from rl.policy.model import DSAForCausalLM
from rl.policy.replay import IndexerTap
from rl.policy.sparse import NEG_INF, attention_target, index_scores, select_topk

CHOICES = ("indexer", "oracle", "recent", "random")
FOUND = ("indexer found", "oracle found")


class RecallContext:
    """Attends as ``inner`` does and measures every layer on the way; ``mass[choice]`` is a list of [T] per layer.

    Entries of queries that see at most ``topk`` rows are NaN. ``topk`` None: the policy's own index_topk. ``needed``
    int64 [T], -1 for none: the position in its sequence of the row that a query needs; ``mass`` then has ``FOUND``.
    """

    def __init__(self, inner: PackedContext, topk: int | None = None, needed: Tensor | None = None) -> None:
        self.inner, self.topk, self.needed = inner, topk, needed
        self.positions = inner.positions
        self.mass: dict[str, list[Tensor]] = {key: [] for key in CHOICES + (FOUND if needed is not None else ())}
        self._index: tuple[Tensor, Tensor, Tensor]  # of the last layer with an indexer: its choice is lent to others

    @torch.no_grad()
    def attend(self, layer: int, q: MLAQuery, kv: MLARow, spec: AttentionSpec, tap: IndexerTap | None = None) -> Tensor:
        query = torch.cat([q.q_abs, q.q_rope], dim=-1)
        rows = torch.cat([kv.latent, kv.k_rope], dim=-1)
        k = self.topk or spec.topk
        if spec.borrows is None:
            self._index = q.index_q, q.index_w, kv.index_k
        index_q, index_w, index_k = self._index
        measured = {key: torch.full((len(rows),), float("nan"), device=rows.device) for key in self.mass}
        for start, length in zip(self.inner.bounds, self.inner.lengths, strict=False):
            for begin in range(min(k, length), length, self.inner.chunk):
                end = min(begin + self.inner.chunk, length)
                asks, seen = slice(start + begin, start + end), slice(start, start + end)
                scores = index_scores(index_q[asks], index_w[asks], index_k[seen])
                needed = None if self.needed is None else self.needed[asks]
                shares = recalled(query[asks].transpose(0, 1), rows[seen], scores, spec.scale, k, needed)
                for choice, values in shares.items():
                    measured[choice][asks] = values
        for choice, values in measured.items():
            self.mass[choice].append(values)
        return self.inner.attend(layer, q, kv, spec, tap)


def recalled(
    query: Tensor, rows: Tensor, scores: Tensor, scale: float, k: int, needed: Tensor | None = None
) -> dict[str, Tensor]:
    """Recall [Q] of each of ``CHOICES`` for the last Q positions of one sequence.

    query [H, Q, C+R], rows [S, C+R], index scores [Q, S]; query i is at position S - Q + i. With ``needed`` int64 [Q]
    also ``FOUND``: 1 where that row is among the k, 0 where not, NaN for queries that need none (-1).
    """
    queries, seen = scores.shape
    position = torch.arange(seen - queries, seen, device=scores.device)[:, None]
    at = torch.arange(seen, device=scores.device)
    causal = at <= position
    p = attention_target(query, rows, causal, scale)
    chosen = select_topk(scores.masked_fill(~causal, NEG_INF), k)
    zero = p.new_zeros(())
    best = p.topk(min(k, seen), dim=-1)
    found = {}
    if needed is not None:
        among = chosen.gather(1, needed.clamp_min(0)[:, None])[:, 0], (best.indices == needed[:, None]).any(-1)
        none = p.new_full((), float("nan"))
        found = {key: torch.where(needed < 0, none, hit.to(p.dtype)) for key, hit in zip(FOUND, among, strict=True)}
    return found | {
        "indexer": torch.where(chosen, p, zero).sum(-1),
        "oracle": best.values.sum(-1),
        "recent": torch.where(causal & (at > position - k), p, zero).sum(-1),
        "random": (k / (position[:, 0] + 1.0)).clamp_max(1.0).to(p.dtype),
    }


@torch.no_grad()
def hidden_and_recall(
    module: DSAForCausalLM,
    tokens_T: Tensor,
    cu_seqlens: Sequence[int],
    mode: AttentionMode,
    topk: int | None = None,
    needed_T: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Final hidden states [T, hidden] of a forward pass in ``mode``, and recall [L, T] by choice (with ``needed_T`` as
    in ``RecallContext``)."""
    context = RecallContext(PackedContext(cu_seqlens, mode=mode, device=tokens_T.device), topk, needed_T)
    as_context: AttentionContext = context
    hidden = module.hidden(tokens_T, as_context)
    return hidden, {choice: torch.stack(layers) for choice, layers in context.mass.items()}
