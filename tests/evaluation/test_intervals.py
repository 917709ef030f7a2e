"""Intervals: numbers by hand, coverage on simulated tasks, and the paired difference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.evaluation.intervals import (
    bootstrap_interval,
    effective_samples,
    estimate,
    paired_difference,
    stderr,
    wilson_interval,
)


def test_wilson_by_hand() -> None:
    # p = 0.8, n = 10, z = 1.959964: centre (0.8 + 0.192073)/1.384146 = 0.716740,
    # half = 1.959964·√(0.016 + 0.00960365)/1.384146 = 0.226577
    assert wilson_interval(0.8, 10, 0.95) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    # nothing right in 10: (0, z²/(n + z²))
    assert wilson_interval(0.0, 10, 0.95) == pytest.approx((0.0, 3.841459 / 13.841459), abs=1e-6)
    with pytest.raises(ValueError, match="trials=10"):
        wilson_interval(1.2, 10, 0.95)


def test_clustered_error_by_hand() -> None:
    # task means 0.5, 1.0: s = 0.353553, stderr 0.25; n_eff = 0.75·0.25/0.0625 = 3
    assert stderr([0.5, 1.0]) == pytest.approx(0.25)
    assert effective_samples([0.5, 1.0], 8) == pytest.approx(3.0)
    assert effective_samples([0.5, 0.5], 8) == 8.0  # tasks agree: no more evidence than samples
    assert effective_samples([1.0, 1.0, 1.0], 12) == 3.0  # at an end a task counts once
    # 0 or 1 for each task, k = 1: n_eff is n − 1
    assert effective_samples([0, 1, 1, 0, 1], 5) == pytest.approx(4.0)
    found = estimate([0.5, 1.0], 8, 0.95)
    assert (found.mean, found.n_tasks) == (0.75, 2)
    assert found.wilson == pytest.approx(wilson_interval(0.75, 3, 0.95))
    assert found.to_json()["bootstrap"] == list(found.bootstrap) == [0.5, 1.0]
    assert estimate([2.0, 0.0], 2, 0.95).wilson is None  # no rate


def test_intervals_cover_what_they_say() -> None:
    """500 evaluations of 60 tasks × 4 samples, tasks of different difficulty: about 90 % hold the true mean."""
    rng = np.random.default_rng(0)
    inside = {"wilson": 0, "bootstrap": 0, "not clustered": 0}
    for _ in range(500):
        difficulty = rng.beta(0.5, 0.5, 60)  # true mean 0.5; most tasks are nearly always or never solved
        values = (rng.random((60, 4)) < difficulty[:, None]).mean(1).tolist()
        found = estimate(values, 240, 0.9)
        assert found.wilson is not None
        for name, (low, high) in (
            ("wilson", found.wilson),
            ("bootstrap", found.bootstrap),
            ("not clustered", wilson_interval(found.mean, 240, 0.9)),
        ):
            inside[name] += low <= 0.5 <= high
    assert 435 <= inside["wilson"] <= 470
    assert 430 <= inside["bootstrap"] <= 470
    assert inside["not clustered"] < 370  # taking samples for independent promises far too much


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.sampled_from([0.5, 0.9, 0.99]))
def test_intervals_hold_the_mean(values: list[float], confidence: float) -> None:
    found = estimate(values, 4 * len(values), confidence)
    assert found.wilson is not None
    for low, high in (found.wilson, found.bootstrap):
        assert 0 <= low <= high <= 1
    assert found.wilson[0] - 1e-9 <= found.mean <= found.wilson[1] + 1e-9
    assert bootstrap_interval(values, confidence) == found.bootstrap  # the same data, the same interval


def test_paired_difference_by_hand() -> None:
    first = {"a": 0.0, "b": 0.5, "c": 1.0, "gone": 1.0}
    second = {"a": 0.5, "b": 1.0, "c": 1.0, "new": 0.0}
    # differences 0.5, 0.5, 0: mean 1/3, s = 0.288675, stderr = 1/6
    found = paired_difference(first, second, 0.95)
    assert (found.mean, found.stderr) == pytest.approx((1 / 3, 1 / 6))
    assert (found.n_tasks, found.left_out) == (3, 2)
    assert found.bootstrap == (0.0, 0.5)
    with pytest.raises(ValueError, match="no task in common"):
        paired_difference({"a": 1.0}, {"b": 1.0}, 0.95)
    with pytest.raises(ValueError, match="confidence=95"):
        paired_difference(first, second, 95)


def test_pairing_takes_the_tasks_difficulty_out() -> None:
    rng = np.random.default_rng(1)
    base = {str(i): float(p) for i, p in enumerate(rng.random(50) * 0.9)}
    better = {name: p + 0.05 for name, p in base.items()}
    found = paired_difference(base, better, 0.95)
    assert found.bootstrap == pytest.approx((0.05, 0.05))  # every task gained, so the gain is certain
    independent = np.hypot(stderr(list(base.values())), stderr(list(better.values())))
    assert found.stderr < 1e-9 < independent
