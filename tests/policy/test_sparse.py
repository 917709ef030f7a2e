"""The top-k choice and its tie-break, index scores and L_I, against numbers worked out by hand."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy import sparse
from rl.policy.sparse import (
    NEG_INF,
    attention_target,
    gathered_attention,
    index_scores,
    indexer_kl,
    indices_to_mask,
    mask_to_indices,
    row_attention,
    select_topk,
    topk_indices,
)


def test_ties_go_to_the_earlier_position() -> None:
    scores = torch.tensor([[0.0, 2.0, 0.0, 0.0, 1.0, NEG_INF]])
    assert select_topk(scores, 3).tolist() == [[True, True, False, False, True, False]]
    assert select_topk(scores, 4).tolist() == [[True, True, True, False, True, False]]


def test_fewer_visible_rows_than_k_selects_exactly_the_visible() -> None:
    scores = torch.tensor([[3.0, NEG_INF, NEG_INF, NEG_INF], [1.0, 1.0, NEG_INF, NEG_INF]])
    assert select_topk(scores, 3).tolist() == [[True, False, False, False], [True, True, False, False]]
    assert select_topk(scores, 9).tolist() == [[True, False, False, False], [True, True, False, False]]


@settings(max_examples=60)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 12))
def test_selection_equals_a_stable_sort(values: list[int], k: int, hidden: int) -> None:
    visible = max(1, len(values) - hidden)
    scores = torch.tensor([float(v) if i < visible else NEG_INF for i, v in enumerate(values)])
    best = sorted(range(visible), key=lambda i: (-values[i], i))[:k]
    assert select_topk(scores[None], k)[0].nonzero().flatten().tolist() == sorted(best)


@settings(max_examples=150)
@given(
    scores=st.lists(st.sampled_from([0.0, -0.0, 1.5, -1.5, 1e-30, -1e-30, 3e38, NEG_INF]), min_size=4, max_size=30),
    k=st.integers(1, 3),
    key_rows=st.sampled_from([0, 1024]),
)
def test_topk_indices_is_select_topk(scores: list[float], k: int, key_rows: int) -> None:
    rows = torch.tensor([scores, scores[::-1]])
    with patch.object(sparse, "KEY_ROWS", key_rows):
        picked = topk_indices(rows[:, None], k)[:, 0].sort(-1).values.tolist()
    expected = mask_to_indices(select_topk(rows, k), k).tolist()
    assert [[i for i in p if i >= 0] for p in picked] == [[i for i in e if i >= 0] for e in expected]


def test_indices_and_masks_convert_both_ways() -> None:
    mask = torch.tensor([[True, False, True, False], [False, False, False, True]])
    indices = mask_to_indices(mask, 3)
    assert indices.tolist() == [[0, 2, -1], [3, -1, -1]]
    assert torch.equal(indices_to_mask(indices, 4), mask)


def test_index_scores_by_hand() -> None:
    # two heads of width 1: I = w1 * relu(q1 k) + w2 * relu(q2 k)
    q = torch.tensor([[[1.0], [-2.0]]])
    w = torch.tensor([[0.5, 0.25]])
    k = torch.tensor([[3.0], [-4.0], [0.0]])
    assert index_scores(q, w, k).tolist() == [[1.5, 2.0, 0.0]]


def test_indexer_kl_by_hand() -> None:
    # p = (3/4, 1/4), q = softmax(0, 0) = (1/2, 1/2): KL = ln 2 - H(p); masked entries count nothing.
    target = torch.tensor([[0.75, 0.25, 0.0]])
    mask = torch.tensor([[True, True, False]])
    kl = indexer_kl(torch.tensor([[0.0, 0.0, 5.0]]), target, mask)
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert kl.item() == pytest.approx(expected, abs=1e-6)


def test_attention_target_is_head_sum_normalised() -> None:
    # head 1 sees logits (ln 3, 0) -> (3/4, 1/4); head 2 sees (0, 0) -> (1/2, 1/2)
    query = torch.tensor([[[math.log(3.0)]], [[0.0]]])
    rows = torch.tensor([[1.0], [0.0]])
    target = attention_target(query, rows, torch.ones(1, 2, dtype=torch.bool), 1.0)
    assert target[0].tolist() == pytest.approx([0.625, 0.375])


@pytest.mark.parametrize("tile", [1, 100, 10_000])
def test_gathered_attention_gradients(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "GATHER_TILE", tile)
    torch.manual_seed(0)
    query = torch.randn(5, 2, 6, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[0, -1, -1], [1, 0, -1], [2, 1, 0], [7, 2, 8], [8, 8, 3]])
    assert torch.autograd.gradcheck(lambda q, r: sparse.gathered_attention(q, r, indices, 0.3), (query, rows))


def test_gathered_equals_masked() -> None:
    torch.manual_seed(0)
    query, rows = torch.randn(5, 2, 6), torch.randn(9, 6)
    mask = torch.zeros(5, 9, dtype=torch.bool)
    for i in range(5):
        mask[i, torch.randperm(9)[: i + 1]] = True
    gathered = gathered_attention(query, rows, mask_to_indices(mask, 5), 0.3)
    masked = row_attention(query.transpose(0, 1)[None], rows[None], mask[None], 0.3)[0].transpose(0, 1)
    torch.testing.assert_close(gathered, masked, atol=1e-6, rtol=1e-5)
