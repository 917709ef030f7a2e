"""The learner as a Ray actor: one process owns the policy, its optimiser and its torch threads.

learner = start_learner(policy_cfg, config, objective, run_dir)
metrics = ray.get(learner.step.remote(groups))
weights = learner.weights.remote()               # an object ref: hand it to the rollout workers as it is
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from rl.learner.checkpoint import load_checkpoint, save_checkpoint
from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import build_policy
from rl.types import Group, ReplayRecord


class LearnerProcess:
    """What runs inside the actor; every method is one remote call."""

    def __init__(
        self,
        policy: Mapping[str, Any],
        config: LearnerConfig,
        objective: ObjectiveConfig,
        run_dir: str,
        replay: ReplayConfig | None = None,
    ) -> None:
        """``policy``: a mapping for ``rl.policy.api.build_policy``, e.g. {"path": directory}."""
        built = build_policy(policy)
        if torch.cuda.is_available():
            built.module.to("cuda")
        self.learner = Learner(built, config, objective, run_dir, replay=replay)

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """``Learner.step``."""
        return self.learner.step(groups)

    def weights(self) -> dict[str, np.ndarray | torch.Tensor]:
        """``Learner.weights``: host copies by name."""
        return self.learner.weights()

    def version(self) -> int:
        """Version of the weights that ``weights`` returns."""
        return self.learner.version

    def probe_logprobs(self, tokens: Sequence[int] | np.ndarray, replay: ReplayRecord | None = None) -> np.ndarray:
        """``Learner.probe_logprobs``: float32 [T-1]."""
        return self.learner.probe_logprobs(tokens, replay)

    def save_policy(self, directory: str) -> None:
        """The policy alone, in the hub's layout (what an engine or transformers loads)."""
        self.learner.policy.save(directory)

    def save_checkpoint(self, root: str, step: int, extra: Mapping[str, Any] | None = None, keep: int = 2) -> Path:
        """``rl.learner.checkpoint.save_checkpoint``."""
        return save_checkpoint(root, self.learner, step, extra, keep)

    def load_checkpoint(self, path: str) -> dict[str, Any]:
        """``rl.learner.checkpoint.load_checkpoint``: the extra dict, with ``step``."""
        return load_checkpoint(path, self.learner)


def start_learner(
    policy: Mapping[str, Any],
    config: LearnerConfig,
    objective: ObjectiveConfig,
    run_dir: str | Path,
    *,
    replay: ReplayConfig | None = None,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
) -> ActorHandle:
    """Start the learner's actor. ``num_cpus`` is what Ray reserves; threads are ``config.threads``."""
    actor: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(LearnerProcess)
    return actor.remote(policy, config, objective, str(run_dir), replay)
