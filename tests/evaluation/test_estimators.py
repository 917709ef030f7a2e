"""Estimators against numbers by hand, against enumeration of all subsets, and their laws."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.evaluation.estimators import best_of_k, majority_at_k, mean, pass_at_k

binary = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=8)
graded = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8)


def test_by_hand() -> None:
    # n = 5, c = 2: pass@2 = 1 − C(3,2)/C(5,2) = 1 − 3/10; pass@4 = 1 (only 3 are wrong)
    outcomes = [1.0, 0.0, 1.0, 0.0, 0.0]
    assert mean(outcomes) == 0.4
    assert [pass_at_k(outcomes, k) for k in (1, 2, 3, 4, 5)] == pytest.approx([0.4, 0.7, 0.9, 1.0, 1.0])
    # Part of the way is not solved.
    assert pass_at_k([0.5, 0.9], 2) == 0.0


def test_majority_by_hand() -> None:
    # a a b c, a right. Pairs: aa → 1; ab, ac (twice each) → 1/2; bc → 0: (1 + 4·½ + 0)/6
    assert majority_at_k("aabc", [1, 1, 0, 0], 2) == pytest.approx(0.5)
    # Triples: aab, aac → 1; abc (twice) → 1/3: (2 + 2/3)/4
    assert majority_at_k("aabc", [1, 1, 0, 0], 3) == pytest.approx(2 / 3)
    assert majority_at_k("aabc", [1, 1, 0, 0], 4) == 1.0
    # No vote: {a,–} → 1 (twice); {–,–} → the silent samples' mean, 0.5; (1 + 1 + 0.5)/3
    assert majority_at_k(["a", None, None], [1, 0, 1], 2) == pytest.approx(2.5 / 3)
    # A vote does not make a wrong majority right.
    assert majority_at_k("bba", [0, 0, 1], 3) == 0.0


def test_best_of_by_hand() -> None:
    # scores 3, 1, 1; outcomes 1, 0, 1. Pairs: {3,1} twice → 1; {1,1} → ½: 2.5/3
    assert best_of_k([3, 1, 1], [1, 0, 1], 2) == pytest.approx(2.5 / 3)
    assert best_of_k([3, 1, 1], [1, 0, 1], 1) == pytest.approx(2 / 3)
    # no score ranks last, even below a negative one
    assert best_of_k([-5.0, None], [1, 0], 2) == 1.0
    # a verifier that is wrong about everything finds the wrong sample
    assert best_of_k([0, 1], [1, 0], 2) == 0.0


def majority_by_enumeration(answers: list[str | None], outcomes: list[float], k: int) -> float:
    worth = {a: fmean(o for b, o in zip(answers, outcomes, strict=True) if b == a) for a in set(answers)}
    found = []
    for subset in combinations(range(len(outcomes)), k):
        votes = Counter(answers[i] for i in subset if answers[i] is not None)
        top = [a for a, n in votes.items() if n == max(votes.values())]
        found.append(fmean(worth[a] for a in top) if top else fmean(outcomes[i] for i in subset))
    return fmean(found)


@given(st.data())
def test_majority_equals_enumeration(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    answers = data.draw(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=n, max_size=n))
    outcomes = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    assert majority_at_k(answers, outcomes, k) == pytest.approx(majority_by_enumeration(answers, outcomes, k))


@given(graded, st.data())
def test_best_of_equals_enumeration(outcomes: list[float], data: st.DataObject) -> None:
    n = len(outcomes)
    scores = data.draw(st.lists(st.sampled_from([None, -1.0, 0.0, 2.0]), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    found = []
    for subset in combinations(range(n), k):
        rank = {i: float("-inf") if scores[i] is None else scores[i] for i in subset}
        found.append(fmean(outcomes[i] for i in subset if rank[i] == max(rank.values())))
    assert best_of_k(scores, outcomes, k) == pytest.approx(fmean(found))


@given(binary, st.data())
def test_pass_equals_enumeration(outcomes: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(outcomes)))
    assert pass_at_k(outcomes, k) == pytest.approx(fmean(max(s) for s in combinations(outcomes, k)))


@given(binary, st.data())
def test_laws(outcomes: list[float], data: st.DataObject) -> None:
    n = len(outcomes)
    answers = data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    scores = data.draw(st.lists(st.floats(-1, 1), min_size=n, max_size=n))
    passed = [pass_at_k(outcomes, k) for k in range(1, n + 1)]
    assert passed == sorted(passed)  # more samples never hurt
    # one sample: nothing to choose from
    assert passed[0] == pytest.approx(mean(outcomes))
    assert majority_at_k(answers, outcomes, 1) == pytest.approx(mean(outcomes))
    assert best_of_k(scores, outcomes, 1) == pytest.approx(mean(outcomes))
    for k in range(1, n + 1):
        # no choice among k samples beats knowing which is right, which is best-of-k by the outcome itself
        assert best_of_k(outcomes, outcomes, k) == pytest.approx(passed[k - 1])
        assert best_of_k(scores, outcomes, k) <= passed[k - 1] + 1e-12
        assert majority_at_k(answers, outcomes, k) <= passed[k - 1] + 1e-12
        # the order of samples is of no meaning; a verifier that cannot tell them apart chooses at random
        assert best_of_k([7.0] * n, outcomes, k) == pytest.approx(mean(outcomes))
        assert majority_at_k(answers[::-1], outcomes[::-1], k) == pytest.approx(majority_at_k(answers, outcomes, k))


def test_many_samples_are_no_problem() -> None:
    assert majority_at_k(list(range(128)), [1.0] + [0.0] * 127, 64) == pytest.approx(1 / 128)
    assert majority_at_k([i % 9 for i in range(128)], [float(i % 9 == 0) for i in range(128)], 128) > 0.49
    assert 0 < pass_at_k([1.0] + [0.0] * 999, 500) < 1


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_fit(k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of 3 samples"):
        pass_at_k([1.0, 0.0, 0.0], k)
    with pytest.raises(ValueError, match="2 answers or scores for 3 outcomes"):
        best_of_k([1.0, 0.0], [1.0, 0.0, 0.0], 1)
