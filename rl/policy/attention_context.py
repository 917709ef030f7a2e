"""Which cached rows each query may see: the attention context of one forward pass.

The model computes queries and one cache row per token (latent c_s | rope key | indexer key) and asks
the context for the latent attention output. The learner's PackedContext holds whole sequences side by
side; an engine brings its own context over a paged cache, built on the same functions of ``sparse``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from rl.policy.context_parallel import RowSplit
from rl.policy.ops.operators import TORCH, Operators
from rl.policy.prefix_tree import PrefixTree, Stretch, cut_by_pairs
from rl.policy.replay import IndexerTap
from rl.policy.sparse import (
    IndexerLoss,
    attention_target,
    indices_to_mask,
    mask_to_indices,
    row_attention,
    select_topk,
    topk_indices,
)

AttentionMode = Literal["dense", "sparse"]
BlockKind = Literal["causal", "masked", "gathered"]
CAUSAL_MASK = 1 << 22  # entries of a mask, 4 MiB: larger ones hide many rows that no query of them sees


@dataclass(frozen=True)
class AttentionSpec:
    """Constants of one attention layer: softmax scale, index_topk, widths of the cache row's parts.

    ``borrows``: the layer has no indexer and attends to what that earlier layer chose (GLM-5.2's index sharing).
    ``lends``: a later layer attends to this one's choice.
    """

    scale: float
    topk: int
    latent_dim: int
    rope_dim: int
    index_dim: int
    borrows: int | None = None
    lends: bool = False

    @property
    def row_dim(self) -> int:
        return self.latent_dim + self.rope_dim + self.index_dim


@dataclass
class MLAQuery:
    """Absorbed queries: q_abs [T, H, C], q_rope [T, H, R], index_q [T, Hi, di], index_w [T, Hi].

    index_w carries Hi^-0.5 * di^-0.5. A layer that borrows its choice has no index heads (Hi = 0).
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
    """Queries [begin, end) of sequence ``seq``, positions inside the sequence, and how they attend; ``at``: where the
    first one is among all queries."""

    seq: int
    begin: int
    end: int
    at: int
    kind: BlockKind

    def piece(self, begin: int, end: int, kind: BlockKind | None = None) -> Block:
        return Block(self.seq, begin, end, self.at + begin - self.begin, kind or self.kind)


# What a block attends to: bool [block, end] and/or int64 [block, topk]; see ``PackedContext._choice``.
Choice = tuple[Tensor | None, Tensor | None]


def cu_bounds(cu_seqlens: Sequence[int] | Tensor | PrefixTree | RowSplit) -> list[int]:
    """The bounds of packed sequences, as a list."""
    if isinstance(cu_seqlens, PrefixTree | RowSplit):
        return cu_seqlens.bounds
    return [int(b) for b in (cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else cu_seqlens)]


class PackedContext:
    """Several whole sequences concatenated; causal inside each, blind across them.

    ``cu_seqlens`` [0, n1, n1+n2, ...], or a tree of them: queries and rows are then its nodes [U], not all tokens [T],
    and the rows of each path are put together for its queries. Or a tree whose nodes are split over ranks: queries are
    this rank's rows then, and what they attend to is gathered. ``mode`` "dense" attends to every earlier token,
    "sparse" to the indexer's choice. Sequences longer than ``gather_from`` (None: what ``ops`` is best at) take the
    O(L*k) gather path; shorter ones a masked pass in chunks of ``chunk`` queries, faster there on CPUs. Index scores
    are computed in tiles and never kept.
    """

    def __init__(
        self,
        cu_seqlens: Sequence[int] | Tensor | PrefixTree | RowSplit,
        *,
        mode: AttentionMode = "sparse",
        device: torch.device | str = "cpu",
        gather_from: int | None = None,
        chunk: int = 192,
        ops: Operators = TORCH,
    ) -> None:
        bounds = cu_bounds(cu_seqlens)
        if len(bounds) < 2 or bounds[0] != 0 or any(b <= a for a, b in pairwise(bounds)):
            raise ValueError(
                f"cu_seqlens is {bounds[:8]}...; expected strictly ascending bounds from 0, e.g. [0, 5, 9]"
            )
        if mode not in ("dense", "sparse"):
            raise ValueError(f"mode is {mode!r}; expected 'dense' or 'sparse'")
        self.bounds = bounds
        self.mode: AttentionMode = mode
        self.lengths = [b - a for a, b in pairwise(bounds)]
        self.ops = ops
        self.gather_from = ops.gather_from if gather_from is None else gather_from
        self.chunk = chunk
        self._plans: dict[tuple[int, bool], list[Block]] = {}
        self._lent: dict[int, tuple[list[Block], list[Choice]]] = {}  # by the layer that chose
        self._masks: dict[Block, Tensor] = {}
        self._rows_from: PrefixTree | RowSplit | None = None
        self.asks = sum(self.lengths)
        self._counts_of: Tensor | None = None  # how many sequences a query stands for; None: one
        if isinstance(cu_seqlens, RowSplit):
            self._rows_from, self.stretches, self.asks = cu_seqlens, cu_seqlens.stretches, cu_seqlens.rows
            self.positions, self._counts_of = cu_seqlens.depth_R, cu_seqlens.count_R
        elif isinstance(cu_seqlens, PrefixTree):
            self._rows_from, self.stretches, self.asks = cu_seqlens, cu_seqlens.stretches, cu_seqlens.nodes
            self.positions, self._counts_of = cu_seqlens.depth_U, cu_seqlens.count_U
        else:
            self.stretches = [Stretch(i, 0, n, a) for i, (n, a) in enumerate(zip(self.lengths, bounds, strict=False))]
            self.positions = torch.cat([torch.arange(n, device=device) for n in self.lengths])

    def attend(self, layer: int, q: MLAQuery, kv: MLARow, spec: AttentionSpec, tap: IndexerTap | None = None) -> Tensor:
        query = torch.cat([q.q_abs, q.q_rope], dim=-1)  # [T, H, C+R]
        rows = torch.cat([kv.latent, kv.k_rope], dim=-1)  # [T, C+R]
        watched = tap is not None and tap.watches
        if self._rows_from is not None:
            rows = self._rows_from.spread(rows)
            if watched or (self.mode == "sparse" and max(self.lengths) > spec.topk):  # else nobody asks for them
                kv = replace(kv, index_k=self._rows_from.spread(kv.index_k))
        made: list[Choice] = []
        if spec.borrows is not None:
            blocks, made = self._lent[spec.borrows]
        else:
            blocks = self._blocks(spec.topk, watched)
        # Split once for all sequences: backward is then one concatenation, not a sum of padded slices.
        rows_of = rows.split(self.lengths)
        outs, choices, lent = [], [], []
        for i, (block, part) in enumerate(zip(blocks, query.split([b.end - b.begin for b in blocks]), strict=True)):
            seen = rows_of[block.seq]
            if block.end < len(seen):
                seen = seen[: block.end]
            mask = indices = None
            if made:
                mask, indices = made[i]
            elif watched or block.kind != "causal":  # a record takes L_I of causal blocks too
                mask, indices = self._choice(block, part, seen, q, kv, spec, tap)
            if spec.lends:
                lent.append((mask, indices))
            if indices is not None:
                choices.append(indices)
                if block.kind == "gathered":
                    outs.append(self.ops.gathered_attention(part, seen, indices, spec.scale, spec.latent_dim))
                    continue
            if block.kind == "causal":
                mask = self._causal_once(block) if block.begin else None
            out = row_attention(
                part.transpose(0, 1)[None], seen[None], None if mask is None else mask[None], spec.scale
            )
            outs.append(out[0].transpose(0, 1))
        if spec.lends:
            if not torch.is_grad_enabled():
                self._lent.clear()  # nothing is run again: only the last choice will be asked for
            self._lent[layer] = blocks, lent
        if tap is not None and tap.record is not None and tap.record.want_indexer:
            if self.mode == "dense":
                raise ValueError("want_indexer=True needs mode='sparse': a dense context makes no choice")
            tap.record.indexer_rows.append(torch.cat(choices))
        width = min(out.shape[-1] for out in outs)
        return torch.cat([o if o.shape[-1] == width else o[..., :width] for o in outs])[..., : spec.latent_dim]

    def _blocks(self, topk: int, watched: bool) -> list[Block]:
        """Queries in consecutive blocks, the same for all layers.

        A query that sees at most topk rows chooses all of them: plain causal attention, no index scores,
        unless the indexer is recorded or compared (``watched``).
        """
        key = topk, watched
        if key in self._plans:
            return self._plans[key]
        blocks = []
        for seq, begin, end, at in self.stretches:
            n = self.lengths[seq]
            whole = Block(seq, begin, end, at, "causal")
            head = min(end, n if self.mode == "dense" else 0 if watched else topk)
            # From the beginning of a sequence on no mask is needed.
            pieces = cut_by_pairs(begin, head, CAUSAL_MASK, self.chunk) if begin else [(0, head)] * (head > 0)
            blocks += [whole.piece(a, b) for a, b in pieces]
            head = max(begin, head)
            if n > self.gather_from and head < end:
                blocks.append(whole.piece(head, end, "gathered"))
            else:
                blocks += [whole.piece(a, min(a + self.chunk, end), "masked") for a in range(head, end, self.chunk)]
        self._plans[key] = blocks
        return blocks

    def _pieces(self, block: Block, q: MLAQuery) -> Iterator[Block]:
        """The block cut into tiles of index scores: its queries and all they see, ``ops.score_tile`` floats; where the
        heads' are made one by one, at most ``chunk`` queries."""
        fused = self.ops.fused and block.kind != "masked"
        heads = 1 if fused else q.index_q.shape[1]
        begin = block.begin
        while begin < block.end:
            size = block.end - begin if fused else self.chunk
            if block.kind != "masked":
                size = min(size, max(1, self.ops.score_tile // (heads * min(block.end, begin + size))))
            end = min(begin + size, block.end)
            yield block.piece(begin, end)
            begin = end

    def _asks(self, block: Block) -> slice:
        """Where the block's queries are among all."""
        return slice(block.at, block.at + block.end - block.begin)

    def _rows(self, block: Block) -> slice:
        """Where the rows are that they see."""
        start = self.bounds[block.seq]
        return slice(start, start + block.end)

    def _causal(self, block: Block) -> Tensor:
        """bool [block, block.end]: all rows up to the query."""
        shape = block.end - block.begin, block.end
        return torch.ones(shape, dtype=torch.bool, device=self.positions.device).tril_(block.begin)

    def _causal_once(self, block: Block) -> Tensor:
        """The same, one for all layers: each keeps its mask for the backward pass."""
        if block not in self._masks:
            self._masks[block] = self._causal(block)
        return self._masks[block]

    def _counts(self, block: Block) -> Tensor | None:
        """int64 [block]: how many sequences a query stands for; None: one."""
        return None if self._counts_of is None else self._counts_of[self._asks(block)]

    @torch.no_grad()
    def _causal_scores(self, q: MLAQuery, kv: MLARow, block: Block) -> Tensor:
        """I [block, block.end], -inf for rows after the query."""
        asks = self._asks(block)
        return self.ops.causal_scores(q.index_q[asks], q.index_w[asks], kv.index_k[self._rows(block)])

    def _choose(self, q: MLAQuery, kv: MLARow, block: Block, topk: int) -> Tensor:
        """bool [block, block.end]: the rows chosen by the block's queries."""
        return select_topk(self._causal_scores(q, kv, block), topk)

    def _choose_rows(self, q: MLAQuery, kv: MLARow, block: Block, topk: int) -> Tensor:
        """int64 [block, topk]: the same as positions; ascending, so that a replayed choice adds up alike."""
        return topk_indices(self._causal_scores(q, kv, block), topk).sort(-1).values

    def _choice(
        self,
        block: Block,
        part: Tensor,
        seen: Tensor,
        q: MLAQuery,
        kv: MLARow,
        spec: AttentionSpec,
        tap: IndexerTap | None,
    ) -> Choice:
        """The block's choice: bool [block, block.end] if it attends with a mask; int64 [block, topk] if it gathers or
        is recorded. Adds the block's L_I to the record when asked."""
        record = tap.record if tap is not None else None
        loss = None
        if record is not None and record.want_indexer_kl != "off":
            asks = self._asks(block)
            loss = IndexerLoss(q.index_q[asks], q.index_w[asks], kv.index_k[self._rows(block)], self.ops.index_scores)
        mask = indices = None
        if block.kind == "gathered" or (record is not None and record.want_indexer):
            indices = part.new_empty(block.end - block.begin, spec.topk, dtype=torch.int64)
        for piece in self._pieces(block, q):
            inside = slice(piece.begin - block.begin, piece.end - block.begin)
            if tap is None and indices is not None:
                indices[inside] = self._choose_rows(q, kv, piece, spec.topk)
                continue
            if tap is None:
                mask = self._choose(q, kv, piece, spec.topk)
                continue
            mask = self._tapped_choice(part[inside], seen[: piece.end], q, kv, piece, spec, tap, loss)
            if indices is not None:
                indices[inside] = mask_to_indices(mask, spec.topk)
            if loss is not None and record is not None:
                counts = self._counts(piece)
                record.indexer_kl_tokens += piece.end - piece.begin if counts is None else int(counts.sum())
        if loss is not None and record is not None:
            record.kl_terms.append(loss.total())
        return mask, indices

    def _tapped_choice(
        self,
        part: Tensor,
        seen: Tensor,
        q: MLAQuery,
        kv: MLARow,
        block: Block,
        spec: AttentionSpec,
        tap: IndexerTap,
        loss: IndexerLoss | None,
    ) -> Tensor:
        """The choice of one piece with replayed rows forced; adds its L_I to ``loss``."""
        chosen = causal = self._causal(block)
        asks, counts = self._asks(block), self._counts(block)
        if self.mode == "sparse":
            if tap.forced is not None and not tap.watches and bool(tap.valid[asks].all()):  # type: ignore[index]
                return indices_to_mask(tap.forced[asks], block.end) & causal  # no index scores at all
            chosen = self._choose(q, kv, block, spec.topk)
            if tap.forced is not None and tap.valid is not None:
                valid = tap.valid[asks]
                forced = indices_to_mask(tap.forced[asks], block.end) & causal
                cut = valid & (torch.arange(block.begin, block.end, device=valid.device) >= spec.topk)
                common = (forced[cut] & chosen[cut]).sum(-1) / forced[cut].sum(-1).clamp(min=1)
                tap.overlaps.append(common if counts is None else common.repeat_interleave(counts[cut]))
                if tap.force:
                    chosen = torch.where(valid[:, None], forced, chosen)
        record = tap.record
        if record is not None and loss is not None:
            if record.want_indexer_kl == "sparse" and self.mode == "dense":
                raise ValueError("want_indexer_kl='sparse' needs a context with mode='sparse'; it is 'dense'")
            # "dense" (warm-up): over all causal rows; "sparse": over the chosen set (V3.2 sec. 2.1.1).
            over = causal if record.want_indexer_kl == "dense" else chosen
            target = attention_target(part.detach().transpose(0, 1), seen.detach(), over, spec.scale)
            loss.add(target, over, counts)
        return chosen
