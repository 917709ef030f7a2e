r"""How far a figure may be off: intervals over tasks, and the difference of two evaluations of the same tasks.

Samples of one task are not independent, so the task is the unit (clustered errors, Miller 2024, arXiv 2411.00640)::

    x̄ = (1/n) Σ_i x_i        x_i: the task's own figure (its avg@k, pass@k, …)
    stderr = s / √n           s²: sample variance of the x_i, with n − 1

Two intervals at the same confidence: the **bootstrap** draws n tasks with replacement and takes percentiles of their
means; **Wilson's** is for figures in [0, 1] and stays honest near 0 and 1, where all tasks agree and the bootstrap
has no width. Its number of trials is the effective one, as many independent trials as have the same error::

    n_eff = x̄(1 − x̄) / stderr²,  at least n − 1 by construction; n when x̄ is 0 or 1; never above the samples there are
    centre ± half = ( x̄ + z²/2n_eff  ±  z √( x̄(1−x̄)/n_eff + z²/4n_eff² ) ) / (1 + z²/n_eff)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

_BLOCKS, _BLOCK = 8, 500  # bootstrap draws: 4,000
_SEED = 20210707  # of the bootstrap: the same data give the same interval


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks with its error. ``wilson`` is None when a value lies outside [0, 1]."""

    mean: float
    stderr: float
    n_tasks: int
    bootstrap: tuple[float, float]
    wilson: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        raw = asdict(self)
        return raw | {name: raw[name] and list(raw[name]) for name in ("bootstrap", "wilson")}


@dataclass(frozen=True)
class Difference:
    """Mean over the common tasks of (second − first); ``left_out`` tasks were in one evaluation only."""

    mean: float
    stderr: float
    n_tasks: int
    bootstrap: tuple[float, float]
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"bootstrap": list(self.bootstrap)}


def estimate(values: Sequence[float], samples: int, confidence: float) -> Estimate:
    """The mean of one value per task. ``samples``: samples behind them all, an upper bound of the evidence.

    Raises ValueError without values, or when ``confidence`` is not in (0, 1).
    """
    if not values:
        raise ValueError("no task has a value; nothing to estimate")
    centre = float(np.mean(values))
    wilson = None
    if min(values) >= 0.0 and max(values) <= 1.0:
        wilson = wilson_interval(centre, effective_samples(values, samples), confidence)
    return Estimate(centre, stderr(values), len(values), bootstrap_interval(values, confidence), wilson)


def stderr(values: Sequence[float]) -> float:
    """s / √n, with n − 1 in the variance; 0 for a single task, which says nothing of its error."""
    return float(np.std(values, ddof=1) / sqrt(len(values))) if len(values) > 1 else 0.0


def bootstrap_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Percentile interval of the mean over tasks drawn with replacement. Deterministic."""
    _check_confidence(confidence)
    column = np.asarray(values, dtype=float)
    rng = np.random.default_rng(_SEED)
    # in blocks: 4,000 draws of many thousand tasks at once would not fit in memory
    means = [column[rng.integers(0, len(column), (_BLOCK, len(column)))].mean(axis=1) for _ in range(_BLOCKS)]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def wilson_interval(rate: float, trials: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of ``rate`` in ``trials`` (need not be whole). Raises ValueError out of range."""
    _check_confidence(confidence)
    if not 0.0 <= rate <= 1.0 or trials <= 0:
        raise ValueError(f"wilson_interval: rate={rate}, trials={trials}: need a rate in [0, 1] and trials above 0")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def effective_samples(values: Sequence[float], samples: int) -> float:
    """Independent trials that would have the clustered error of these tasks' values (all in [0, 1])."""
    centre, error = float(np.mean(values)), stderr(values)
    if not 0.0 < centre < 1.0:
        return len(values)  # all tasks at an end: every task counts once, however often it was sampled
    return float(samples if error == 0 else min(centre * (1 - centre) / error**2, samples))


def paired_difference(first: Mapping[str, float], second: Mapping[str, float], confidence: float) -> Difference:
    """``second`` minus ``first`` on the tasks that both have, values by task id.

    The tasks' own difficulty cancels, so the error is that of the differences, not of two independent means.

    Raises:
        ValueError: no task in common.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        raise ValueError("the two evaluations have no task in common; use the same env, eval.seed and eval.n_tasks")
    changes = [second[task] - first[task] for task in common]
    left_out = len(first.keys() ^ second.keys())
    interval = bootstrap_interval(changes, confidence)
    return Difference(float(np.mean(changes)), stderr(changes), len(common), interval, left_out)


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1, for example 0.95")
