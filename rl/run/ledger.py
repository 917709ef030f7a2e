"""Compute ledger: FLOPs of every stage of a run, rollout and learner apart, and the budget of RL.

RL is the GRPO stages, their rollouts and their training (specialists and mixed). Two shares of it are given: of the
base's pre-training (the paper's measure: its post-training took more than 10 % of pre-training) and of all that
the run and its base have cost, evaluation included. The FLOPs of one token are in ``rl.policy.flops``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rl.policy.flops import CostModel, Work

if TYPE_CHECKING:
    from configs.schema import BudgetConfig
    from rl.objective.config import ObjectiveConfig
    from rl.rollout.pool import RolloutPool
    from rl.types import Trajectory

Kind = Literal["pre-training", "supervised", "rl", "data", "evaluation"]
CARD = "card.json"  # written beside a base policy by rl-pretrain


class Ledger:
    """FLOPs by stage. ``pretraining`` None: not known (a policy without ``card.json``).

    Args:
        stages: what an earlier part of the same run had counted (``summary["compute"]["stages"]``).
    """

    def __init__(
        self,
        cost: CostModel,
        pretraining: float | None,
        rl_share: float | None = None,
        stages: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        if rl_share is not None and pretraining is None:
            raise ValueError(
                f"budget.rl_share={rl_share} is a share of the base's pre-training, whose FLOPs are not known (the "
                f"policy has no {CARD}): set budget.pretrain_flops, or leave budget.rl_share=null"
            )
        self.cost, self.pretraining, self.rl_share = cost, pretraining, rl_share
        self.stages: dict[str, dict[str, Any]] = {name: dict(entry) for name, entry in (stages or {}).items()}
        if pretraining is not None:
            self.put("pre-training", "pre-training", learner=pretraining)

    def put(self, stage: str, kind: Kind, rollout: float = 0.0, learner: float = 0.0) -> None:
        """What ``stage`` has cost in all: FLOPs of its rollouts and of its training."""
        self.stages[stage] = {"kind": kind, "rollout": float(rollout), "learner": float(learner)}

    def flops(self, *kinds: Kind) -> float:
        """Sum over the stages of these kinds; all of them when none is named."""
        named = [e for e in self.stages.values() if not kinds or e["kind"] in kinds]
        return sum(float(e["rollout"] + e["learner"]) for e in named)

    @property
    def rl_over_pretraining(self) -> float | None:
        """FLOPs of all GRPO stages, rollouts and learner, by those of the base's pre-training."""
        return self.flops("rl") / self.pretraining if self.pretraining else None

    def exhausted(self) -> str:
        """Why RL has to stop now, or "" while it may go on."""
        share = self.rl_over_pretraining
        if self.rl_share is None or share is None or share < self.rl_share:
            return ""
        return f"budget.rl_share={self.rl_share:g} is spent: RL took {share:.1%} of the pre-training FLOPs"

    def summary(self) -> dict[str, Any]:
        """``summary.json: compute``."""
        total, rl = self.flops(), self.flops("rl")
        post = self.flops("supervised", "data", "rl")
        known = self.pretraining is not None
        return {
            "stages": self.stages,
            "total_flops": total,
            "rl_flops": rl,
            "rl_over_pretraining": rl / self.pretraining if self.pretraining else None,
            "post_training_over_pretraining": post / self.pretraining if self.pretraining else None,
            # A share of all that was spent has a meaning only when the largest part is known.
            "rl_over_total": rl / total if known and total else None,
        }


