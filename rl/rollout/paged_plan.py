"""Who answers the queries of one step over the paged cache (``rl.rollout.paged``): single tokens, and buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from rl.rollout.paged_choice import Singles

ALONE = 48  # new tokens of one request up to which each is answered by itself, where that is possible
MAX_QUERIES = 256  # new tokens of one request that are answered together; longer prefills are chunked
MAX_SCORES = 1 << 24  # floats of one [R, H, Tq, S] score tensor; larger buckets are split
SHORT = 10  # contexts up to 2^SHORT rows share buckets; longer ones only with those of the same power of two


@dataclass
class Bucket:
    """R requests with up to Tq new tokens each, padded.

    ``token`` long [R, Tq]: row of the query in the step's flat token list (padding repeats a real one).
    ``query_pos`` long [R, Tq]: its position in its sequence. ``blocks`` long [R, N]: cache blocks.
    ``slots`` long [R, S]: where in the cache each of the S = N * block_size rows is.
    ``context``: rows the longest member sees.
    ``future`` bool [R, Tq, S]: rows that the query may not see.
    ``take`` / ``put`` long [M]: from flattened [R * Tq] results to token rows, padding left out; None when
    the bucket is exactly the run of token rows that begins at ``start``.
    """

    token: torch.Tensor
    query_pos: torch.Tensor
    blocks: torch.Tensor
    slots: torch.Tensor
    future: torch.Tensor
    context: int
    start: int
    take: torch.Tensor | None = None
    put: torch.Tensor | None = None


@dataclass
class Plan:
    """Who answers the queries of one step."""

    singles: Singles | None
    buckets: list[Bucket]


def plan_step(
    query_start: list[int],
    seq_lens: list[int],
    block_table: torch.Tensor,
    block_size: int,
    heads: int,
    *,
    singly: bool,
    invariant: bool = False,
) -> Plan:
    """See ``plan_buckets``. ``singly``: decode steps and short prompts are answered token by token (a cache on the CPU,
    in float32). ``invariant``: all prompts are."""
    if not singly:
        return Plan(None, plan_buckets(query_start, seq_lens, block_table, block_size, heads))
    from rl.rollout.paged_choice import Singles  # its compiler is loaded where it is used

    starts, lengths = np.array(query_start), np.array(seq_lens)
    alone = (np.diff(starts) <= ALONE) | invariant
    singles = Singles(starts, lengths, alone, block_table, block_size, invariant) if alone.any() else None
    if alone.all():
        return Plan(singles, [])
    return Plan(singles, plan_buckets(query_start, seq_lens, block_table, block_size, heads, alone))


def plan_buckets(
    query_start: list[int],
    seq_lens: list[int],
    block_table: torch.Tensor,
    block_size: int,
    heads: int,
    without: np.ndarray | None = None,
) -> list[Bucket]:
    """Groups the queries of one step.

    Args:
        query_start: [R + 1] first token row of each request.
        seq_lens: [R] tokens in each request's cache after this step.
        block_table: int [R, >= blocks in use].
        heads: the larger of attention and indexer heads (bounds the score tensor).
        without: bool [R], requests that are answered elsewhere.
    """
    # by padded width and context: (request, token row, position, count)
    pieces: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {}
    for r, seq_len in enumerate(seq_lens):
        if without is not None and without[r]:
            continue
        row, count = query_start[r], query_start[r + 1] - query_start[r]
        position = seq_len - count
        while count > 0:
            n = min(count, MAX_QUERIES, max(1, MAX_SCORES // (heads * seq_len)))
            width = 1 if n == 1 else 1 << (n - 1).bit_length()
            rows = max(SHORT, (position + n - 1).bit_length())
            pieces.setdefault((width, rows), []).append((r, row, position, n))
            row, position, count = row + n, position + n, count - n
    buckets = []
    for (width, _), members in sorted(pieces.items()):
        if width > 1:
            members = sorted(members, key=lambda p: p[2] + p[3])
        while members:
            size = len(members)
            while size > 1 and size * width * heads * max(p[2] + p[3] for p in members[:size]) > MAX_SCORES:
                size = (size + 1) // 2
            buckets.append(_bucket(members[:size], block_table, block_size))
            members = members[size:]
    return buckets


def _bucket(members: list[tuple[int, int, int, int]], block_table: torch.Tensor, block_size: int) -> Bucket:
    width = max(n for *_, n in members)
    context = max(position + n for _, _, position, n in members)
    blocks_needed = -(-context // block_size)
    request = torch.tensor([r for r, *_ in members])
    row = torch.tensor([p[1] for p in members])[:, None]
    position = torch.tensor([p[2] for p in members])[:, None]
    count = torch.tensor([p[3] for p in members])[:, None]
    offset = torch.minimum(torch.arange(width)[None], count - 1)
    token, query_pos = row + offset, position + offset
    blocks = block_table[request, :blocks_needed].long()
    used = -(-(position + count) // block_size)
    # Entries after a request's own blocks are left over from other requests: point them at a block
    # of its own, which the mask hides.
    blocks = torch.where(torch.arange(blocks_needed)[None] < used, blocks, blocks[:, :1])
    slots = (blocks[:, :, None] * block_size + torch.arange(block_size)).flatten(1)
    future = torch.arange(blocks_needed * block_size)[None, None] > query_pos[:, :, None]
    full = torch.arange(width)[None] < count
    flat = token.flatten()
    start = int(flat[0])
    if bool(full.all()) and torch.equal(flat, torch.arange(start, start + len(flat))):
        return Bucket(token, query_pos, blocks, slots, future, context, start)
    take = full.flatten().nonzero().squeeze(1)
    return Bucket(token, query_pos, blocks, slots, future, context, start, take, flat[take])
