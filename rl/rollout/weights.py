"""Did the weights arrive? Every engine scores a probe after a sync, and the learner the same one.

Twice: with the engine's choices of experts and rows repeated, so that near-ties are no matter and a difference is one
of weights or numerics; and with choices of its own (live), which shows an engine that holds the right weights and
chooses otherwise. The first difference ends a run, the second is a metric and an alarm (``rl.doctor``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl.types import ProbeScores

PROBE_MAX, LIVE_MEAN, LIVE_MAX = "mismatch/probe_max", "mismatch/probe_live_mean", "mismatch/probe_live_max"
ROUTING, INDEXER = "replay/probe_routing_overlap", "replay/probe_indexer_overlap"

TYPICAL = 1 / 8  # root mean square over the probe, in units of the largest difference that is allowed


class WeightSyncError(RuntimeError):
    """An engine does not compute what the learner computes: training on its samples silently goes wrong."""


def probe_mismatch(
    where: str, version: int, engine_logprobs: np.ndarray, learner_logprobs: np.ndarray, tolerance: float
) -> float:
    """max_t |log pi_engine - log pi_learner| over a probe, both float [T-1].

    Raises:
        WeightSyncError: above ``tolerance``, a root mean square above ``TYPICAL`` times ``tolerance`` (single unlikely
            tokens differ far more by rounding than the rest: the mean is the sharper test), not finite, or different
            lengths; says where and which token.
    """
    engine, learner = np.asarray(engine_logprobs, np.float64), np.asarray(learner_logprobs, np.float64)
    if engine.shape != learner.shape:
        raise WeightSyncError(
            f"probe of {where} at version {version}: log-probs {engine.shape} from the engine, "
            f"{learner.shape} from the learner; both must cover tokens[1:]"
        )
    difference = np.abs(engine - learner)
    worst = int(np.argmax(np.where(np.isfinite(difference), difference, np.inf)))
    typical = float(np.sqrt(np.square(difference).mean()))
    if not (difference[worst] <= tolerance and typical <= TYPICAL * tolerance):  # NaN fails too
        raise WeightSyncError(
            f"weight sync of {where} to version {version}: log-prob of probe token {worst + 1} is "
            f"{engine[worst]:.6f} in the engine and {learner[worst]:.6f} in the learner (difference "
            f"{difference[worst]:.2e}, allowed {tolerance:.0e}; root mean square of all {typical:.2e}, allowed "
            f"{TYPICAL * tolerance:.0e}). The engine does not hold the learner's "
            "weights, or computes them differently"
        )
    return float(difference[worst])


def live_mismatch(engine_logprobs: np.ndarray, scores: ProbeScores) -> dict[str, float]:
    """|log pi_engine - log pi_learner| over the probe, nats, each side with choices of its own, and how far these are
    the same; empty where nothing is chosen."""
    if scores.live is None:
        return {}
    difference = np.abs(np.asarray(engine_logprobs, np.float64) - scores.live)
    found = {LIVE_MEAN: float(difference.mean()), LIVE_MAX: float(difference.max())}
    overlaps = {ROUTING: scores.routing_overlap, INDEXER: scores.indexer_overlap}
    return found | {name: value for name, value in overlaps.items() if value is not None}


def worst_of(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each number the worst worker's: the largest difference, the smallest overlap."""
    names = dict.fromkeys(name for one in found for name in one)
    return {
        name: (min if name in (ROUTING, INDEXER) else max)(one[name] for one in found if name in one) for name in names
    }
