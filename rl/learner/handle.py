"""The learner as the loop sees it: plain calls, each with a deadline, on the actor behind them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.chat.tokenizer import copy_tokenizer
from rl.tracking.stall import StallError
from rl.types import Group, ReplayRecord

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from rl.rollout.pool import RolloutPool


class LearnerHandle:
    """Owns the learner actor of a run. Policy and tokenizer start from ``policy_dir``."""

    def __init__(self, cfg: TrainConfig, policy_dir: Path, run_dir: Path) -> None:
        import ray

        from rl.learner.actor import start_learner

        self._ray = ray
        self._deadline_s = cfg.step_deadline_s
        self._policy_dir = policy_dir
        self._probe_tokens = probe_tokens(policy_dir, cfg.seed)
        self._actor = start_learner(
            {"path": str(policy_dir)},
            cfg.learner,
            cfg.objective,
            run_dir,
            replay=cfg.replay,
            num_gpus=cfg.ray.learner_gpus,
        )

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """``Learner.step`` in the actor."""
        return self._get("the learner's step", self._actor.step.remote(list(groups)))

    def sync(self, pool: RolloutPool, version: int) -> float:
        """Publish the weights to every engine as ``version``; returns the largest log-prob difference on the probe.

        Raises WeightSyncError when an engine does not compute what the learner computes.
        """
        weights = self._get("the learner's weights", self._actor.weights.remote())
        mismatch = pool.sync(weights, version, self._probe_tokens, self.probe).mismatch
        assert mismatch is not None  # a probe was given
        return mismatch

    def probe(self, tokens: list[int], replay: ReplayRecord | None) -> np.ndarray:
        """The learner's log-probs of ``tokens[1:]``."""
        return self._get("the learner's probe", self._actor.probe_logprobs.remote(tokens, replay))

    def save(self, root: Path, step: int, extra: dict[str, Any], keep: int) -> None:
        """Full-state checkpoint with ``extra`` beside it."""
        self._get("the checkpoint", self._actor.save_checkpoint.remote(str(root), step, extra, keep))

    def load(self, path: Path) -> dict[str, Any]:
        """Restore a checkpoint; returns its ``extra``."""
        return self._get("the checkpoint to load", self._actor.load_checkpoint.remote(str(path)))

    def save_policy(self, directory: Path) -> None:
        """The policy with its tokenizer, as transformers and vLLM load it."""
        self._get("the policy to be saved", self._actor.save_policy.remote(str(directory)))
        copy_tokenizer(self._policy_dir, directory)

    def close(self) -> None:
        """End the actor."""
        self._ray.kill(self._actor, no_restart=True)

    def _get(self, what: str, ref: Any) -> Any:
        try:
            return self._ray.get(ref, timeout=self._deadline_s)
        except self._ray.exceptions.GetTimeoutError:
            raise StallError(f"{what} (step_deadline_s)", self._deadline_s) from None


def probe_tokens(policy_dir: Path, seed: int, length: int = 192) -> list[int]:
    """Random token ids: a probe longer than the tiny policy's index_topk, so that the sparse path is compared."""
    vocab_size = json.loads((policy_dir / "config.json").read_text())["vocab_size"]
    return np.random.default_rng(seed).integers(0, vocab_size, length).tolist()
