"""Attention mass recalled by a choice of k rows, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rl.policy.dsa import DSAPolicy
from rl.policy.loading import build_policy
from rl.policy.recall import FOUND, hidden_and_recall, recalled


def tiny(mode: str, topk: int = 8) -> DSAPolicy:
    overrides = {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3, "index_topk": topk}
    policy = build_policy(
        {"preset": "tiny_dsa", "vocab_size": 40, "seed": 3, "mode": mode, "overrides": overrides},
    )
    assert isinstance(policy, DSAPolicy)
    return policy


def test_mass_by_hand() -> None:
    # Logits 0, ln 2, 0, ln 4 of the first head: p = 1/8, 2/8, 1/8, 4/8. The second head is uniform: 1/4 each.
    rows = torch.tensor([[0.0], [math.log(2)], [0.0], [math.log(4)]])
    query = torch.tensor([[[1.0]], [[0.0]]])  # [H=2, Q=1, 1]
    scores = torch.tensor([[5.0, 0.0, 1.0, 2.0]])  # the indexer takes rows 0 and 3
    found = {name: value.item() for name, value in recalled(query, rows, scores, scale=1.0, k=2).items()}
    assert found == pytest.approx(
        {
            "indexer": (5 / 8 + 2 / 4) / 2,
            "oracle": (6 / 8 + 2 / 4) / 2,
            "recent": (5 / 8 + 2 / 4) / 2,
            "random": 2 / 4,
        }
    )


def test_the_needed_row_is_among_the_chosen_or_not() -> None:
    rows = torch.tensor(
        [[0.0], [math.log(2)], [0.0], [math.log(4)]]
    )  # p = 1/8, 2/8, 1/8, 4/8 for every query at the end
    query, scores = torch.ones(1, 1, 1), torch.tensor([[5.0, 0.0, 1.0, 2.0]])
    for needed, indexer, oracle in ((0, 1.0, 0.0), (1, 0.0, 1.0), (2, 0.0, 0.0), (3, 1.0, 1.0)):
        found = recalled(query, rows, scores, scale=1.0, k=2, needed=torch.tensor([needed]))
        assert [found[key].item() for key in FOUND] == [indexer, oracle]
    found = recalled(query, rows, scores, scale=1.0, k=2, needed=torch.tensor([-1]))
    assert all(found[key].isnan().all() for key in FOUND)


def test_rows_after_the_query_hold_no_mass() -> None:
    # Two queries at positions 1 and 2 of three rows; row 2 would win for both, but the first may not see it.
    rows = torch.tensor([[0.0], [0.0], [math.log(8)]])
    query = torch.ones(1, 2, 1)
    scores = torch.tensor([[0.0, 1.0, 9.0], [0.0, 1.0, 9.0]])
    found = recalled(query, rows, scores, scale=1.0, k=1)
    assert found["indexer"].tolist() == pytest.approx([1 / 2, 8 / 10])
    assert found["oracle"].tolist() == pytest.approx([1 / 2, 8 / 10])
    assert found["recent"].tolist() == pytest.approx([1 / 2, 8 / 10])
    assert found["random"].tolist() == pytest.approx([1 / 2, 1 / 3])


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_measuring_changes_nothing_and_covers_the_long_rows(mode: str) -> None:
    policy = tiny(mode)
    tokens = torch.arange(60) * 7 % 40
    cu_seqlens = [0, 25, 31, 60]
    hidden, recall = hidden_and_recall(policy.module, tokens, cu_seqlens, policy.mode)
    with torch.no_grad():
        assert torch.equal(policy.module.logits(hidden), policy.packed_logits(tokens, cu_seqlens))
    sees = torch.cat([torch.arange(25), torch.arange(6), torch.arange(29)]) + 1
    for choice, mass_LT in recall.items():
        assert mass_LT.shape == (2, 60), choice
        assert torch.equal(mass_LT.isnan(), (sees <= 8).expand(2, 60)), choice
    measured = {choice: mass_LT[:, sees > 8] for choice, mass_LT in recall.items()}
    assert ((measured["indexer"] > 0) & (measured["indexer"] <= measured["oracle"] + 1e-6)).all()
    assert (measured["random"] <= measured["oracle"] + 1e-6).all()
    assert torch.allclose(measured["random"], (8 / sees[sees > 8]).expand(2, -1))


def test_k_rows_of_k_recall_everything() -> None:
    _, recall = hidden_and_recall(tiny("sparse", topk=64).module, torch.arange(40), [0, 40], "sparse")
    assert all(mass_LT.isnan().all() for mass_LT in recall.values())
    _, recall = hidden_and_recall(tiny("dense").module, torch.arange(40), [0, 40], "dense", topk=39)
    assert recall["oracle"][:, 39].tolist() == pytest.approx([1.0, 1.0], abs=0.05)
