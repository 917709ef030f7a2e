"""DSA over vLLM's paged cache: the attention context that the engine gives to the policy's own modules.

One cache row per token and layer holds the MLA latent, the shared rope key and the indexer key
(``c_s``, ``k^R_s``, ``k^I_s`` in the paper's symbols). ``PagedContext`` writes the rows of the tokens of this
step at their slots, then answers, for every query t,

    I[t, s] = sum_j w[t, j] ReLU(q^I[t, j] . k^I[s])
    S_t = TopK_s I[t, s]        u_t = Attn(h_t, {c_s : s in S_t})

with the same selection (and the same tie-break) as the learner.

Memory layout: vLLM allocates one block of floats per layer; we cut it into two planes, indexer keys first,
latents after them, because the indexer reads every key of a sequence while attention reads only the k selected
latents.

Queries are answered in buckets: requests with a similar number of new tokens and a similar context form one
padded batch (a decode step of short requests is one bucket with one query each), so that a step costs a few
kernels per layer whatever the batch.

``invariant`` (a deterministic engine, ``rl.policy.batch_invariance``): every query, of a decode step or of a prefill,
reads exactly its k rows, in the order of their positions. The bits of its result then depend on the tokens before it
and on nothing else: not on what is answered beside it, on how its prompt was cut, or on who filled the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from rl.policy.sparse import (
    GATHER_FROM,
    NEG_INF,
    ascending,
    gathered_attention,
    index_scores,
    mask_to_indices,
    masked_attention,
    select_topk,
    topk_indices,
)

if TYPE_CHECKING:
    from rl.policy.attention_context import AttentionSpec, MLAQuery, MLARow
    from rl.policy.replay import IndexerTap

MAX_QUERIES = 256  # new tokens of one request that are answered together; longer prefills are chunked
MAX_SCORES = 1 << 24  # floats of one [R, H, Tq, S] score tensor; larger buckets are split
RUN_ROWS = 1024  # consecutive rows in the cache from which their indexer keys are read in place, not gathered
SHORT = 10  # contexts up to 2^SHORT rows share buckets; longer ones only with those of the same power of two


class Run(NamedTuple):
    """Columns [begin, end) of one request's blocks. ``first``: they are blocks first, first + 1, ... of the cache, so
    their keys are a view of it; None: they are scattered and must be gathered."""

    request: int
    begin: int
    end: int
    first: int | None


@dataclass
class Bucket:
    """R requests with up to Tq new tokens each, padded.

    ``token`` long [R, Tq]: row of the query in the step's flat token list (padding repeats a real one).
    ``query_pos`` long [R, Tq]: its position in its sequence. ``blocks`` long [R, N]: cache blocks.
    ``slots`` long [R, S]: where in the cache each of the S = N * block_size rows is.
    ``context``: rows the longest member sees.
    ``future`` bool [R, Tq, S]: rows that the query may not see.
    ``runs``: for long contexts, the blocks in use, those that follow each other apart; empty: all are gathered.
    ``take`` / ``put`` long [M]: from flattened [R * Tq] results to token rows, padding left out; None when
    the bucket is exactly the run of token rows that begins at ``start``.
    """

    token: torch.Tensor
    query_pos: torch.Tensor
    blocks: torch.Tensor
    slots: torch.Tensor
    future: torch.Tensor
    context: int
    runs: list[Run]
    start: int
    take: torch.Tensor | None = None
    put: torch.Tensor | None = None


def plan_buckets(
    query_start: list[int],
    seq_lens: list[int],
    block_table: torch.Tensor,
    block_size: int,
    heads: int,
    invariant: bool = False,
) -> list[Bucket]:
    """Groups the queries of one step.

    Args:
        query_start: [R + 1] first token row of each request.
        seq_lens: [R] tokens in each request's cache after this step.
        block_table: int [R, >= blocks in use].
        heads: the larger of attention and indexer heads (bounds the score tensor).
        invariant: no keys are read in place: how blocks follow each other depends on who had them before.
    """
    # by padded width and context: (request, token row, position, count)
    pieces: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {}
    for r, seq_len in enumerate(seq_lens):
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
            buckets.append(_bucket(members[:size], block_table, block_size, in_place=not invariant))
            members = members[size:]
    return buckets


def _bucket(
    members: list[tuple[int, int, int, int]], block_table: torch.Tensor, block_size: int, in_place: bool
) -> Bucket:
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
    runs = _runs(blocks, used.flatten().tolist(), block_size) if in_place and context > 1 << SHORT else []
    full = torch.arange(width)[None] < count
    flat = token.flatten()
    start = int(flat[0])
    if bool(full.all()) and torch.equal(flat, torch.arange(start, start + len(flat))):
        return Bucket(token, query_pos, blocks, slots, future, context, runs, start)
    take = full.flatten().nonzero().squeeze(1)
    return Bucket(token, query_pos, blocks, slots, future, context, runs, start, take, flat[take])


def _runs(blocks: torch.Tensor, used: list[int], block_size: int) -> list[Run]:
    """Every request's blocks in use: long consecutive runs, and what lies between them."""
    runs: list[Run] = []
    for request, count in enumerate(used):
        row = blocks[request, :count]
        ends = [*((row.diff() != 1).nonzero().flatten() + 1).tolist(), count]
        scattered = begin = 0
        for end in ends:
            if (end - begin) * block_size >= RUN_ROWS:
                if scattered < begin:
                    runs.append(Run(request, scattered, begin, None))
                runs.append(Run(request, begin, end, int(row[begin])))
                scattered = end
            begin = end
        if scattered < count:
            runs.append(Run(request, scattered, count, None))
    return runs


