"""Rows of one pass over ranks (context parallelism: Llama 3, Dubey et al. 2024, sec. 3.3.2, by all-gather).

    rank r holds the rows N_r of a micro-batch: embedding, projections, feed-forward, norms and head see these alone;
    before it attends, a layer gathers of all ranks what queries attend to: latents, rope and index keys, or k and v

A query sees the rows that it would see in one process, in the same order, so the indexer's top-k and its tie-break are
those of one process. The gradient of what was gathered is summed over the queries of all ranks (reduce-scatter), and
every rank's gradient of the weights is its own rows' share: their sum over the ranks is the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rl.policy.prefix_tree import PrefixTree, Stretch
from rl.policy.replay import Record


@dataclass(frozen=True)
class ContextGroup:
    """The ranks that share micro-batches: this one is ``rank`` of ``size`` in the process group ``group``."""

    rank: int
    size: int
    group: Any

    def sum(self, count: int, device: torch.device) -> int:
        """``count`` summed over the ranks."""
        import torch.distributed as dist

        total = torch.tensor(count, dtype=torch.int64, device=device)
        dist.all_reduce(total, group=self.group)
        return int(total)


class RowSplit:
    """The nodes of ``tree`` dealt out to the ranks of ``group``; flat sequences are a tree that shares nothing.

    ``shares``: of every rank the intervals [begin, end) of its nodes, ascending; each node is one rank's. Every rank
    has R rows, as many as the one with most nodes: the others repeat node 0, and nothing of that counts.

    ``node_R`` int64 [R]: the nodes of this rank's rows; ``depth_R``: their positions; ``count_R`` int64 [R]: how many
    sequences go through each, 0 for a repetition; ``place_U`` int64 [U]: where a node is in what was gathered.
    """

    def __init__(self, tree: PrefixTree, shares: Sequence[Sequence[tuple[int, int]]], context: ContextGroup) -> None:
        self.tree, self.context = tree, context
        device = tree.node_T.device
        sizes = [sum(b - a for a, b in share) for share in shares]
        if len(shares) != context.size or sum(sizes) != tree.nodes:
            raise ValueError(f"{len(shares)} shares of {sum(sizes)} nodes for {context.size} ranks and {tree.nodes}")
        self.rows = max(sizes)
        self.place_U = torch.full((tree.nodes,), -1, dtype=torch.long)
        for rank, share in enumerate(shares):
            at = rank * self.rows
            for a, b in share:
                self.place_U[a:b] = torch.arange(at, at + b - a)
                at += b - a
        if int(self.place_U.min()) < 0:
            raise ValueError("shares of rows overlap: every node must be one rank's")
        mine = shares[context.rank]
        node = torch.zeros(self.rows, dtype=torch.long)
        self.own = sizes[context.rank]
        node[: self.own] = torch.cat([torch.arange(a, b) for a, b in mine] or [node[:0]])
        self.place_U, self.node_R = self.place_U.to(device), node.to(device)
        self.depth_R = tree.depth_U[self.node_R]
        self.count_R = tree.count_U[self.node_R]
        self.count_R[self.own :] = 0
        self.place_T = self.place_U[tree.node_T]
        self.stretches = self._stretches(mine)

    @property
    def bounds(self) -> list[int]:
        return self.tree.bounds

    @property
    def speaks(self) -> bool:
        """Whether this rank notes what all of its group come to: the first does."""
        return self.context.rank == 0

    def of_rows(self, column_T: Tensor) -> Tensor:
        """What this rank's rows [R, ...] have of a column [T, ...] that is the same for all rows of a node."""
        return column_T.index_select(0, self.tree.first_U[self.node_R].to(column_T.device))

    def gather(self, own_R: Tensor) -> Tensor:
        """[ranks R, ...] of every rank's [R, ...]: a node's is at ``place_U``."""
        return _gather(own_R, self.context)

    def spread(self, own_R: Tensor) -> Tensor:
        """[T, D] of every rank's [R, D]: to every row of every sequence what its node has."""
        if not own_R[0].numel():
            return own_R.new_empty(len(self.place_T), 0)
        gathered = self.gather(own_R)
        if gathered.requires_grad:  # see PrefixTree.spread
            return F.embedding(self.place_T, gathered)
        return gathered.index_select(0, self.place_T)

    def finish(self, record: Record | None) -> None:
        """Choices that ``record`` took of this rank's rows become those of the rows of sequences that they stand for;
        the number of terms of L_I that of all ranks, while their sum stays this one's."""
        if record is None:
            return
        record.expert_rows = [rows.repeat_interleave(self.count_R, 0) for rows in record.expert_rows]
        record.indexer_rows = [rows.repeat_interleave(self.count_R, 0) for rows in record.indexer_rows]
        if record.want_indexer_kl != "off":
            record.indexer_kl_tokens = self.context.sum(record.indexer_kl_tokens, self.node_R.device)

    def _stretches(self, mine: Sequence[tuple[int, int]]) -> list[Stretch]:
        """The queries of this rank by sequence, in the order of its rows."""
        found, at = [], 0
        for a, b in mine:
            for whole in self.tree.stretches:
                begin, end = max(a, whole.at), min(b, whole.at + whole.end - whole.begin)
                if begin < end:
                    shift = whole.begin - whole.at
                    found.append(Stretch(whole.seq, begin + shift, end + shift, at + begin - a))
            at += b - a
        return found + [Stretch(0, 0, 1, row) for row in range(at, self.rows)]


