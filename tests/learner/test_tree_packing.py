"""Trees in packing: every segment as it was, its rows equal to its nodes, budgets kept, and nothing twice that fits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.learner.pack_item import PackItem
from rl.learner.packing import WORTH, MicroBatch, pack
from rl.types import ReplayRecord


def item(name: str, tokens: np.ndarray, prompt: int, experts: np.ndarray | None, weight: float = 1.0) -> PackItem:
    mask = np.arange(len(tokens)) >= prompt
    record = None if experts is None else ReplayRecord(np.arange(len(tokens)) < len(tokens) - 1, experts[:, None, None])
    return PackItem(tokens, mask, weight, logprobs=-tokens.astype(float), replay=record, name=name)


@st.composite
def items(draw: st.DrawFn) -> list[PackItem]:
    """Sequences that begin like another one, some of them computed with other experts; ``weight`` says which it is."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    recorded = draw(st.booleans())
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(draw(st.integers(0, 12))):
        base = found[rng.integers(len(found))] if found and rng.random() < 0.8 else None
        kept = 0 if base is None else int(rng.integers(0, len(base[0]) + 1))
        more = int(rng.integers(2, 40))
        new = rng.integers(0, 50, more), rng.integers(0, 4, more)
        tokens, experts = (
            new if base is None else (np.concatenate((b[:kept], n)) for b, n in zip(base, new, strict=True))
        )
        if kept and rng.random() < 0.2:
            experts[int(rng.integers(kept))] += 4
        found.append((tokens[:90], experts[:90]))
    return [
        item(str(i), t, 1 + int(rng.integers(len(t) - 1)), e if recorded else None, 1.0 + i)
        for i, (t, e) in enumerate(found)
    ]


def beginnings(given_items: list[PackItem]) -> set[bytes]:
    """Of all items: what is computed up to a row, for every row."""
    found = set()
    for i in given_items:
        rows = [i.tokens] if i.replay is None else [i.tokens, i.replay.experts[:, 0, 0], i.replay.valid]
        columns = np.stack(rows, axis=1)
        found |= {columns[: t + 1].tobytes() for t in range(i.inputs)}
    return found


def check(given_items: list[PackItem], batches: list[MicroBatch], budget: int) -> None:
    seen = []
    for batch in batches:
        assert batch.distinct <= budget
        assert len(batch.scored_P) <= budget
        predicting = batch.predict_N if batch.tree is None else batch.tree.node_T[batch.predict_N]
        for column in (batch.targets_N, predicting):
            assert bool((column[batch.scored_P][batch.score_N] == column).all())
        assert len(batch.scored_P) <= batch.distinct + batch.segments
        bounds = batch.cu_seqlens
        for segment, (a, b) in enumerate(pairwise(bounds)):
            at = batch.segment_N == segment
            index = int(batch.weights_N[at][0]) - 1
            own = given_items[index]
            seen.append(index)
            assert batch.tokens_T[a:b].tolist() == own.tokens[: own.inputs].tolist()
            assert batch.targets_N[at].tolist() == own.tokens[own.loss_mask].tolist()
            assert (batch.predict_N[at] - a + 1).tolist() == own.targets.tolist()
            if own.replay is not None:
                assert batch.experts_TLK is not None
                assert batch.replay_valid_T is not None
                assert batch.experts_TLK[a:b, 0, 0].tolist() == own.replay.experts[: own.inputs, 0, 0].tolist()
                assert batch.replay_valid_T[a:b].all()
        if (tree := batch.tree) is not None:
            assert tree.bounds == bounds
            for column in (batch.tokens_T, batch.experts_TLK, batch.replay_valid_T):
                if column is not None:
                    assert bool((column[tree.first_U][tree.node_T] == column).all())
    assert sorted(seen) == [i for i, own in enumerate(given_items) if own.inputs]


@given(items(), st.integers(90, 200))
@settings(max_examples=60)
def test_segments_stay_what_they_are(given_items: list[PackItem], budget: int) -> None:
    check(given_items, pack(given_items, budget, share=True), budget)