class LayerCache:
    """The two planes of one layer: ``index`` [slots, d_I] and ``latent`` [slots, kv_lora + rope]."""

    def __init__(self, kv_cache: torch.Tensor, index_dim: int) -> None:
        num_blocks, heads, block_size, width = kv_cache.shape
        if heads != 1 or not kv_cache.is_contiguous():
            raise ValueError(
                f"kv cache has shape {tuple(kv_cache.shape)} and strides {kv_cache.stride()}; "
                "expected [blocks, 1, block_size, row], contiguous"
            )
        slots = num_blocks * block_size
        flat = kv_cache.view(-1)
        self.block_size = block_size
        self.num_slots = slots
        self.index = flat[: slots * index_dim].view(slots, index_dim)
        self.latent = flat[slots * index_dim :].view(slots, width - index_dim)
        self.index_blocks = self.index.view(num_blocks, block_size * index_dim)
        self.latent_blocks = self.latent.view(num_blocks, block_size * (width - index_dim))


class PagedContext:
    """``AttentionContext`` of one engine step (see ``rl.policy.attention_context``); always sparse.

    Args:
        positions: long [T]. slots: long [<= T], where each token's row goes. caches: one per layer. Tokens without a
            slot are filling: no row of theirs is kept, and their output is 0.
        invariant: see the module.
    """

    def __init__(
        self,
        positions: torch.Tensor,
        slots: torch.Tensor,
        buckets: list[Bucket],
        caches: list[LayerCache],
        invariant: bool = False,
    ) -> None:
        self.positions = positions
        self.slots = slots
        self.buckets = buckets
        self.caches = caches
        self.invariant = invariant
        self._lent: list[torch.Tensor] = []  # the last choice that a later layer will ask for, by bucket

    def attend(
        self, layer: int, q: MLAQuery, kv: MLARow, spec: AttentionSpec, tap: IndexerTap | None = None
    ) -> torch.Tensor:
        """Latent attention output [T, H, C]. ``tap`` can record the indexer's choice, not force it."""
        if tap is not None and (tap.forced is not None or tap.record is None or tap.record.want_indexer_kl != "off"):
            raise ValueError("a paged context records indexer choices only: replay and L_I belong to the learner")
        cache = self.caches[layer]
        tokens = len(self.slots)
        cache.latent.index_copy_(0, self.slots, torch.cat((kv.latent, kv.k_rope), dim=-1)[:tokens])
        if spec.borrows is None:
            cache.index.index_copy_(0, self.slots, kv.index_k[:tokens])
            choose = _choose_invariant if self.invariant else _choose
            chosen = [choose(bucket, cache, q, spec) for bucket in self.buckets]
        else:
            chosen = self._lent
        if spec.lends:
            self._lent = chosen
        query = torch.cat((q.q_abs, q.q_rope), dim=-1)
        choice = query.new_full((len(query), spec.topk), -1, dtype=torch.long) if tap is not None else None
        whole = len(self.buckets) == 1 and self.buckets[0].put is None and tokens == len(query)
        out = query if whole else torch.empty_like(q.q_abs)
        out[tokens:] = 0.0
        for bucket, seen in zip(self.buckets, chosen, strict=True):
            result, picked = _attend_bucket(bucket, cache, query, seen, spec, want_choice=choice is not None)
            if choice is not None and picked is not None:
                choice[bucket.token.flatten()] = picked
            if whole:
                out = result
            elif bucket.put is None or bucket.take is None:
                out[bucket.start : bucket.start + len(result)] = result
            else:
                out.index_copy_(0, bucket.put, result.index_select(0, bucket.take))
        if tap is not None and tap.record is not None and choice is not None:
            tap.record.indexer_rows.append(choice)
        return out


