"""Which cached rows each query may see: the attention context of one forward pass.

The model computes queries and one cache row per token (latent c_s | rope key | indexer key) and asks
the context for the latent attention output. The learner's PackedContext holds whole sequences side by
side; an engine brings its own context over a paged cache, built on the same functions of ``sparse``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rl.policy.replay import IndexerTap
from rl.policy.sparse import (
    NEG_INF,
    attention_target,
    gathered_attention,
    index_scores,
    indexer_loss,
    indices_to_mask,
    mask_to_indices,
    row_attention,
    select_topk,
)

AttentionMode = Literal["dense", "sparse"]
BlockKind = Literal["causal", "masked", "gathered"]


@dataclass(frozen=True)
class AttentionSpec:
    """Constants of one attention layer: softmax scale, index_topk, widths of the cache row's parts."""

    scale: float
    topk: int
    latent_dim: int
    rope_dim: int
    index_dim: int

    @property
    def row_dim(self) -> int:
        return self.latent_dim + self.rope_dim + self.index_dim


@dataclass
class MLAQuery:
    """Absorbed queries: q_abs [T, H, C], q_rope [T, H, R], index_q [T, Hi, di], index_w [T, Hi].

    index_w carries Hi^-0.5 * di^-0.5.
    """

    q_abs: Tensor
    q_rope: Tensor
    index_q: Tensor
    index_w: Tensor


@dataclass
class MLARow:
    """One cache row per token: latent [T, C], k_rope [T, R], index_k [T, di]."""

    latent: Tensor
    k_rope: Tensor
    index_k: Tensor


class AttentionContext(Protocol):
    """One per forward pass. ``positions`` int64 [T]: position of each token in its own sequence."""

    positions: Tensor

    def attend(self, layer: int, q: MLAQuery, kv: MLARow, spec: AttentionSpec, tap: IndexerTap | None = None) -> Tensor:
        """Latent output [T, H, C]. ``tap`` is given only when the indexer is replayed or recorded."""
        ...


class Block(NamedTuple):
    """Queries [begin, end) of sequence ``seq``, positions inside the sequence, and how they attend."""

    seq: int
    begin: int
    end: int
    kind: BlockKind


