"""The paged context answers like the learner's packed one, however the tokens and blocks come."""

from __future__ import annotations

import random
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy import sparse
from rl.policy.attention_context import AttentionSpec, MLAQuery, MLARow, PackedContext
from rl.policy.index_precision import rounded
from rl.policy.replay import IndexerTap, Record
from rl.rollout import paged, paged_choice, paged_plan
from rl.rollout.paged import LayerCache, PagedContext
from rl.rollout.paged_keys import key_width
from rl.rollout.paged_plan import Plan, plan_buckets, plan_step
from rl.rollout.paged_scores import has_vnni

SPEC = AttentionSpec(scale=0.3, topk=7, latent_dim=8, rope_dim=4, index_dim=6, lends=True)
BORROWS = replace(SPEC, borrows=0, lends=False)
HEADS, INDEX_HEADS, BLOCK = 3, 2, 8


def random_rows(tokens: int, seed: int) -> tuple[MLAQuery, MLARow]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    query = MLAQuery(
        draw(tokens, HEADS, 8),
        draw(tokens, HEADS, 4),
        draw(tokens, INDEX_HEADS, 6),
        draw(tokens, INDEX_HEADS),
    )
    return query, MLARow(draw(tokens, 8), draw(tokens, 4), draw(tokens, 6))


def rows_of(q: MLAQuery, kv: MLARow, index: torch.Tensor) -> tuple[MLAQuery, MLARow]:
    return (
        MLAQuery(q.q_abs[index], q.q_rope[index], q.index_q[index], q.index_w[index]),
        MLARow(kv.latent[index], kv.k_rope[index], kv.index_k[index]),
    )


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 72), min_size=1, max_size=4),
    seed=st.integers(0, 10_000),
    gather_from=st.sampled_from([8, 1000]),
    long_context=st.booleans(),
    singly=st.booleans(),
    invariant=st.booleans(),
    eight_bits=st.booleans(),
    vnni=st.booleans(),
)
def test_any_split_into_steps_equals_packed(
    lengths: list[int],
    seed: int,
    gather_from: int,
    long_context: bool,
    singly: bool,
    invariant: bool,
    eight_bits: bool,
    vnni: bool,
) -> None:
    limits = dict(SHORT=3) if long_context else {}
    with (
        patch.object(paged, "GATHER_FROM", gather_from),
        patch.multiple(paged_plan, ALONE=3, **limits),
        patch.multiple(paged_choice, SHORT=3, MAX_SCORES=30, BOUNDED=1, BYTES=vnni and has_vnni()),
        patch.object(sparse, "KEY_ROWS", gather_from),
    ):
        check_any_split(lengths, seed, singly, singly and invariant, eight_bits)


