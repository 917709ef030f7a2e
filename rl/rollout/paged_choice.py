"""What single tokens attend to over the paged cache, on a CPU in float32: loops compiled by numba (a part of vLLM).

    S_t = the k best of I[t, s] = sum_j w[t, j] ReLU(q^I[t, j] . k^I[s]), score descending, then position ascending

Tokens of a decode step and of short prompts have little to compute and much to copy: torch's operators gather every key
of every request, pad them to the longest one and write each intermediate result to memory. Here keys are read where
they lie, eight at once (``rl.rollout.paged_scores``). The bits of a token's choice depend on the tokens before it
alone, whatever else is computed in the same step.

Of long contexts few rows are looked at twice: the k-th best of the tiles' best scores is a bound that k rows reach, so
the k best are among the rows that do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from rl.policy.compiled import compiled
from rl.policy.index_precision import encode
from rl.rollout.paged_codes import query_words
from rl.rollout.paged_keys import TILE
from rl.rollout.paged_scores import EIGHT, has_vnni, score

if TYPE_CHECKING:
    from rl.rollout.paged_keys import KeyPlane

SHORT = 10  # contexts up to 2^SHORT rows are padded to each other; longer ones only to those of the same power of two
MAX_SCORES = 1 << 20  # floats of one matrix of scores: 4 MiB, larger ones fall out of the CPU's caches
BOUNDED = 4  # times k tiles, from which a bound is looked for before the k-th best score is
BYTES = has_vnni()


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

    def choose(self, keys: KeyPlane, index_q: torch.Tensor, index_w: torch.Tensor, k: int) -> Picked:
        """The choice of each token among ``keys``, in tiles of 8, given index_q [T, Hi, di] and index_w [T, Hi] of all
        T tokens of the step."""
        slots = np.empty((len(self), k if self._invariant else min(k, self._longest)), np.int64)
        positions = np.zeros(slots.shape, np.int64)  # scores that are no numbers choose nothing: then no garbage
        if self._shortest <= k:
            _take_all(slots, positions, k, self._request, self._seen, self._blocks, self._size)
        if self._longest > k:
            q, w, scales = _compared(keys, index_q, index_w)
            for part, rows in self._scored_together(k):
                scores = np.empty((len(part), rows), np.float32)
                place = part, self._request, self._seen, self._blocks, self._size
                score(scores, q, w, keys.words.numpy(), scales, self._row, *place)
                _take_best(slots, positions, scores, _reached(scores, k), *place)
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


def _compared(
    keys: KeyPlane, index_q: torch.Tensor, index_w: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries [T, H, W] and weights [T, H] as ``score`` wants them, and the scales of the keys."""
    missing = -index_w.shape[1] % EIGHT
    if keys.scales is not None and BYTES:
        tokens, heads, _ = index_q.shape
        words = np.zeros((tokens, heads + missing, keys.words.shape[1] + 1), np.int32)
        weights = np.zeros((tokens, heads + missing), np.float32)
        query_words(index_q.contiguous().numpy(), index_w.numpy(), words, weights)
        return words, weights, keys.scales.numpy()
    if missing:
        index_q, index_w = F.pad(index_q, (0, 0, 0, missing)), F.pad(index_w, (0, missing))
    if keys.scales is None:
        return index_q.contiguous().numpy(), index_w.contiguous().numpy(), np.empty(0, np.float32)
    codes, scale = encode(index_q)
    codes = F.pad(codes, (0, -codes.shape[-1] % 4)).contiguous()
    return codes.numpy(), (index_w * scale.squeeze(-1)).numpy(), keys.scales.numpy()


def _reached(scores: np.ndarray, k: int) -> np.ndarray:
    """float32 [P]: scores that at least k rows of each [P, S] reach; where rows are few, that of the k-th best."""
    tiles = scores.shape[1] // TILE
    if tiles >= BOUNDED * k:
        best = np.empty((len(scores), tiles), np.float32)
        _best_of_tiles(best, scores)
        scores = best
    last = scores.shape[1] - k
    # In one layout whatever its length: for another the loops would be compiled anew, in the middle of a step.
    return np.ascontiguousarray(np.partition(scores, last, axis=1)[:, last])


@compiled()
def _best_of_tiles(best: Any, scores: Any) -> None:
    for i in range(best.shape[0]):
        for tile in range(best.shape[1]):
            most = scores[i, 8 * tile]
            for s in range(8 * tile + 1, 8 * tile + 8):
                most = max(most, scores[i, s])
            best[i, tile] = most


@compiled()
def _take_best(
    slots: Any, positions: Any, scores: Any, reached: Any, part: Any, request: Any, seen: Any, blocks: Any, size: int
) -> None:
    """The k rows [M, k] of the tokens ``part``: all above the k-th best score, then the first that have it."""
    k, rows = slots.shape[1], scores.shape[1]
    found, at = np.empty(rows + 8, np.float32), np.empty(rows + 8, np.int64)
    for i in range(len(part)):
        m = part[i]
        own, low, count = blocks[request[m]], reached[i], 0
        for begin in range(0, (seen[m] + 7) // 8 * 8, 8):
            some = 0
            for s in range(begin, begin + 8):
                some += scores[i, s] >= low
            if some:
                for s in range(begin, begin + 8):
                    found[count], at[count] = scores[i, s], s
                    count += scores[i, s] >= low
        kth, room = low, k
        if count > k:
            kth = np.partition(found[:count], count - k)[count - k]
            for c in range(count):
                room -= found[c] > kth
        taken = 0
        for c in range(count):
            tied = found[c] == kth and room > 0
            if count <= k or found[c] > kth or tied:
                room -= tied
                positions[m, taken] = at[c]
                taken += 1
                if taken == k:
                    break
        for j in range(k):
            s = positions[m, j]
            slots[m, j] = own[s // size] * size + s % size


@compiled()
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
