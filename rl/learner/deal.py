"""Which micro-batches are whose, when several ranks work on one batch, and which rows of one that several share.

Every rank plans all of them from lengths alone and collates its own. Each gets as many as the others, for a pass of a
sharded policy is made by all ranks at once, and as nearly the same FLOPs as whole micro-batches allow; where they do
not come out even, a small one is run on more than one rank, and counts on the first of them.

Ranks that share their micro-batches (``learner.context_parallel``) are one rank in this. The rows of each are cut into
consecutive pieces of as many rows, and as many pieces go to each of them, of about the same FLOPs: late rows of a long
sequence attend to more than early ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rl.learner.packing import Bin
from rl.policy.context_parallel import ContextGroup, RowSplit
from rl.policy.flops import CostModel, Work
from rl.policy.prefix_tree import PrefixTree

SLACK = 1.1  # room that bins need above the mean, to be filled with whole items
PIECES = 4  # of a micro-batch for each rank that shares it


@dataclass(frozen=True)
class Deal:
    """Rank ``rank`` of ``ranks``, each of them one process or a group of such that share micro-batches (``context``);
    ``cost`` counts the FLOPs of what it gets."""

    rank: int
    ranks: int
    cost: CostModel
    context: ContextGroup | None = None

    @property
    def sharers(self) -> int:
        """Processes that share a micro-batch, each with as much room as one alone."""
        return 1 if self.context is None else self.context.size

    def mine(self, plan: Callable[[int], list[Bin]], capacity: int) -> list[tuple[Bin, bool]]:
        """This rank's micro-batches, and whether each is there for the number's sake alone. The longest come first.

        ``plan``: micro-batches of at most so many tokens.
        """
        bins = self._even(plan, capacity)
        costs = [self._flops(b) for b in bins]
        mine = deal(costs, self.ranks)[self.rank]
        smallest = min(range(len(bins)), key=lambda i: costs[i])
        return [(bins[smallest if i is None else i], i is None) for i in mine]

    def split(self, tree: PrefixTree) -> RowSplit:
        """Which nodes of a micro-batch are whose, where several share it."""
        assert self.context is not None
        return RowSplit(tree, row_shares(tree.depth_U.cpu().numpy(), self.cost, self.context.size), self.context)

    def _even(self, plan: Callable[[int], list[Bin]], capacity: int) -> list[Bin]:
        """Bins of at most ``capacity``, smaller ones where these make their number a multiple of the ranks'."""
        bins = plan(capacity)
        wanted = -(-len(bins) // self.ranks) * self.ranks
        if len(bins) == wanted:
            return bins
        rows = [sum(end - begin for begin, end in b.rows) for b in bins]
        longest = max(end for b in bins for _, end in b.rows)
        smaller = plan(min(capacity, max(longest, int(SLACK * sum(rows) / wanted))))
        return smaller if len(bins) < len(smaller) <= wanted else bins

    def _flops(self, planned: Bin) -> float:
        work = Work()
        for begin, end in planned.rows:
            work += self.cost.at(np.arange(begin + 1, end + 1))
        return self.cost.forward(work)


def row_shares(depth_U: np.ndarray, cost: CostModel, ranks: int) -> list[list[tuple[int, int]]]:
    """Intervals of nodes [begin, end) for every rank, ascending, neighbours joined. ``depth_U``: how many rows each
    node sees before itself. Ranks get as many nodes but for ``PIECES`` at most."""
    pieces = min(len(depth_U), PIECES * ranks)
    cuts = [len(depth_U) * i // pieces for i in range(pieces + 1)]
    costs = [cost.forward(cost.at(depth_U[a:b] + 1)) for a, b in pairwise(cuts)]
    shares: list[list[tuple[int, int]]] = []
    for hand in deal(costs, ranks):
        share: list[tuple[int, int]] = []
        for i in sorted(i for i in hand if i is not None):
            begin = share.pop()[0] if share and share[-1][1] == cuts[i] else cuts[i]
            share.append((begin, cuts[i + 1]))
        shares.append(share)
    return shares


def deal(costs: list[float], ranks: int) -> list[list[int | None]]:
    """Indices of ``costs`` for every rank, all lists of one length (None: nothing of its own): the costliest first,
    each to the rank that has least so far and room for it (Graham's rule)."""
    each = -(-len(costs) // ranks)
    hands: list[list[int | None]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min((r for r in range(ranks) if len(hands[r]) < each), key=lambda r: (sums[r], r))
        hands[rank].append(i)
        sums[rank] += costs[i]
    for hand in hands:
        hand += [None] * (each - len(hand))
    return hands
