"""Prefix trees: nodes by hand, and a forward pass over them that is the one over all sequences, gradient included."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_families import glm5
from random_trees import Batch, assert_same, run

from rl.policy.attention_context import PackedContext
from rl.policy.dsa import DSAPolicy
from rl.policy.loading import build_policy
from rl.policy.model import DSAForCausalLM
from rl.policy.prefix_tree import PrefixTree, by_prefix
from rl.policy.record_outline import row_bytes
from rl.policy.replay import Record, ReplayError
from tests.learner.conftest import tiny_config


def test_a_tree_by_hand() -> None:
    """abcd, abce, abce, af and g: nodes a b c d | e | - | f | g."""
    tree = PrefixTree([0, 4, 8, 12, 14, 15], [0, 3, 4, 1, 0])
    assert tree.nodes == 7
    assert tree.node_T.tolist() == [0, 1, 2, 3, 0, 1, 2, 4, 0, 1, 2, 4, 0, 5, 6]
    assert tree.first_U.tolist() == [0, 1, 2, 3, 7, 13, 14]
    assert tree.depth_U.tolist() == [0, 1, 2, 3, 3, 1, 0]
    assert tree.count_U.tolist() == [4, 3, 3, 1, 2, 1, 1]
    values = torch.arange(7.0)[:, None].requires_grad_()
    (tree.spread(values) * torch.ones(15, 1)).sum().backward()
    assert values.grad is not None
    assert values.grad[:, 0].tolist() == tree.count_U.tolist()


@pytest.mark.parametrize("shared", [[1, 0], [0, 3], [0, 4], [0], [0, -1]])
def test_impossible_sharing_is_an_error(shared: list[int]) -> None:
    with pytest.raises(ValueError, match="shared is"):
        PrefixTree([0, 2, 6], shared)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), max_size=12))
def test_each_distinct_beginning_is_one_node(sequences: list[list[int]]) -> None:
    """As many nodes as there are different beginnings of sequences, the same one for the same beginning."""
    order, shared = by_prefix([row_bytes([np.array(s, np.int64), np.zeros((len(s), 2), bool)]) for s in sequences])
    assert sorted(order) == list(range(len(sequences)))
    if not sequences:
        return
    bounds = [0, *np.cumsum([len(sequences[i]) for i in order]).tolist()]
    tree = PrefixTree(bounds, shared)
    beginnings = [tuple(sequences[i][: t + 1]) for i in order for t in range(len(sequences[i]))]
    pairs = set(zip(beginnings, tree.node_T.tolist(), strict=True))
    assert len(pairs) == len(set(beginnings)) == tree.nodes
    assert [len(beginnings[i]) - 1 for i in tree.first_U.tolist()] == tree.depth_U.tolist()


def test_wide_rows_are_compared_by_digest() -> None:
    wide = np.random.default_rng(0).integers(0, 9, (3, 2000))
    other = wide.copy()
    other[2, 1999] += 1
    tokens = np.arange(3)
    same, changed = row_bytes([tokens, wide]), row_bytes([tokens, other])
    assert same.shape == (3, 16)
    assert by_prefix([same, same]) == ([0, 1], [0, 3])
    assert sorted(by_prefix([same, changed])[1]) == [0, 2]


# The DSA policy. index_topk is 12, sequences are up to 60 long: most rows choose.


def make() -> DSAPolicy:
    policy = build_policy(tiny_config())
    assert isinstance(policy, DSAPolicy)
    return policy


POLICY = make()


trees = st.tuples(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.0, 0.3]))


@given(trees, st.booleans())
@settings(max_examples=25)
def test_replayed_trees_are_the_flat_packing(drawn: tuple[int, int, float], indexer: bool) -> None:
    """Experts forced and, in half of them, the rows; where a record is missing and elsewhere, the top-k is live."""
    batch = Batch(*drawn, POLICY)
    assert_same(POLICY, batch, lambda: batch.replay(indexer))


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@pytest.mark.parametrize("recompute", [False, True])
def test_live_trees_are_the_flat_packing(mode: str, recompute: bool) -> None:
    policy = DSAPolicy(make().module, mode)  # type: ignore[arg-type]
    policy.set_recompute(recompute)
    for seed in range(4):
        batch = Batch(seed, 8, 0.0, policy)
        assert batch.tree.nodes < len(batch.tokens)
        assert_same(policy, batch)


def test_long_trees_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    """The O(L*k) path, and queries in chunks."""
    monkeypatch.setattr("rl.policy.dsa.PackedContext", partial(PackedContext, gather_from=20, chunk=7))
    for seed in range(4):
        assert_same(POLICY, Batch(seed, 6, 0.3, POLICY))


def test_layers_that_borrow_a_choice() -> None:
    torch.manual_seed(0)
    policy = DSAPolicy(DSAForCausalLM(glm5(sharing=True)))
    assert policy.module.num_indexers == 3
    for seed in range(3):
        batch = Batch(seed, 6, 0.3, policy, top=90)
        assert_same(policy, batch, lambda batch=batch: batch.replay(True))
        assert_same(policy, batch)


def test_equal_scores_are_ordered_along_the_own_path() -> None:
    """All index scores are 0: every query attends to the first k rows of its own path, wherever its nodes are."""
    policy = make()
    for layer in policy.module.decoder_layers:
        torch.nn.init.zeros_(layer.self_attn.indexer.weights_proj.weight)
    batch = Batch(3, 8, 0.0, policy)
    record = Record(want_indexer=True)
    policy.packed_hidden(batch.tokens, batch.tree, None, record)
    for a, b in pairwise(batch.bounds):
        for t, rows in enumerate(record.indexer[a:b].tolist()):
            expected = [*range(min(t + 1, 12)), *[-1] * (11 - t)]
            assert rows == [expected] * 3
    assert_same(policy, batch)


@given(trees)
@settings(max_examples=15)
def test_records_and_overlaps_are_those_of_all_rows(drawn: tuple[int, int, float]) -> None:
    batch = Batch(*drawn, POLICY)
    taken = []
    for layout in (batch.bounds, batch.tree):
        record, replay = Record(want_indexer=True), batch.replay(True, force=False)
        with torch.no_grad():
            POLICY.packed_hidden(batch.tokens, layout, replay, record)
        overlaps = [torch.cat(found).sort().values for found in (replay.expert_overlaps, replay.indexer_overlaps)]
        taken.append((record.experts.sort(-1).values, record.indexer, *overlaps))
    for flat, mine in zip(*taken, strict=True):
        assert torch.equal(flat, mine)


@pytest.mark.parametrize("kl", ["sparse", "dense"])
def test_the_indexers_own_loss_counts_every_rollout(kl: str) -> None:
    for seed in range(4):
        batch = Batch(seed, 7, 0.3, POLICY)
        results = []
        for tree in (False, True):
            record = Record(want_experts=False, want_indexer_kl=kl)  # type: ignore[arg-type]
            _, gradient = run(POLICY, batch, tree, batch.replay(False), record)
            results.append((gradient, record.indexer_kl.detach(), record.indexer_kl_tokens))
        (expected, loss, rows), (gradient, mine, counted) = results
        assert counted == rows == 3 * len(batch.tokens)
        torch.testing.assert_close(mine, loss, rtol=1e-5, atol=0)  # sums of float32 in another order
        assert float((gradient - expected).norm() / expected.norm()) < 1e-5


def test_a_replay_serves_one_pass() -> None:
    batch = Batch(0, 3, 0.0, POLICY)
    replay = batch.replay(True)
    POLICY.packed_hidden(batch.tokens, batch.tree, replay)
    with pytest.raises(ReplayError, match="used twice"):
        POLICY.packed_hidden(batch.tokens, batch.tree, replay)


def test_twice_the_same_bits() -> None:
    """What deterministic=true asks of the learner: the same batch gives the same gradient."""
    batch = Batch(5, 9, 0.3, POLICY)
    one, other = (run(POLICY, batch, True, batch.replay(False)) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_rows_are_picked_from_all() -> None:
    batch = Batch(1, 5, 0.0, POLICY)
    rows = torch.tensor([len(batch.tokens) - 1, 0, 3, 0])
    with torch.no_grad():
        whole = POLICY.packed_hidden(batch.tokens, batch.tree)
        assert torch.equal(POLICY.packed_hidden(batch.tokens, batch.tree, rows=rows), whole[rows])


def test_queries_that_need_a_mask_attend_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense attention of stretches that begin in the middle of their sequence: masks are small, and one for all
    layers."""
    monkeypatch.setattr("rl.policy.attention_context.CAUSAL_MASK", 300)
    batch = Batch(3, 7, 0.0, POLICY)
    contexts = [PackedContext(rows, mode="dense", chunk=4) for rows in (batch.tree, batch.bounds)]
    nodes, rows = (
        POLICY.module.hidden(tokens, context)
        for tokens, context in zip((batch.tokens[batch.tree.first_U], batch.tokens), contexts, strict=True)
    )
    torch.testing.assert_close(batch.tree.spread(nodes), rows, atol=1e-5, rtol=0)
    masks = contexts[0]._masks.values()
    assert masks
    assert all(mask.numel() <= 300 or len(mask) <= 4 for mask in masks)
    assert not contexts[1]._masks
