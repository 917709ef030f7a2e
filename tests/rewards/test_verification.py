"""The reward formulas of DeepSeekMath-V2 against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.verification import (
    SCORES,
    generator_reward,
    score_reward,
    self_evaluation_reward,
    verifier_reward,
)

unit = st.floats(0, 1)


@pytest.mark.parametrize(
    ("s", "self_score", "expected"),
    [
        (1, 1, 1.0),
        (1, 0.5, 0.88),  # 0.76·1 + 0.24·0.5
        (1, 0, 0.76),
        (0.5, 0.5, 0.62),  # 0.38 + 0.24
        (0.5, 1, 0.50),  # 0.38 + 0.12
        (0.5, 0, 0.50),
        (0, 0, 0.24),
        (0, 0.5, 0.12),
        (0, 1, 0.0),
    ],
)
def test_the_generators_table(s: float, self_score: float, expected: float) -> None:
    assert generator_reward(True, s, self_evaluation_reward(self_score, s)) == pytest.approx(expected, abs=1e-12)
    assert generator_reward(False, s, self_evaluation_reward(self_score, s)) == 0.0


def test_the_generator_with_meta_and_a_mean_score() -> None:
    # four verifications 1, 1, 0.5, 0.5: s = 0.75; s' = 1: R_score = 0.75; meta 0.5: R_Z = 0.375
    r_z = self_evaluation_reward(1.0, 0.75, 0.5)
    assert r_z == pytest.approx(0.375)
    assert generator_reward(True, 0.75, r_z) == pytest.approx(0.76 * 0.75 + 0.24 * 0.375)  # 0.66
    assert generator_reward(True, 0.75, r_z, alpha=0.5, beta=0.25) == pytest.approx(0.46875)


@pytest.mark.parametrize(
    ("predicted", "label", "expected"),
    [
        (0, 0, 1),
        (0, 0.5, 0.5),
        (0, 1, 0),
        (0.5, 0, 0.5),
        (0.5, 0.5, 1),
        (0.5, 1, 0.5),
        (1, 0, 0),
        (1, 0.5, 0.5),
        (1, 1, 1),
    ],
)
def test_the_verifiers_table(predicted: float, label: float, expected: float) -> None:
    assert score_reward(predicted, label) == expected
    assert verifier_reward(True, predicted, label) == expected
    assert verifier_reward(True, predicted, label, meta=0.5) == expected / 2
    assert verifier_reward(False, predicted, label) == 0.0


def test_nothing_read_is_reward_0() -> None:
    assert verifier_reward(False, None, 1.0) == 0.0
    with pytest.raises(ValueError, match="predicted=None"):
        verifier_reward(True, None, 1.0)


@given(st.booleans(), unit, unit, unit)
def test_rewards_lie_in_the_unit_interval(well_formed: bool, predicted: float, truth: float, meta: float) -> None:
    assert 0.0 <= verifier_reward(well_formed, predicted, truth, meta) <= 1.0
    assert 0.0 <= generator_reward(well_formed, truth, self_evaluation_reward(predicted, truth, meta)) <= 1.0


@given(st.sampled_from(SCORES), unit, unit)
def test_honesty_pays_at_any_score(s: float, boast: float, meta: float) -> None:
    honest = generator_reward(True, s, self_evaluation_reward(s, s, meta))
    assert honest >= generator_reward(True, s, self_evaluation_reward(boast, s, meta))


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, math.inf])
def test_numbers_outside_are_errors(bad: float) -> None:
    for call, field in (
        (lambda: score_reward(bad, 0.5), "predicted"),
        (lambda: score_reward(0.5, bad), "truth"),
        (lambda: verifier_reward(False, None, bad), "truth"),
        (lambda: verifier_reward(True, 1, 1, bad), "meta"),
        (lambda: generator_reward(True, bad, 0), "r_y"),
        (lambda: generator_reward(True, 0, bad), "r_z"),
        (lambda: generator_reward(True, 0, 0, alpha=bad), "alpha"),
    ):
        with pytest.raises(ValueError, match=field):
            call()
    with pytest.raises(ValueError, match="at most 1"):
        generator_reward(True, 1, 1, alpha=0.8, beta=0.3)