class PackedContext:
    """Several whole sequences concatenated; causal inside each, blind across them.

    ``cu_seqlens`` [0, n1, n1+n2, ...]. ``mode`` "dense" attends to every earlier token, "sparse" to the
    indexer's choice. Sequences longer than ``gather_from`` take the O(L*k) gather path in chunks of
    ``chunk`` queries (recomputed in the backward pass); shorter ones a masked pass, faster there.
    """

    def __init__(
        self,
        cu_seqlens: Sequence[int] | Tensor,
        *,
        mode: AttentionMode = "sparse",
        device: torch.device | str = "cpu",
        gather_from: int = 4096,
        chunk: int = 192,
    ) -> None:
        bounds = [int(b) for b in (cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else cu_seqlens)]
        if len(bounds) < 2 or bounds[0] != 0 or any(b <= a for a, b in pairwise(bounds)):
            raise ValueError(
                f"cu_seqlens is {bounds[:8]}...; expected strictly ascending bounds from 0, e.g. [0, 5, 9]"
            )
        if mode not in ("dense", "sparse"):
            raise ValueError(f"mode is {mode!r}; expected 'dense' or 'sparse'")
        self.bounds = bounds
        self.mode: AttentionMode = mode
        self.lengths = [b - a for a, b in pairwise(bounds)]
        self.gather_from = gather_from
        self.chunk = chunk
        self._plans: dict[tuple[int, bool], list[Block]] = {}
        self._futures: dict[tuple[int, int], Tensor] = {}
        self.positions = torch.cat([torch.arange(n) for n in self.lengths]).to(device)

    def attend(self, layer: int, q: MLAQuery, kv: MLARow, spec: AttentionSpec, tap: IndexerTap | None = None) -> Tensor:
        query = torch.cat([q.q_abs, q.q_rope], dim=-1)  # [T, H, C+R]
        rows = torch.cat([kv.latent, kv.k_rope], dim=-1)  # [T, C+R]
        blocks = self._blocks(spec.topk, tap is not None)
        # Split once for all sequences: backward is then one concatenation, not a sum of padded slices.
        rows_of = rows.split(self.lengths)
        outs, choices = [], []
        for block, part in zip(blocks, query.split([b.end - b.begin for b in blocks]), strict=True):
            seen = rows_of[block.seq]
            if block.end < len(seen):
                seen = seen[: block.end]
            if block.kind == "causal":
                out = row_attention(part.transpose(0, 1)[None], seen[None], None, spec.scale)
                outs.append(out[0].transpose(0, 1))
                continue
            if tap is None:
                chosen = self._choose(q, kv, block, spec.topk)
            else:
                chosen = self._tapped_choice(part, seen, q, kv, block, spec, tap)
                choices.append(chosen)
            if block.kind == "masked":
                out = row_attention(part.transpose(0, 1)[None], seen[None], chosen[None], spec.scale)
                outs.append(out[0].transpose(0, 1))
            else:
                outs.append(_recomputed(gathered_attention, part, seen, mask_to_indices(chosen, spec.topk), spec.scale))
        if tap is not None and tap.record is not None and tap.record.want_indexer:
            if self.mode == "dense":
                raise ValueError("want_indexer=True needs mode='sparse': a dense context makes no choice")
            tap.record.indexer_rows.append(torch.cat([mask_to_indices(c, spec.topk) for c in choices]))
        return torch.cat(outs)[..., : spec.latent_dim]

    def _blocks(self, topk: int, tapped: bool) -> list[Block]:
        """Queries in consecutive blocks, the same for all layers.

        A query that sees at most topk rows chooses all of them: plain causal attention, no index scores,
        unless the indexer is replayed or recorded (``tapped``).
        """
        key = topk, tapped
        if key in self._plans:
            return self._plans[key]
        blocks = []
        for seq, n in enumerate(self.lengths):
            long: BlockKind = "gathered" if n > self.gather_from and self.mode == "sparse" else "masked"
            head = 0 if tapped else n if self.mode == "dense" else min(n, topk)
            if head:
                blocks.append(Block(seq, 0, head, "causal"))
            blocks += [Block(seq, a, min(a + self.chunk, n), long) for a in range(head, n, self.chunk)]
        self._plans[key] = blocks
        return blocks

    def _future(self, block: Block) -> Tensor:
        """bool [block, block.end], True where a row lies after the query; shared by all layers."""
        key = block.begin, block.end
        if key not in self._futures:
            ones = torch.ones(block.end - block.begin, block.end, dtype=torch.bool, device=self.positions.device)
            self._futures[key] = ones.triu_(block.begin + 1)
        return self._futures[key]

    def _scores(self, q: MLAQuery, kv: MLARow, block: Block) -> Tensor:
        start = self.bounds[block.seq]
        asks = slice(start + block.begin, start + block.end)
        return index_scores(q.index_q[asks], q.index_w[asks], kv.index_k[start : start + block.end])

    @torch.no_grad()
    def _choose(self, q: MLAQuery, kv: MLARow, block: Block, topk: int) -> Tensor:
        """bool [block, block.end]: the rows chosen by the block's queries."""
        return select_topk(self._scores(q, kv, block).masked_fill_(self._future(block), NEG_INF), topk)

    def _tapped_choice(
        self,
        part: Tensor,
        seen: Tensor,
        q: MLAQuery,
        kv: MLARow,
        block: Block,
        spec: AttentionSpec,
        tap: IndexerTap,
    ) -> Tensor:
        """The choice with replayed rows forced; adds the block's L_I to the record when asked."""
        chosen = causal = ~self._future(block)
        start = self.bounds[block.seq]
        asks = slice(start + block.begin, start + block.end)
        if self.mode == "sparse":
            chosen = self._choose(q, kv, block, spec.topk)
            if tap.forced is not None and tap.valid is not None:
                forced = indices_to_mask(tap.forced[asks], block.end) & causal
                chosen = torch.where(tap.valid[asks, None], forced, chosen)
        record = tap.record
        if record is not None and record.want_indexer_kl != "off":
            if record.want_indexer_kl == "sparse" and self.mode == "dense":
                raise ValueError("want_indexer_kl='sparse' needs a context with mode='sparse'; it is 'dense'")
            # "dense" (warm-up): over all causal rows; "sparse": over the chosen set (recipe 1.5).
            over = causal if record.want_indexer_kl == "dense" else chosen
            target = attention_target(part.detach().transpose(0, 1), seen.detach(), over, spec.scale)
            index_k = kv.index_k[start : start + block.end]
            record.kl_terms.append(indexer_loss(q.index_q[asks], q.index_w[asks], index_k, target, over))
            record.indexer_kl_tokens += block.end - block.begin
        return chosen


def _recomputed(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """``function(*args)``; with gradients, recomputed in the backward pass instead of kept.

    What it makes, [queries, k, C+R], is many times the size of its inputs.
    """
    if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return function(*args)
