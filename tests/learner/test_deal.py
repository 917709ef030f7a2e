"""Micro-batches are dealt out whole: each once, as many to every rank, about the same FLOPs."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.learner.deal import Deal, deal
from rl.learner.packing import Bin, best_fit_decreasing
from rl.policy.flops import CostModel

COST = CostModel(parameters=10, attention=3, indexer=1, topk=2)


def bins(lengths: list[int], capacity: int) -> list[Bin]:
    found = best_fit_decreasing(lengths, capacity)
    return [Bin(members, [0] * len(members), [(0, lengths[i]) for i in members]) for members in found]


def test_by_hand() -> None:
    """The costliest first, each to the rank that has least: 7 | 6, then 6 + 5 = 11, 7 + 4 = 11, and 3 to the first."""
    assert deal([3, 7, 5, 6, 4], 2) == [[1, 4, 0], [3, 2, None]]
    assert deal([1.0], 3) == [[0], [None], [None]]


def test_flops_by_hand() -> None:
    """Rows 2 and 3 (of which the first two are another's) see 3 and 4 rows, and attend to two: 2 (10 2 + 3 4 + 1 7)."""
    assert Deal(0, 1, COST)._flops(Bin([0], [2], [(2, 4)])) == 2 * (10 * 2 + 3 * (2 + 2) + 1 * (3 + 4))


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=40), st.integers(1, 8))
def test_each_once_and_as_many_to_every_rank(costs: list[float], ranks: int) -> None:
    hands = deal(costs, ranks)
    assert len(hands) == ranks
    assert {len(hand) for hand in hands} == {-(-len(costs) // ranks)}
    assert sorted(i for i in chain(*hands) if i is not None) == list(range(len(costs)))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 5))
def test_every_item_counts_on_one_rank(lengths: list[int], ranks: int) -> None:
    hands = [Deal(rank, ranks, COST).mine(lambda c: bins(lengths, c), 40) for rank in range(ranks)]
    assert len({len(hand) for hand in hands}) == 1, "all ranks make as many passes"
    counted = [i for hand in hands for planned, padding in hand if not padding for i in planned.members]
    assert sorted(counted) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in planned.members) <= 40 for hand in hands for planned, _ in hand)


@pytest.mark.parametrize(("capacity", "made"), [(40, 2), (100, 2)])
def test_what_fits_one_micro_batch_is_cut_for_two_ranks(capacity: int, made: int) -> None:
    """Eight items of 5 tokens fit one of 40; two ranks take four each instead of one all and the other nothing."""
    hands = [Deal(rank, 2, COST).mine(lambda c: bins([5] * 8, c), capacity) for rank in range(2)]
    assert [len(hand[0][0].members) for hand in hands] == [4, 4]
    assert not any(padding for hand in hands for _, padding in hand)
    assert sum(len(hand) for hand in hands) == made