def check_any_split(lengths: list[int], seed: int, singly: bool, invariant: bool, eight_bits: bool = False) -> None:
    q, kv = random_rows(sum(lengths), seed)
    bounds = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    record = Record(want_indexer=True)
    packed = PackedContext(bounds)
    seen = (replace(q, index_q=rounded(q.index_q)), replace(kv, index_k=rounded(kv.index_k))) if eight_bits else (q, kv)
    expected = packed.attend(0, *seen, SPEC, IndexerTap(None, None, record))
    q_next, kv_next = random_rows(sum(lengths), seed + 1)  # a second layer, which attends to the choice of the first
    expected_next = packed.attend(1, q_next, kv_next, BORROWS)

    rng = random.Random(seed)
    per_request = max(-(-n // BLOCK) for n in lengths)
    free = list(range(1, 1 + per_request * len(lengths)))
    if rng.random() < 0.7:  # else every request's blocks are one run
        rng.shuffle(free)
    table = torch.tensor([free[i * per_request : (i + 1) * per_request] for i in range(len(lengths))])
    row = SPEC.latent_dim + SPEC.rope_dim + key_width(SPEC.index_dim, eight_bits, torch.float32)
    storage = torch.randn(1 + len(free), 1, BLOCK, row)  # garbage, as a used cache holds
    caches = [LayerCache(storage.clone(), SPEC.index_dim, eight_bits) for _ in range(2)]
    done = [0] * len(lengths)
    actual, choice = torch.zeros_like(expected), torch.zeros(sum(lengths), SPEC.topk, dtype=torch.long)
    actual_next = torch.zeros_like(expected)
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        order = [i for i, n in enumerate(lengths) if done[i] < n and rng.random() < 0.8]
        counts = [rng.choice([1, rng.randint(1, lengths[i] - done[i])]) for i in order]
        if not order:
            continue
        flat = torch.cat([torch.arange(done[i], done[i] + c) + bounds[i] for i, c in zip(order, counts, strict=True)])
        positions = torch.cat([torch.arange(done[i], done[i] + c) for i, c in zip(order, counts, strict=True)])
        request = torch.repeat_interleave(torch.tensor(order), torch.tensor(counts))
        slots = table[request, positions // BLOCK] * BLOCK + positions % BLOCK
        start = [sum(counts[:j]) for j in range(len(counts) + 1)]
        seq_lens = [done[i] + c for i, c in zip(order, counts, strict=True)]
        plan = plan_step(start, seq_lens, table[order], BLOCK, HEADS, singly=singly, invariant=invariant)
        assert not (invariant and plan.buckets)
        filling = torch.zeros(3 if invariant else 0, dtype=torch.long)  # rows without a slot
        context = PagedContext(torch.cat((positions, filling)), slots, plan, caches)
        step_record, tokens = Record(want_indexer=True), torch.cat((flat, filling))
        out = context.attend(0, *rows_of(q, kv, tokens), SPEC, IndexerTap(None, None, step_record))
        out_next = context.attend(1, *rows_of(q_next, kv_next, tokens), BORROWS)
        assert not out[len(flat) :].any()
        assert not out_next[len(flat) :].any()
        actual[flat], choice[flat] = out[: len(flat)], step_record.indexer_rows[0][: len(flat)]
        actual_next[flat] = out_next[: len(flat)]
        for i, c in zip(order, counts, strict=True):
            done[i] += c
    assert torch.allclose(actual, expected, atol=2e-6)
    assert torch.allclose(actual_next, expected_next, atol=2e-6)
    assert torch.equal(choice, record.indexer_rows[0])


@pytest.mark.parametrize("singly", [False, True])
def test_ties_go_to_the_earlier_position(singly: bool) -> None:
    q, kv = random_rows(12, 0)
    q.index_q.zero_()  # every score is 0: the first topk rows win
    record = Record(want_indexer=True)
    cache = LayerCache(torch.zeros(4, 1, BLOCK, SPEC.row_dim), SPEC.index_dim)
    table = torch.tensor([[3, 1, 2]])
    positions = torch.arange(12)
    slots = table[0, positions // BLOCK] * BLOCK + positions % BLOCK
    plan = plan_step([0, 12], [12], table, BLOCK, HEADS, singly=singly)
    PagedContext(positions, slots, plan, [cache]).attend(0, q, kv, SPEC, IndexerTap(None, None, record))
    assert record.indexer_rows[0][11].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert record.indexer_rows[0][2].tolist() == [0, 1, 2, -1, -1, -1, -1]


@pytest.mark.parametrize("singly", [False, True])
def test_negative_zero_ties_with_zero_in_a_decode_step(singly: bool) -> None:
    # relu(0) times a negative weight is -0.0: it must tie with +0.0, in one-token steps as in prefills
    q, kv = random_rows(12, 0)
    q.index_q.zero_()
    q.index_w.copy_(-q.index_w.abs())
    cache = LayerCache(torch.zeros(4, 1, BLOCK, SPEC.row_dim), SPEC.index_dim)
    table = torch.tensor([[3, 1, 2]])
    positions = torch.arange(12)
    slots = table[0, positions // BLOCK] * BLOCK + positions % BLOCK
    choices = []
    for lo, hi in ((0, 11), (11, 12)):
        record = Record(want_indexer=True)
        plan = plan_step([0, hi - lo], [hi], table, BLOCK, HEADS, singly=singly)
        part = torch.arange(lo, hi)
        PagedContext(positions[lo:hi], slots[lo:hi], plan, [cache]).attend(
            0, *rows_of(q, kv, part), SPEC, IndexerTap(None, None, record)
        )
        choices.append(record.indexer_rows[0])
    assert choices[1][0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_long_queries_and_large_buckets_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_plan, "MAX_QUERIES", 8)
    monkeypatch.setattr(paged_plan, "MAX_SCORES", 8 * 3 * 24)  # one request of 24 rows at a time
    buckets = plan_buckets([0, 20, 40, 41], [20, 24, 9], torch.arange(1, 19).view(3, 6), BLOCK, HEADS)
    assert all(b.token.shape[1] <= 8 for b in buckets)
    covered = sorted(t for b in buckets for t in b.token.unique().tolist())
    assert covered == list(range(41))
    assert all(b.token.shape[0] * b.token.shape[1] * HEADS * b.context <= paged_plan.MAX_SCORES for b in buckets)


def test_recording_only() -> None:
    with pytest.raises(ValueError, match="records indexer choices only"):
        PagedContext(torch.zeros(1), torch.zeros(1), Plan(None, []), []).attend(
            0,
            *random_rows(1, 0),
            SPEC,
            IndexerTap(torch.zeros(1, 7), torch.ones(1, dtype=torch.bool), Record()),
        )


@pytest.mark.parametrize("topk", [7, 100])
def test_long_contexts_share_no_bucket_with_short_ones(topk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_plan, "SHORT", 4)
    table = torch.arange(1, 25).view(3, 8)
    buckets = plan_buckets([0, 1, 2, 3], [32, 9, 16], table, BLOCK, HEADS)
    assert [b.context for b in buckets] == [16, 32]
    assert sorted(t for b in buckets for t in b.token.flatten().tolist()) == [0, 1, 2]
    # one token each: padded to 32 rows or to their own 16, the answers are the same
    q, kv = random_rows(3, 0)
    positions = torch.tensor([31, 8, 15])
    slots = table[torch.arange(3), positions // BLOCK] * BLOCK + positions % BLOCK
    storage = torch.randn(25, 1, BLOCK, SPEC.row_dim)
    outs = []
    for short in (4, 10):
        monkeypatch.setattr(paged_plan, "SHORT", short)
        buckets = plan_buckets([0, 1, 2, 3], [32, 9, 16], table, BLOCK, HEADS)
        cache = LayerCache(storage.clone(), SPEC.index_dim)
        plan = Plan(None, buckets)
        outs.append(PagedContext(positions, slots, plan, [cache]).attend(0, q, kv, replace(SPEC, topk=topk)))
    assert torch.allclose(outs[0], outs[1], atol=2e-6)


def test_scores_that_are_no_numbers_choose_rows_of_their_own() -> None:
    """A policy that has diverged: whatever is chosen lies in the request's own part of the cache."""
    q, _ = random_rows(12, 0)
    q.index_q[11] = float("nan")
    cache = LayerCache(torch.zeros(4, 1, BLOCK, SPEC.row_dim), SPEC.index_dim)
    table = torch.tensor([[3, 1, 2]])
    positions = torch.arange(12)
    slots = table[0, positions // BLOCK] * BLOCK + positions % BLOCK
    plan = plan_step([0, 12], [12], table, BLOCK, HEADS, singly=True)
    assert plan.singles is not None
    cache.keys.words.normal_()
    picked = plan.singles.choose(cache.keys, q.index_q, q.index_w, 7)
    assert set(picked.slots[11].tolist()) <= set(slots.tolist())
