"""How far a judge agrees with human labels: data, measures, and uninformed judges as baselines.

A labelled item is a prompt, a rubric, an answer and a gold score per criterion. With a_i the judge's and b_i the gold
score of criterion i, both divided by its points:

    accuracy   share of i with the same whole number of points (the mean of several votes is rounded)
    kappa      1 − mean_i (a_i − b_i)² / mean_{i,j} (a_i − b_j)²       quadratically weighted (Cohen 1968)
    mae        mean over items of |p − p*|, p the weighted mean of an answer
    pearson    correlation of p and p* over items; None when one of them is constant
    pairs      of two answers to one prompt with different p*: share that p puts in the right order, a tie counts ½
    unusable   share of items without a usable verdict; the other measures are over the rest

GRPO only reads differences between answers to one prompt, so ``pairs`` is the one that matters most for training.
Intervals: 95 %, bootstrap over prompts, because the answers to one prompt are not independent.
"""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from rewards.rubric import weighted_mean
from rewards.verdict import Criterion, read_rubric

MEASURES = ("accuracy", "kappa", "mae", "pearson", "pairs", "unusable")
Scores = Mapping[str, float]  # criterion → points; the mean of several votes need not be whole


@dataclass(frozen=True)
class Item:
    """One labelled answer."""

    id: str
    prompt: str
    criteria: tuple[Criterion, ...]
    answer: str
    gold: Scores
    quality: str = ""  # what the author of the item meant it to be: good, middling, bad


@dataclass(frozen=True)
class Measure:
    """A value with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def read_items(path: str | Path) -> list[Item]:
    """Items from JSON lines: {id, prompt, rubric, answer, gold: {name: points}, quality}.

    Raises:
        ValueError: names the line and the field.
    """
    items = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        where = f"{path}:{number}"
        try:
            raw = json.loads(line)
            if not isinstance(raw, dict):
                raise ValueError(f"{where}: a line is a JSON object, this one a {type(raw).__name__}")
            criteria = read_rubric(raw["rubric"], f"{where}: rubric")
            item = Item(raw["id"], raw["prompt"], criteria, raw["answer"], raw["gold"], raw.get("quality", ""))
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where}: {error} is missing; an item has id, prompt, rubric, answer, gold") from error
        for c in criteria:
            score = item.gold.get(c.key)
            if isinstance(score, bool) or not isinstance(score, int) or not 0 <= score <= c.points:
                raise ValueError(f"{where}: gold.{c.key}={score!r}: give a whole number from 0 to {c.points}")
        items.append(item)
    if not items:
        raise ValueError(f"{path} holds no items")
    return items


def agreement(
    items: Sequence[Item], found: Sequence[Scores | None], *, draws: int = 1000, seed: int = 0
) -> dict[str, Measure]:
    """Every measure of ``MEASURES``.

    Args:
        found: the judge's scores per item, in the same order; None where it gave no usable verdict.
        draws: bootstrap samples of prompts. seed: of their choice.
    """
    by_prompt: dict[str, list[tuple[Item, Scores | None]]] = {}
    for item, scores in zip(items, found, strict=True):
        by_prompt.setdefault(item.prompt, []).append((item, scores))
    prompts = list(by_prompt.values())
    values = _measures(prompts)
    random_ = random.Random(seed)
    drawn = [_measures(random_.choices(prompts, k=len(prompts))) for _ in range(draws)]
    out = {}
    for name in MEASURES:
        known = sorted(v for d in drawn if (v := d[name]) is not None)
        interval = (_at(known, 0.025), _at(known, 0.975)) if known and values[name] is not None else (None, None)
        out[name] = Measure(values[name], *interval)
    return out


def _measures(prompts: Sequence[Sequence[tuple[Item, Scores | None]]]) -> dict[str, float | None]:
    everything = [one for answers in prompts for one in answers]
    used = [(item, scores) for item, scores in everything if scores is not None]
    pairs = [(scores[c.key] / c.points, item.gold[c.key] / c.points) for item, scores in used for c in item.criteria]
    same = [round(scores[c.key]) == item.gold[c.key] for item, scores in used for c in item.criteria]
    means = [(weighted_mean(i.criteria, s), weighted_mean(i.criteria, i.gold)) for i, s in used]
    return {
        "accuracy": statistics.fmean(same) if same else None,
        "kappa": kappa(pairs),
        "mae": statistics.fmean(abs(p - gold) for p, gold in means) if means else None,
        "pearson": pearson(means),
        "pairs": ordered_pairs(prompts),
        "unusable": 1 - len(used) / len(everything),
    }


def kappa(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Quadratically weighted kappa of (judge, gold); None when chance alone would agree in everything."""
    if not pairs:
        return None
    judge, gold = zip(*pairs, strict=True)
    observed = statistics.fmean((a - b) ** 2 for a, b in pairs)
    # mean over all i, j of (a_i - b_j)^2, without the double loop
    expected = statistics.pvariance(judge) + statistics.pvariance(gold)
    expected += (statistics.fmean(judge) - statistics.fmean(gold)) ** 2
    return 1 - observed / expected if expected > 0 else None


def pearson(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Correlation of the two; None with fewer than two pairs or a constant side."""
    if len(pairs) < 2:
        return None
    try:
        return statistics.correlation(*zip(*pairs, strict=True))
    except statistics.StatisticsError:
        return None


def ordered_pairs(prompts: Sequence[Sequence[tuple[Item, Scores | None]]]) -> float | None:
    """Share of the pairs of answers to one prompt that the judge puts in the gold order; ties count ½."""
    right: list[float] = []
    for answers in prompts:
        means = [(weighted_mean(i.criteria, s), weighted_mean(i.criteria, i.gold)) for i, s in answers if s is not None]
        for (p, gold), (q, other) in combinations(means, 2):
            if gold != other:
                right.append(0.5 if p == q else float((p > q) == (gold > other)))
    return statistics.fmean(right) if right else None


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


# -- uninformed judges -----------------------------------------------------------------------


def constant(item: Item) -> Scores:
    """Full points for everything."""
    return {c.key: c.points for c in item.criteria}


def by_length(item: Item) -> Scores:
    """None, half, all of the points for fewer than 60, fewer than 150, more characters."""
    share = (len(item.answer) >= 60) / 2 + (len(item.answer) >= 150) / 2
    return {c.key: int(share * c.points) for c in item.criteria}


def by_keywords(item: Item) -> Scores:
    """None, half, all of the points for 0, 1, more words of the criterion that occur in the answer."""
    said = _words(item.answer)
    return {c.key: int(min(2, len(_words(c.criterion) & said)) / 2 * c.points) for c in item.criteria}


YARDSTICKS: dict[str, Callable[[Item], Scores]] = {
    "constant": constant,
    "length": by_length,
    "keywords": by_keywords,
}


def _words(text: str) -> set[str]:
    """Words of four letters or more, without their endings."""
    return {word[:5] for word in re.findall(r"[^\W\d_]{4,}", text.lower())}


def to_json(measures: Mapping[str, Measure]) -> dict[str, Any]:
    """Plain numbers, rounded for a file that people read."""

    def short(x: float | None) -> float | None:
        return None if x is None else round(x, 4)

    return {n: {"value": short(m.value), "ci95": [short(m.low), short(m.high)]} for n, m in measures.items()}
