"""What single tokens attend to over the paged cache, on a CPU in float32: loops compiled by numba (a part of vLLM).

    S_t = the k best of I[t, s] = sum_j w[t, j] ReLU(q^I[t, j] . k^I[s]), score descending, then position ascending

Tokens of a decode step and of short prompts have little to compute and much to copy: torch's operators gather every key
of every request, pad them to the longest one and write each intermediate result to memory. Here keys are read where
they lie, eight at once. The bits of a token's choice depend on the tokens before it alone, whatever else is computed in
the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
import torch.nn.functional as F
from llvmlite.binding import ffi

# vLLM, when an engine starts, reads the __dict__ of every object of every loaded module; this one would look it up as a
# function of the LLVM library, and a second engine of the process would not start.
ffi.lib._fntab["__dict__"] = {}

# Eight sums that are written out one by one become one vector.
numba.config.SLP_VECTORIZE = 1

HEADS = 4  # heads that read a key at once
NEAR = 32  # tiles that are still in a core's first cache when the next heads read them
SHORT = 10  # contexts up to 2^SHORT rows are padded to each other; longer ones only to those of the same power of two
MAX_SCORES = 1 << 20  # floats of one matrix of scores: 4 MiB, larger ones fall out of the CPU's caches


class Picked(NamedTuple):
    """``slots`` long [M, n]: where in the cache the chosen rows are; ``positions`` long [M, n]: in their sequence. Both
    by ascending position, then -1. ``full``: no -1 anywhere (False where that would depend on other requests)."""

    slots: torch.Tensor
    positions: torch.Tensor
    full: bool


class Singles:
    """M tokens of a step that are answered one by one.

    Args:
        query_start: [R + 1] first token row of each request. seq_lens: [R] tokens in each request's cache after this
            step. chosen: bool [R], whose tokens they are.
        block_table: int [R, >= blocks in use], on the CPU.
        invariant: no other token may matter.
    """

    def __init__(
        self,
        query_start: np.ndarray,
        seq_lens: np.ndarray,
        chosen: np.ndarray,
        block_table: torch.Tensor,
        block_size: int,
        invariant: bool = False,
    ) -> None:
        counts = np.diff(query_start)
        request = np.repeat(np.arange(len(counts)), counts)
        row = np.arange(query_start[-1])
        self.rows: torch.Tensor | slice = slice(0, len(row))  # of the step's tokens, those that are answered here
        if not chosen.all():
            row = row[chosen[request]]
            request = request[row]
            self.rows = torch.from_numpy(row)
        self._row, self._request = row, request
        self._seen = seq_lens[request] - (query_start[request + 1] - row) + 1  # rows that each token sees
        self._blocks, self._size, self._invariant = block_table.numpy(), block_size, invariant
        self._longest, self._shortest = int(self._seen.max()), int(self._seen.min())
        self._parts: dict[int, list[tuple[np.ndarray, int]]] = {}  # by k

    def __len__(self) -> int:
        return len(self._row)

    def choose(self, index: torch.Tensor, index_q: torch.Tensor, index_w: torch.Tensor, k: int) -> Picked:
        """The choice of each token among the keys ``index`` [tiles, di, 8], given index_q [T, Hi, di] and
        index_w [T, Hi] of all T tokens of the step."""
        slots = np.empty((len(self), k if self._invariant else min(k, self._longest)), np.int64)
        positions = np.zeros(slots.shape, np.int64)  # scores that are no numbers choose nothing: then no garbage
        if self._shortest <= k:
            _take_all(slots, positions, k, self._request, self._seen, self._blocks, self._size)
        if self._longest > k:
            if missing := -index_w.shape[1] % HEADS:
                index_q, index_w = F.pad(index_q, (0, 0, 0, missing)), F.pad(index_w, (0, missing))
            q, w, keys = index_q.contiguous().numpy(), index_w.contiguous().numpy(), index.numpy()
            for part, rows in self._scored_together(k):
                scores = np.empty((len(part), rows), np.float32)
                place = part, self._request, self._seen, self._blocks, self._size
                _score(scores, q, w, keys, self._row, *place)
                kth = np.partition(scores, rows - k, axis=1)[:, rows - k]
                _take_best(slots, positions, scores, kth, *place)
        full = self._shortest >= k and not self._invariant
        return Picked(torch.from_numpy(slots), torch.from_numpy(positions), full)

    def _scored_together(self, k: int) -> list[tuple[np.ndarray, int]]:
        """The numbers of the tokens that see more than k rows, those with contexts of similar lengths together, and the
        most rows that one of them sees, rounded up to whole tiles."""
        if k not in self._parts:
            more = np.flatnonzero(self._seen > k)
            lengths = self._seen[more]
            power = np.maximum(SHORT, np.ceil(np.log2(lengths)).astype(np.int64))
            parts = []
            for p in np.unique(power):
                similar = more[power == p]
                pieces = min(len(similar), -(-len(similar) * (1 << int(p)) // MAX_SCORES))
                parts += [(part, -(-int(self._seen[part].max()) // 8) * 8) for part in np.array_split(similar, pieces)]
            self._parts[k] = parts
        return self._parts[k]


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiled at the first call, and kept on disk where there is a place for it."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            made: Callable[..., Any] = numba.njit(function, cache=True, nogil=True, error_model="numpy", **options)
        except RuntimeError:  # no folder that may be written
            made = numba.njit(function, nogil=True, error_model="numpy", **options)
        return made

    return compiled


@_compiled(inline="always")
def _times(x: Any, key: Any, d: int, a: Any) -> Any:
    """a + x * key[d], of the eight keys of a tile."""
    return (
        a[0] + x * key[d, 0], a[1] + x * key[d, 1], a[2] + x * key[d, 2], a[3] + x * key[d, 3],
        a[4] + x * key[d, 4], a[5] + x * key[d, 5], a[6] + x * key[d, 6], a[7] + x * key[d, 7],
    )  # fmt: skip


@_compiled(inline="always")
def _add(scores: Any, i: int, s: int, w: Any, a: Any) -> None:
    """scores[i, s:] += w ReLU(a), of eight keys."""
    zero = np.float32(0)
    scores[i, s] += w * max(a[0], zero)
    scores[i, s + 1] += w * max(a[1], zero)
    scores[i, s + 2] += w * max(a[2], zero)
    scores[i, s + 3] += w * max(a[3], zero)
    scores[i, s + 4] += w * max(a[4], zero)
    scores[i, s + 5] += w * max(a[5], zero)
    scores[i, s + 6] += w * max(a[6], zero)
    scores[i, s + 7] += w * max(a[7], zero)


@_compiled(fastmath={"contract", "nsz"})
def _score(
    scores: Any, q: Any, w: Any, keys: Any, row: Any, part: Any, request: Any, seen: Any, blocks: Any, size: int
) -> None:
    """scores [P, S] of the tokens ``part``; -inf for rows they do not see. Four heads read a key at once."""
    heads, dim = q.shape[1:]
    zero, hidden = np.float32(0), np.float32(-np.inf)
    for i in range(len(part)):
        m = part[i]
        t, own, n = row[m], blocks[request[m]], seen[m]
        scores[i, :] = zero
        tiles = (n + 7) // 8
        for begin in range(0, tiles, NEAR):
            for h in range(0, heads, 4):
                q0, q1, q2, q3 = q[t, h], q[t, h + 1], q[t, h + 2], q[t, h + 3]
                w0, w1, w2, w3 = w[t, h], w[t, h + 1], w[t, h + 2], w[t, h + 3]
                for tile in range(begin, min(begin + NEAR, tiles)):
                    s = tile * 8
                    key = keys[(own[s // size] * size + s % size) // 8]
                    a0 = (zero, zero, zero, zero, zero, zero, zero, zero)
                    a1, a2, a3 = a0, a0, a0
                    for d in range(dim):
                        a0 = _times(q0[d], key, d, a0)
                        a1 = _times(q1[d], key, d, a1)
                        a2 = _times(q2[d], key, d, a2)
                        a3 = _times(q3[d], key, d, a3)
                    _add(scores, i, s, w0, a0)
                    _add(scores, i, s, w1, a1)
                    _add(scores, i, s, w2, a2)
                    _add(scores, i, s, w3, a3)
        scores[i, n:] = hidden


@_compiled()
def _take_best(
    slots: Any, positions: Any, scores: Any, kth: Any, part: Any, request: Any, seen: Any, blocks: Any, size: int
) -> None:
    """The k rows [M, k] of the tokens ``part``: all above the k-th best score, then the first that have it."""
    k = slots.shape[1]
    for i in range(len(part)):
        m = part[i]
        own, n, line = blocks[request[m]], seen[m], kth[i]
        room = k
        for s in range(n):
            room -= scores[i, s] > line
        taken = 0
        for s in range(n):
            tied = scores[i, s] == line and room > 0
            room -= tied
            positions[m, taken] = s
            taken += scores[i, s] > line or tied
            if taken == k:
                break
        for j in range(k):
            s = positions[m, j]
            slots[m, j] = own[s // size] * size + s % size


@_compiled()
def _take_all(slots: Any, positions: Any, k: int, request: Any, seen: Any, blocks: Any, size: int) -> None:
    """All rows that they see, of the tokens that see at most k."""
    for m in range(len(seen)):
        n = seen[m]
        if n > k:
            continue
        for s in range(n):
            positions[m, s] = s
            slots[m, s] = blocks[request[m], s // size] * size + s % size
        positions[m, n:] = -1
        slots[m, n:] = -1