class RolloutMeter:
    """FLOPs of the engines of a pool since the last reading.

    Tokens come from the engines' own counts: prompt tokens that were not in the prefix cache, and one pass for every
    sampled token but the last of a request. Contexts are means over the trajectories: sampled tokens for
    decoding, the others for prefill (of which the cache mostly holds the early ones, so this is a little low).
    """

    def __init__(self, cost: CostModel, pool: RolloutPool) -> None:
        self._cost, self._pool = cost, pool
        self._last = pool.stats()

    def read(self, trajectories: Sequence[Trajectory], stats: Mapping[str, float] | None = None) -> float:
        """FLOPs since the last call; ``stats`` is ``pool.stats()`` when the caller has it already."""
        now = self._pool.stats() if stats is None else stats
        last, self._last = self._last, dict(now)
        sampled, given = contexts(trajectories)
        if now["workers_restarted"] != last["workers_restarted"]:
            # The counts of the lost engine are gone: take what the trajectories show, as if nothing was shared.
            prefill, decoded = float(len(given)), float(len(sampled))
        else:
            prefill, decoded = prefilled(now) - prefilled(last), decodes(now) - decodes(last)
        cost = self._cost
        return cost.forward(cost.at(given).scaled(prefill) + cost.at(sampled).scaled(decoded))


class StageMeter:
    """One GRPO stage's entry in the ledger, step by step.

    Args:
        spent: ``flops`` of a checkpoint that the stage goes on from.
    """

    def __init__(
        self, ledger: Ledger, stage: str, pool: RolloutPool, objective: ObjectiveConfig, spent: Mapping[str, float]
    ) -> None:
        self._ledger, self._stage = ledger, stage
        self._meter = RolloutMeter(ledger.cost, pool)
        self._extra_forwards = int(objective.uses_reference) + int(objective.old_policy == "learner")
        self.flops = {"rollout": 0.0, "learner": 0.0} | dict(spent)
        ledger.put(stage, "rl", **self.flops)

    def step(
        self,
        trajectories: Sequence[Trajectory],
        learner_tokens: float,
        stats: Mapping[str, float],
        taught_tokens: float = 0.0,
    ) -> dict[str, float]:
        """Count one step; metrics of it. ``learner_tokens``: those that it computed, at the trajectories' mean
        context; ``taught_tokens``: of them those that a teacher has computed too, which is counted as a policy of the
        same size."""
        cost = self._ledger.cost
        every = Work()
        for t in trajectories:
            for segment in t.segments:
                every = every + cost.sequence(len(segment))
        rollout = self._meter.read(trajectories, stats)
        trained = every.scaled(learner_tokens)
        learner = cost.training(trained) + self._extra_forwards * cost.forward(trained)
        learner += cost.forward(every.scaled(taught_tokens))
        self.flops["rollout"] += rollout
        self.flops["learner"] += learner
        self._ledger.put(self._stage, "rl", **self.flops)
        metrics = {"compute/rollout_flops": rollout, "compute/learner_flops": learner}
        share = self._ledger.rl_over_pretraining
        return metrics if share is None else metrics | {"compute/rl_share": share}

    def exhausted(self) -> str:
        """``Ledger.exhausted``."""
        return self._ledger.exhausted()


def open_ledger(budget: BudgetConfig, base: Path, stages: Mapping[str, Mapping[str, Any]] | None) -> Ledger:
    """The ledger of a run whose policy starts from ``base``.

    Pre-training FLOPs: ``budget.pretrain_flops``, else from the base's ``card.json``. Raises ValueError when
    ``budget.rl_share`` is set and neither is there.
    """
    cost = CostModel.load(base)
    pretraining = budget.pretrain_flops
    card = base / CARD
    if pretraining is None and card.is_file():
        pretraining = cost.supervised(json.loads(card.read_text()))
    return Ledger(cost, pretraining, budget.rl_share, stages)


def contexts(trajectories: Iterable[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that each token sees, itself included: of the sampled tokens, and of all others."""
    sampled, given = [np.empty(0)], [np.empty(0)]
    for t in trajectories:
        for segment in t.segments:
            c = np.arange(1, len(segment) + 1)
            sampled.append(c[segment.loss_mask])
            given.append(c[~segment.loss_mask])
    return np.concatenate(sampled), np.concatenate(given)


def prefilled(stats: Mapping[str, float]) -> float:
    """Prompt tokens that engines have computed: those not found in the prefix cache."""
    return stats["prompt_tokens"] - stats["cached_prompt_tokens"]


def decodes(stats: Mapping[str, float]) -> float:
    """Forward passes of sampled tokens: the last one of a request is never an input."""
    return stats["sampled_tokens"] - stats["finished"]
