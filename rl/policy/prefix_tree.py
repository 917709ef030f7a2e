"""Packed sequences as a prefix tree: tokens that several sequences begin with are computed once.

    sequence i, rows [0, n_i):  the first shared_i rows are those of sequence i - 1, the others are nodes of its own

Sequences stand in an order in which those with a common beginning are neighbours, so this says the whole tree, nodes in
depth-first order. Under causal attention nothing of a row depends on what follows it, so a node's result is that of the
row in each sequence that goes through it, and its gradient is the sum over them. A row is a token with all that is
forced on it: a node splits where recorded choices differ. Positions are depths, and a query sees the rows of its own
path, in their order: the indexer's top-k and its tie-break are those of the sequence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rl.policy.replay import Record, Replay


class Stretch(NamedTuple):
    """The queries at positions [begin, end) of sequence ``seq``, of which the first is at ``at`` among all that ask."""

    seq: int
    begin: int
    end: int
    at: int


def cut_by_pairs(begin: int, end: int, pairs: int, least: int) -> list[tuple[int, int]]:
    """Queries [begin, end), of which the last sees ``end`` rows, in pieces whose (query, row) pairs are ``pairs`` at
    most, but of no fewer than ``least`` queries."""
    step = max(least, pairs // max(1, end))
    return [(a, min(a + step, end)) for a in range(begin, end, step)]


class PrefixTree:
    """S packed sequences of T rows as U nodes.

    ``bounds``: cu_seqlens [0, n1, n1 + n2, ...]; ``shared`` [S]: how many rows a sequence begins with that are those of
    the sequence before it (0 for the first, n_i for one that is a repetition).
    ``node_T`` int64 [T]: the node of each row; ``first_U`` int64 [U]: the first row of each node; ``depth_U`` int64
    [U]: its position; ``count_U`` int64 [U]: how many sequences go through it.
    Raises ValueError when ``shared`` is longer than one of the two sequences.
    """

    def __init__(self, bounds: Sequence[int], shared: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.bounds, self.shared = list(bounds), list(shared)
        lengths = [b - a for a, b in pairwise(bounds)]
        before = [0, *lengths]
        if len(shared) != len(lengths) or any(
            not 0 <= s <= min(n, m) for s, n, m in zip(shared, lengths, before, strict=False)
        ):
            raise ValueError(
                f"shared is {list(shared)[:8]}... for sequences of {lengths[:8]}... rows; expected one number per "
                "sequence, 0 for the first, none above its rows or those of the sequence before it"
            )
        own = [n - s for n, s in zip(lengths, shared, strict=True)]
        # The node that row 0 of a sequence would be, if its own nodes were all there is before them.
        self.starts = [end - n for end, n in zip(accumulate(own), lengths, strict=True)]
        path = np.zeros(0, np.int64)
        paths, firsts, depths = [], [], []
        for begin, length, s, start in zip(bounds, lengths, shared, self.starts, strict=False):
            rows = np.arange(s, length)
            path = np.concatenate((path[:s], start + rows))
            paths.append(path)
            firsts.append(begin + rows)
            depths.append(rows)
        node = np.concatenate(paths)
        self.nodes = sum(own)
        self.node_T = torch.from_numpy(node).to(device)
        self.first_U = torch.from_numpy(np.concatenate(firsts)).to(device)
        self.depth_U = torch.from_numpy(np.concatenate(depths)).to(device)
        self.count_U = torch.from_numpy(np.bincount(node, minlength=self.nodes)).to(device)

    @property
    def stretches(self) -> list[Stretch]:
        """The nodes that each sequence has of its own, in the order of the nodes."""
        lengths = [b - a for a, b in pairwise(self.bounds)]
        each = enumerate(zip(self.shared, lengths, self.starts, strict=True))
        return [Stretch(i, shared, n, start + shared) for i, (shared, n, start) in each if shared < n]

    def spread(self, nodes_U: Tensor) -> Tensor:
        """[T, ...] of [U, ...]: to every row what its node has."""
        if nodes_U.dim() == 2 and nodes_U.requires_grad:  # its backward pass adds rows up faster than index_select's
            return F.embedding(self.node_T, nodes_U)
        return nodes_U.index_select(0, self.node_T)

    def replay(self, replay: Replay | None) -> Replay | None:
        """The choices [T] of ``replay`` for the nodes: the same for every row of one. What is found out goes to
        ``replay``, each node counted once per row."""
        if replay is None:
            return None

        def own(column_T: Tensor | None) -> Tensor | None:
            return None if column_T is None else column_T.index_select(0, self.first_U)

        return replace(
            replay,
            experts=own(replay.experts),
            valid=own(replay.valid),
            indexer=own(replay.indexer),
            counts=self.count_U,
        )

    def finish(self, record: Record | None) -> None:
        """Choices that ``record`` took of the nodes become those of the rows."""
        if record is not None:
            record.expert_rows = [self.spread(rows) for rows in record.expert_rows]
            record.indexer_rows = [self.spread(rows) for rows in record.indexer_rows]


def by_prefix(rows: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """An order of sequences uint8 [n, W] (all of one width) in which those with a common beginning are neighbours, and
    how many rows each has in common with the one before it (0 for the first)."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].tobytes())
    common = [_common(rows[i], rows[j]) for i, j in pairwise(order)]
    return order, [0, *common] if order else []


def _common(one: np.ndarray, other: np.ndarray) -> int:
    most = min(len(one), len(other))
    differs = (one[:most] != other[:most]).any(1)
    return int(differs.argmax()) if differs.any() else most
