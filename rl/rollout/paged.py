"""DSA over vLLM's paged cache: the attention context that the engine gives to the policy's own modules.

One cache row per token and layer holds the MLA latent, the shared rope key and the indexer key
(``c_s``, ``k^R_s``, ``k^I_s`` in the paper's symbols). ``PagedContext`` writes the rows of the tokens of this
step at their slots, then answers, for every query t,

    I[t, s] = sum_j w[t, j] ReLU(q^I[t, j] . k^I[s])
    S_t = TopK_s I[t, s]        u_t = Attn(h_t, {c_s : s in S_t})

with the same selection (and the same tie-break) as the learner.

Memory layout: vLLM allocates one block of floats per layer; we cut it into two planes, indexer keys first
(``rl.rollout.paged_keys``), latents after them, because the indexer reads every key of a sequence while attention reads
only the k selected latents.

On a CPU in float32, decode steps and short prompts are answered token by token (``rl.rollout.paged_choice``). Other
queries are answered in buckets: requests with a similar number of new tokens and a similar context form one padded
batch, so that a step costs a few kernels per layer whatever the batch.

A deterministic engine (``rl.policy.batch_invariance``) answers every query, of a decode step or of a prefill, as a
single one: it reads exactly its k rows, in the order of their positions. The bits of its result then depend on the
tokens before it and on nothing else: not on what is answered beside it, on how its prompt was cut, or on who filled the
cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rl.policy.index_precision import rounded
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
from rl.rollout.paged_keys import KeyPlane, key_width

if TYPE_CHECKING:
    from rl.policy.attention_context import AttentionSpec, MLAQuery, MLARow
    from rl.policy.replay import IndexerTap
    from rl.rollout.paged_choice import Picked
    from rl.rollout.paged_plan import Bucket, Plan


class LayerCache:
    """The two planes of one layer: ``keys`` of the indexer, ``rounded`` or as computed, and ``latent``
    [slots, kv_lora + rope]."""

    def __init__(self, kv_cache: torch.Tensor, index_dim: int, rounded: bool = False) -> None:
        num_blocks, heads, block_size, width = kv_cache.shape
        if heads != 1 or not kv_cache.is_contiguous():
            raise ValueError(
                f"kv cache has shape {tuple(kv_cache.shape)} and strides {kv_cache.stride()}; "
                "expected [blocks, 1, block_size, row], contiguous"
            )
        self.num_slots = slots = num_blocks * block_size
        flat = kv_cache.view(-1)
        of_key = key_width(index_dim, rounded, kv_cache.dtype)
        self.keys = KeyPlane(flat[: slots * of_key], slots, block_size, index_dim, rounded)
        self.latent = flat[slots * of_key :].view(slots, width - of_key)
        self.latent_blocks = self.latent.view(num_blocks, block_size * (width - of_key))


class PagedContext:
    """``AttentionContext`` of one engine step (see ``rl.policy.attention_context``); always sparse.

    Args:
        positions: long [T]. slots: long [<= T], where each token's row goes. caches: one per layer. Tokens without a
            slot are filling: no row of theirs is kept, and their output is 0.
    """

    def __init__(self, positions: torch.Tensor, slots: torch.Tensor, plan: Plan, caches: list[LayerCache]) -> None:
        self.positions = positions
        self.slots = slots
        self.plan = plan
        self.caches = caches
        self._key_places: torch.Tensor | None = None  # where the words of the tokens' keys go, in all layers
        # The last choice that a later layer will ask for: of the singles, and of each bucket.
        self._lent: tuple[Picked | None, list[torch.Tensor]] = None, []

    def attend(
        self, layer: int, q: MLAQuery, kv: MLARow, spec: AttentionSpec, tap: IndexerTap | None = None
    ) -> torch.Tensor:
        """Latent attention output [T, H, C]. ``tap`` can record the indexer's choice, not force it."""
        if tap is not None and (tap.forced is not None or tap.record is None or tap.record.want_indexer_kl != "off"):
            raise ValueError("a paged context records indexer choices only: replay and L_I belong to the learner")
        cache = self.caches[layer]
        tokens = len(self.slots)
        cache.latent.index_copy_(0, self.slots, torch.cat((kv.latent, kv.k_rope), dim=-1)[:tokens])
        singles, buckets = self.plan.singles, self.plan.buckets
        if spec.borrows is None:
            if self._key_places is None:
                self._key_places = cache.keys.places(self.slots)
            cache.keys.put(self.slots, self._key_places, kv.index_k[:tokens])
            picked = None if singles is None else singles.choose(cache.keys, q.index_q, q.index_w, spec.topk)
            chosen = [_choose(bucket, cache, q, spec) for bucket in buckets]
        else:
            picked, chosen = self._lent
        if spec.lends:
            self._lent = picked, chosen
        query = torch.cat((q.q_abs, q.q_rope), dim=-1)
        choice = query.new_full((len(query), spec.topk), -1, dtype=torch.long) if tap is not None else None
        answers: list[tuple[torch.Tensor, torch.Tensor | slice]] = []  # outputs, and the token rows they are of
        if singles is not None and picked is not None:
            queries = query[singles.rows] if isinstance(singles.rows, slice) else query.index_select(0, singles.rows)
            found = gathered_attention(queries, cache.latent, picked.slots, spec.scale, full=picked.full)
            answers.append((found[..., : spec.latent_dim], singles.rows))
            if choice is not None:
                choice[singles.rows, : picked.positions.shape[1]] = picked.positions
        for bucket, seen in zip(buckets, chosen, strict=True):
            found, positions = _attend_bucket(bucket, cache, query, seen, spec, want_choice=choice is not None)
            if choice is not None and positions is not None:
                choice[bucket.token.flatten()] = positions
            if bucket.put is None or bucket.take is None:
                answers.append((found, slice(bucket.start, bucket.start + len(found))))
            else:
                answers.append((found.index_select(0, bucket.take), bucket.put))
        if tap is not None and tap.record is not None and choice is not None:
            tap.record.indexer_rows.append(choice)
        return _put_together(answers, q.q_abs, tokens)


def _put_together(
    answers: list[tuple[torch.Tensor, torch.Tensor | slice]], like: torch.Tensor, tokens: int
) -> torch.Tensor:
    """One output [T, H, C] of those of the first ``tokens`` rows; the others are 0."""
    found, rows = answers[0]
    if isinstance(rows, slice) and len(found) == len(like):
        return found
    out = torch.empty_like(like)
    out[tokens:] = 0.0
    for found, rows in answers:
        if isinstance(rows, slice):
            out[rows] = found
        else:
            out.index_copy_(0, rows, found)
    return out


def _choose(bucket: Bucket, cache: LayerCache, q: MLAQuery, spec: AttentionSpec) -> torch.Tensor:
    """What the indexer lets each query see: bool [R, Tq, S], or positions long [R * Tq, k] (-1 = unused) to gather."""
    if bucket.context <= spec.topk:
        return ~bucket.future
    requests, width = bucket.token.shape
    index_q = _rows(q.index_q, bucket).view(requests, width, *q.index_q.shape[1:])
    index_w = _rows(q.index_w, bucket).view(requests, width, -1)
    if cache.keys.scales is not None:
        index_q = rounded(index_q)
    scores = index_scores(index_q, index_w, cache.keys.of_blocks(bucket.blocks).to(index_q.dtype))
    scores.masked_fill_(bucket.future, NEG_INF)
    if width == 1 or bucket.context > GATHER_FROM:
        return topk_indices(scores.flatten(0, 1), spec.topk)
    return select_topk(scores, spec.topk)


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