class RowShare:
    """Of P rows of sequences, int64 [P], those that are this rank's in ``split``.

    ``mine`` int64 [M]: which of the P; ``rows`` int64 [M]: where each is among the rank's own R.
    """

    def __init__(self, split: RowSplit, rows_P: Tensor) -> None:
        self.split = split
        place_P = split.place_T[rows_P]
        rank_P = place_P.div(split.rows, rounding_mode="floor")
        order = rank_P.argsort(stable=True)
        counts = torch.bincount(rank_P, minlength=split.context.size).tolist()
        begins = [0, *accumulate(counts)]
        me = split.context.rank
        self.most = max(counts)
        self.mine = order[begins[me] : begins[me + 1]]
        self.rows = place_P[self.mine] - me * split.rows
        back = torch.empty_like(order)
        for rank, count in enumerate(counts):
            back[order[begins[rank] : begins[rank] + count]] = torch.arange(
                rank * self.most, rank * self.most + count, device=order.device
            )
        self._back = back

    def gather(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """The columns [M] of all ranks as columns [P], of the same dtypes (float32 or bool).

        Every rank goes on with all of them, and to the same loss: the gradient of a rank's own M is what it finds for
        them, not a sum over the ranks.
        """
        own = torch.stack([column.float() for column in columns], dim=1)
        padded = F.pad(own, (0, 0, 0, self.most - len(own)))
        found = _gather_scores(padded, self.split.context)[self._back].unbind(1)
        return [
            (got if column.requires_grad else got.detach()).to(column.dtype)
            for got, column in zip(found, columns, strict=True)
        ]


def check_rows(name: str, shares: bool, ranks: int) -> None:
    """Raise ValueError when the rows of a pass of the model ``name`` cannot be split over ``ranks``: ``shares`` says
    whether it computes prefix trees (``Policy.shares_prefixes``), which takes the same."""
    if ranks > 1 and not shares:
        raise ValueError(
            f"learner.context_parallel={ranks}: rows of {name} cannot be split over ranks (sliding windows, positions "
            "by the length of a pass, or attention of its own); use 1"
        )


def _all_gather(own: Tensor, context: ContextGroup) -> Tensor:
    import torch.distributed as dist

    found = own.new_empty(context.size * len(own), *own.shape[1:])
    dist.all_gather_into_tensor(found, own.contiguous(), group=context.group)
    return found


class _Gather(torch.autograd.Function):
    """Rows of all ranks; their gradients, summed in float32, back to where the rows are."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, context: ContextGroup) -> Tensor:
        ctx.context = context
        return _all_gather(own, context)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        import torch.distributed as dist

        wide = grad.to(torch.promote_types(grad.dtype, torch.float32)).contiguous()
        own = wide.new_empty(len(grad) // ctx.context.size, *grad.shape[1:])
        dist.reduce_scatter_tensor(own, wide, group=ctx.context.group)
        return own.to(grad.dtype), None


class _GatherScores(torch.autograd.Function):
    """Rows of all ranks, for a loss that every one of them computes: of its gradient each takes its own rows'."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, context: ContextGroup) -> Tensor:
        ctx.mine = slice(context.rank * len(own), (context.rank + 1) * len(own))
        return _all_gather(own, context)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.mine], None


_gather: Callable[[Tensor, ContextGroup], Tensor] = _Gather.apply
_gather_scores: Callable[[Tensor, ContextGroup], Tensor] = _GatherScores.apply
