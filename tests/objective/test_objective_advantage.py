"""Group advantages and token weights against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.objective.advantage import group_advantages, token_weights


def test_mean_only() -> None:
    # mean(1, 0, 0, 1) = 0.5
    assert group_advantages([1.0, 0.0, 0.0, 1.0], [True] * 4) == [0.5, -0.5, -0.5, 0.5]


def test_failed_trajectories_leave_the_mean() -> None:
    # mean(1, 0.5) = 0.75; the failed one would have pulled it to 0.5
    assert group_advantages([1.0, 0.0, 0.5], [True, False, True]) == [0.25, 0.0, -0.25]


def test_std_divides_by_population_std() -> None:
    # rewards 0, 2: mean 1, std 1
    low, high = group_advantages([0.0, 2.0], [True, True], norm="std")
    assert math.isclose(high, 1.0 / (1.0 + 1e-6))
    assert low == -high


def test_equal_rewards_give_exact_zero() -> None:
    # 0.1 * 3 / 3 is not 0.1 in floating point; the advantage must still be exactly 0
    assert group_advantages([0.1] * 3, [True] * 3, norm="std") == [0.0, 0.0, 0.0]


def test_all_failed() -> None:
    assert group_advantages([1.0, 0.0], [False, False]) == [0.0, 0.0]


def test_unknown_norm_is_named() -> None:
    with pytest.raises(ValueError, match="'median'"):
        group_advantages([1.0, 0.0], [True, True], norm="median")


def test_sequence_mean_weights() -> None:
    # 2 groups count (the third has no valid trajectory): group 0 has G=2, group 1 has G=1
    weights = token_weights([[4, 2], [5, 0], [0, 0]])
    assert weights == [[1 / (2 * 2 * 4), 1 / (2 * 2 * 2)], [1 / (2 * 1 * 5), 0.0], [0.0, 0.0]]


def test_token_mean_weights() -> None:
    assert token_weights([[4, 2], [4, 0]], "token_mean") == [[0.1, 0.1], [0.1, 0.0]]


def test_constant_weights() -> None:
    # 3 sequences of 100 tokens at most: 1 / 300 whatever the length
    w = 1 / 300
    assert token_weights([[4, 2], [4, 0], [0, 0]], "constant", 100) == [[w, w], [w, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("constant", [None, 0])
def test_constant_weights_need_a_constant(constant: int | None) -> None:
    with pytest.raises(ValueError, match="loss constant"):
        token_weights([[4]], "constant", constant)


def test_unknown_aggregation_is_named() -> None:
    with pytest.raises(ValueError, match="'median'"):
        token_weights([[4]], "median")


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), min_size=1, max_size=5),
    st.sampled_from(["sequence_mean", "token_mean"]),
)
def test_weights_sum_to_one(lengths: list[list[int]], aggregation: str) -> None:
    weights = token_weights(lengths, aggregation)
    total = sum(w * n for ws, ns in zip(weights, lengths, strict=True) for w, n in zip(ws, ns, strict=True))
    if any(any(group) for group in lengths):
        assert math.isclose(total, 1.0, rel_tol=1e-9)
    else:
        assert total == 0.0
