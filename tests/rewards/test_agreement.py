"""Agreement with labelled answers: the measures by hand, the shipped set, judges that know nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.agreement import YARDSTICKS, Item, agreement, kappa, ordered_pairs, pearson, read_items
from rewards.verdict import Criterion
from rl.run.paths import resolve

DATA = resolve("pkg://rewards/data/rubric_agreement.jsonl")
CRITERIA = (Criterion("a", "Is right.", 1.0, 2), Criterion("b", "Is short.", 1.0, 2))


def item(name: str, prompt: str, a: int, b: int) -> Item:
    return Item(name, prompt, CRITERIA, "text", {"a": a, "b": b})


def test_kappa_by_hand() -> None:
    # (a, b): (0, 0), (1, 1), (1, 0): mean square 1/3; over all nine pairs (a_i - b_j)²: 0 1 0 · 1 0 1 · 1 0 1 → 5/9
    assert kappa([(0, 0), (1, 1), (1, 0)]) == pytest.approx(1 - (1 / 3) / (5 / 9))  # 0.4
    assert kappa([(0.0, 0.0), (1.0, 1.0)]) == 1.0
    assert kappa([(0.0, 1.0), (1.0, 0.0)]) == pytest.approx(-1.0)
    assert kappa([(1.0, 1.0)]) is None
    assert kappa([]) is None


def test_kappa_is_cohens_with_square_weights() -> None:
    """Against the textbook form with a confusion matrix."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    b[:100] = a[:100]
    seen = np.zeros((3, 3))
    np.add.at(seen, (a, b), 1 / 200)
    chance = np.outer(seen.sum(1), seen.sum(0))
    weights = (np.arange(3)[:, None] - np.arange(3)) ** 2
    expected = 1 - (weights * seen).sum() / (weights * chance).sum()
    assert kappa([(x / 2, y / 2) for x, y in zip(a, b, strict=True)]) == pytest.approx(expected)


def test_the_other_measures_by_hand() -> None:
    items = [item("p1", "p", 2, 2), item("p2", "p", 0, 0), item("p3", "p", 2, 0), item("q1", "q", 1, 1)]
    found = [{"a": 2, "b": 0}, {"a": 0, "b": 0}, {"a": 0, "b": 1.6}, None]
    measured = agreement(items, found, draws=50)
    # judge means 0.5, 0, 0.4; gold 1, 0, 0.5
    assert measured["accuracy"].value == pytest.approx(3 / 6)  # of six criteria: a, both of p2; 1.6 rounds to 2
    assert measured["mae"].value == pytest.approx((0.5 + 0 + 0.1) / 3)
    assert measured["pearson"].value == pytest.approx(np.corrcoef([0.5, 0, 0.4], [1, 0, 0.5])[0, 1])
    assert measured["pairs"].value == 1.0
    assert measured["unusable"].value == pytest.approx(1 / 4)
    assert measured["unusable"].low == 0.0
    assert measured["unusable"].high == 1.0
    tie = [(items[0], {"a": 1, "b": 1}), (items[1], {"a": 1, "b": 1}), (items[2], {"a": 0, "b": 0})]
    assert ordered_pairs([tie]) == pytest.approx((0.5 + 1 + 0) / 3)  # a tie, one in order, one not


def test_nothing_usable_is_not_defined() -> None:
    measured = agreement([item("p1", "p", 2, 2)], [None], draws=5)
    assert measured["accuracy"].value is None
    assert measured["pearson"].low is None
    assert measured["unusable"].value == 1.0
    assert pearson([(1.0, 0.0), (1.0, 1.0)]) is None


def test_intervals_are_the_same_again_and_hold_the_value() -> None:
    items = read_items(DATA)
    found = [YARDSTICKS["keywords"](one) for one in items]
    measured = agreement(items, found, draws=200, seed=3)
    assert agreement(items, found, draws=200, seed=3) == measured
    for name in ("accuracy", "mae", "pairs"):
        value, low, high = measured[name].value, measured[name].low, measured[name].high
        assert value is not None
        assert low is not None
        assert high is not None
        assert low < value < high


def test_the_shipped_set() -> None:
    items = read_items(DATA)
    assert len(items) == 60
    assert len({one.id for one in items}) == 60
    by_prompt: dict[str, dict[str, float]] = {}
    for one in items:
        points = sum(one.gold[c.key] * c.weight / c.points for c in one.criteria) / sum(c.weight for c in one.criteria)
        by_prompt.setdefault(one.prompt, {})[one.quality] = points
    assert len(by_prompt) == 20
    assert all(p["good"] == 1.0 and p["good"] > p["middling"] > p["bad"] for p in by_prompt.values())
    assert all(p["bad"] <= 0.4 for p in by_prompt.values())


def test_judges_that_know_nothing_are_near_chance_and_gold_is_perfect() -> None:
    items = read_items(DATA)
    for name, judge in YARDSTICKS.items():
        value = agreement(items, [judge(one) for one in items], draws=2)["kappa"].value
        assert value is not None
        assert value < 0.3, name
    perfect = agreement(items, [one.gold for one in items], draws=20)
    assert {n: m.value for n, m in perfect.items()} == {
        "accuracy": 1.0, "kappa": 1.0, "mae": 0.0, "pearson": pytest.approx(1.0), "pairs": 1.0, "unusable": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": {"c1": 3}}, "gold.c1=3: give a whole number from 0 to 2"),
        ({"gold": {}}, "gold.c1=None"),
        ({"rubric": []}, r"rubric is empty"),
        ({"answer": None}, "is missing; an item has id, prompt, rubric, answer, gold"),
    ],
)
def test_wrong_items_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    raw = {"id": "1", "prompt": "p", "rubric": ["x"], "answer": "a", "gold": {"c1": 1}} | change
    raw = {key: value for key, value in raw.items() if value is not None}
    (tmp_path / "items.jsonl").write_text(json.dumps(raw) + "\n")
    with pytest.raises(ValueError, match=f"items.jsonl:1.*{message}"):
        read_items(tmp_path / "items.jsonl")