@given(items())
@settings(max_examples=60)
def test_in_one_batch_each_beginning_is_computed_once(given_items: list[PackItem]) -> None:
    batches = pack(given_items, 10_000, share=True)
    check(given_items, batches, 10_000)
    assert sum(batch.distinct for batch in batches) == len(beginnings(given_items))


def test_experts_split_a_node_and_supports_do_not() -> None:
    """Three rollouts with one prompt of 30 and 5 sampled tokens in common; the second has another expert at 20."""
    tokens = [np.concatenate((np.arange(35), [90 + i, 80, 81])) for i in range(3)]
    experts = [np.zeros(38, np.uint8) for _ in range(3)]
    experts[1][20] = 1
    three = [item(str(i), t, 30, e, 1.0 + i) for i, (t, e) in enumerate(zip(tokens, experts, strict=True))]
    for i, own in enumerate(three):
        assert own.replay is not None
        own.replay.support = [None] * 31 + [np.array([i, int(t)]) for t in own.tokens[31:]]
    (batch,) = pack(three, 1000, share=True)
    # 37 inputs each. Of 0 and 2 the first 35 are the same; 1 has 20 with them and 17 of its own.
    assert batch.distinct == 37 + 2 + 17
    assert batch.support_N is not None
    kept = {int(row[0]) for row in batch.support_N if row is not None}
    assert kept == {0, 1, 2}, "each rollout's own"


def test_a_group_above_the_budget_is_cut() -> None:
    """Eight rollouts of a prompt of 50 with 9 inputs of their own: 50 + 9 n in a batch of at most 90 tokens."""
    eight = [
        item(str(i), np.concatenate((np.arange(50), 100 + 10 * i + np.arange(10))), 50, None, 1.0 + i) for i in range(8)
    ]
    batches = pack(eight, 90, share=True)
    check(eight, batches, 90)
    assert sorted(batch.distinct for batch in batches) == [86, 86]
    assert sorted(batch.distinct for batch in pack(eight, 1000, share=True)) == [50 + 72]


def test_many_targets_of_few_nodes_are_cut_too() -> None:
    """Twelve times the same answer is one path with 20 targets; on supports of their own they are 12 x 20."""
    experts = np.zeros(40, np.uint8)
    twelve = [item(str(i), np.arange(40), 20, experts, 1.0 + i) for i in range(12)]
    (batch,) = pack(twelve, 100, share=True)
    check(twelve, [batch], 100)
    assert (batch.distinct, len(batch.scored_P), len(batch.targets_N)) == (39, 20, 240)
    for i, own in enumerate(twelve):
        assert own.replay is not None
        own.replay.support = [np.array([t, 50 + i]) for t in range(40)]
    batches = pack(twelve, 100, share=True)
    assert [(batch.distinct, len(batch.scored_P)) for batch in batches] == [(39, 100), (39, 100), (39, 40)]
    for batch in batches:
        assert batch.support_N is not None
        for n, kept in enumerate(batch.support_N):
            same = batch.support_N[batch.scored_P[batch.score_N[n]]]
            assert kept is not None
            assert same is not None
            assert kept.tolist() == same.tolist()


def test_next_to_nothing_in_common_is_no_reason_to_stand_together() -> None:
    """A first token alone: bins are filled as without sharing."""
    assert WORTH == 16
    sizes = (30, 40, 50, 60)
    four = [item(str(i), np.concatenate(([7], 10 * i + np.arange(n))), 1, None, 1.0 + i) for i, n in enumerate(sizes)]
    batches = pack(four, 90, share=True)
    assert sorted(sorted(len(t) for t in map(range, np.diff(b.cu_seqlens))) for b in batches) == [[30, 60], [40, 50]]


def test_nothing_in_common_is_no_tree() -> None:
    two = [item(str(i), 100 * i + np.arange(20), 5, None, 1.0 + i) for i in range(2)]
    (batch,) = pack(two, 100, share=True)
    assert batch.tree is None
    assert pack([], 100, share=True) == []