def _choose(bucket: Bucket, cache: LayerCache, q: MLAQuery, spec: AttentionSpec) -> torch.Tensor:
    """What the indexer lets each query see: bool [R, Tq, S], or positions long [R * Tq, k] (-1 = unused) to gather."""
    if bucket.context <= spec.topk:
        return ~bucket.future
    requests, width = bucket.token.shape
    index_q = _rows(q.index_q, bucket).view(requests, width, *q.index_q.shape[1:])
    index_w = _rows(q.index_w, bucket).view(requests, width, -1)
    scores = _paged_scores(bucket, cache, index_q, index_w).masked_fill_(bucket.future, NEG_INF)
    if width == 1 or bucket.context > GATHER_FROM:
        return topk_indices(scores.flatten(0, 1), spec.topk)
    return select_topk(scores, spec.topk)


def _choose_invariant(bucket: Bucket, cache: LayerCache, q: MLAQuery, spec: AttentionSpec) -> torch.Tensor:
    """``_choose`` with one way for every query: its k positions, ascending."""
    if bucket.context <= spec.topk:
        rows = torch.arange(spec.topk)
        return torch.where(rows <= bucket.query_pos.flatten()[:, None], rows, -1)
    requests, width = bucket.token.shape
    index_q = _rows(q.index_q, bucket).view(requests, width, *q.index_q.shape[1:])
    index_w = _rows(q.index_w, bucket).view(requests, width, -1)
    scores = _paged_scores(bucket, cache, index_q, index_w, invariant=True).masked_fill_(bucket.future, NEG_INF)
    return ascending(topk_indices(scores.flatten(0, 1), spec.topk))


def _attend_bucket(
    bucket: Bucket,
    cache: LayerCache,
    query: torch.Tensor,
    chosen: torch.Tensor,
    spec: AttentionSpec,
    want_choice: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Latent output [R * Tq, H, C] over what ``_choose`` gave and, if wanted, those positions, long [R * Tq, k]
    (ascending, then -1)."""
    requests, width = bucket.token.shape
    heads, dim = query.shape[1:]
    queries = _rows(query, bucket)
    if chosen.dtype != torch.bool:
        return _attend_picked(bucket, cache, queries, chosen, spec, want_choice)
    choice = mask_to_indices(chosen.flatten(0, 1), spec.topk) if want_choice else None
    rows = cache.latent_blocks.index_select(0, bucket.blocks.flatten()).view(requests, -1, dim)
    if width == 1:
        # The heads of one token share their rows, so they are the queries of one fused call.
        return masked_attention(queries.unsqueeze(1), rows, chosen, spec.scale, spec.latent_dim).squeeze(1), choice
    query_rhtd = queries.view(requests, width, heads, dim).transpose(1, 2)
    out = masked_attention(query_rhtd, rows, chosen, spec.scale, spec.latent_dim)
    return out.transpose(1, 2).reshape(requests * width, heads, -1), choice


def _paged_scores(
    bucket: Bucket, cache: LayerCache, index_q: torch.Tensor, index_w: torch.Tensor, *, invariant: bool = False
) -> torch.Tensor:
    """I [R, Tq, S] of index_q [R, Tq, Hi, di] and index_w [R, Tq, Hi]; rows that no query may see are undefined."""
    requests, queries, _, dim = index_q.shape
    if not bucket.runs:
        keys = cache.index_blocks.index_select(0, bucket.blocks.flatten()).view(requests, -1, dim)
        return index_scores(index_q, index_w, keys, invariant=invariant)
    scores = index_q.new_empty(requests, queries, bucket.slots.shape[1], dtype=index_w.dtype)
    for run in bucket.runs:
        if run.first is None:
            keys = cache.index_blocks.index_select(0, bucket.blocks[run.request, run.begin : run.end]).view(-1, dim)
        else:
            keys = cache.index_blocks[run.first : run.first + run.end - run.begin].view(-1, dim)
        rows = slice(run.begin * cache.block_size, run.end * cache.block_size)
        scores[run.request, :, rows] = index_scores(index_q[run.request], index_w[run.request], keys)
    return scores


def _attend_picked(
    bucket: Bucket,
    cache: LayerCache,
    queries: torch.Tensor,
    picked: torch.Tensor,
    spec: AttentionSpec,
    want_choice: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Each query reads only its k rows, whatever the context. ``picked`` long [R * Tq, k], -1 for unused."""
    slots = bucket.slots.gather(1, picked.clamp_min(0).view(len(bucket.slots), -1)).view(picked.shape)
    slots.masked_fill_(picked < 0, -1)
    out = gathered_attention(queries, cache.latent, slots, spec.scale)[..., : spec.latent_dim]
    return out, ascending(picked) if want_choice else None


def _rows(x: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    if bucket.put is None:
        return x[bucket.start : bucket.start + bucket.token.numel()]
    return x.index_select(0, bucket.token.flatten())
