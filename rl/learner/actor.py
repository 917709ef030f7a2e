"""The learner as a Ray actor, and the driver's handle on it.

``LearnerProcess`` runs in the actor: one process owns the policy, its optimiser and its torch threads.
``LearnerHandle`` is what the loop calls: plain methods, each with a deadline that names what it waits for.

learner = start_learner(policy_cfg, config, objective, run_dir)
metrics = ray.get(learner.step.remote(groups))
weights, size = learner.weights.options(num_returns=2).remote()   # object refs: workers take the first as it is
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rl.chat.tokenizer import copy_tokenizer
from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.overlap import Overlap
from rl.objective.config import ObjectiveConfig
from rl.policy.packed_weights import Packed, pack, packed_bytes
from rl.tracking.stall import StallError
from rl.types import Group, ProbeScores, ReplayRecord

if TYPE_CHECKING:
    import ray
    from ray.actor import ActorHandle

    from configs.schema import TrainConfig
    from rl.rollout.pool import RolloutPool

log = logging.getLogger(__name__)
T = TypeVar("T")
PROBE = 192  # tokens of the sync probe, at least


class LearnerHandle:
    """Owns the learner actor of a run. Policy and tokenizer start from ``policy_dir``."""

    def __init__(self, cfg: TrainConfig, policy_dir: Path, run_dir: Path) -> None:
        import ray

        self._ray = ray
        self._deadline_s = cfg.step_deadline_s
        self._policy_dir = policy_dir
        self._engine_dtype = cfg.rollout.dtype
        self._adapts = cfg.learner.lora.rank > 0
        self._tell_operators = cfg.learner.ops != "torch"
        self._probe_tokens = probe_tokens(policy_dir, cfg.seed, cfg.rollout.max_context - 1)
        self._overlap: Overlap | None = None
        self._actor = start_learner(
            {"path": str(policy_dir)},
            cfg.learner,
            cfg.objective,
            run_dir,
            replay=cfg.replay,
            num_gpus=cfg.ray.learner_gpus,
        )

    @property
    def started_from(self) -> str:
        """Name of the policy's directory: a cached stage has its key in it."""
        return self._policy_dir.name

    def overlap(self) -> Overlap:
        """For ``pool.take``: the groups of the next ``step`` are worked on as they arrive."""
        self._overlap = Overlap(self._actor.accumulate.remote, partial(self._get, "the learner's work on a batch"))
        return self._overlap

    def step(self, groups: Sequence[Group], pool: RolloutPool) -> dict[str, float]:
        """``Learner.step`` in the actor, less what was done in ``overlap``; ``pool`` takes in the groups that finish
        meanwhile."""
        overlap, self._overlap = self._overlap, None
        step: ray.ObjectRef[dict[str, float]]
        if overlap is None:
            step = self._actor.step.remote(list(groups))
        else:
            step = self._actor.finish.remote(overlap.waiting, [group.id for group in groups])
        pool.receive_until(step, self._deadline_s)
        return self._get("the learner's step", step, left_s=5.0)  # it is there, or it was waited for long enough

    def sync(self, pool: RolloutPool, version: int) -> float:
        """Publish the weights to every engine as ``version``; returns the largest log-prob difference on the probe.

        Raises WeightSyncError when an engine does not compute what the learner computes.
        """
        if self._tell_operators:  # its process is up now; what it logs itself stays there
            log.warning("%s", self._get("the learner's operators", self._actor.operators.remote()))
            self._tell_operators = False
        if self._adapts and pool.base != str(self._policy_dir):
            pool.take_base(str(self._policy_dir), partial(self._stored, self._actor.base_weights))
        stored = partial(self._stored, self._actor.weights)
        mismatch = pool.sync(stored, version, self._probe_tokens, self.probe).mismatch
        assert mismatch is not None  # a probe was given
        return mismatch

    def _stored(self, method: Any) -> ray.ObjectRef[Packed]:
        """Weights that the learner puts into the object store, where workers read them: not through this process."""
        weights: ray.ObjectRef[Packed]
        weights, size = method.options(num_returns=2).remote()
        self._get("the learner's weights", size)
        return weights

    def probe(self, tokens: list[int], replay: ReplayRecord | None) -> ProbeScores:
        """The learner's log-probs of ``tokens[1:]``, and how far the engine's may be from them."""
        return self._get("the learner's probe", self._actor.probe.remote(tokens, replay, self._engine_dtype))

    def save(self, root: Path, step: int, extra: dict[str, Any], keep: int) -> None:
        """Full-state checkpoint, ``extra`` included."""
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

    def _get(self, what: str, ref: ray.ObjectRef[T], left_s: float | None = None) -> T:
        try:
            return self._ray.get(ref, timeout=self._deadline_s if left_s is None else left_s)
        except self._ray.exceptions.GetTimeoutError:
            raise StallError(f"{what} (step_deadline_s)", self._deadline_s) from None
        except self._ray.exceptions.RayActorError as error:
            raise RuntimeError(f"the learner's process is gone; the run waited for {what}") from error


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
        """``policy``: a mapping for ``rl.policy.loading.build_policy``, e.g. {"path": directory}."""
        import torch  # in the actor only: the driver needs the handle, not torch

        from rl.learner.learner import Learner
        from rl.policy.loading import build_policy

        built = build_policy(policy)
        if torch.cuda.is_available():
            built.module.to("cuda")
        self.learner = Learner(built, config, objective, run_dir, replay=replay)

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """``Learner.step``."""
        return self.learner.step(groups)

    def accumulate(self, groups: Sequence[Group]) -> None:
        """``Learner.accumulate``."""
        self.learner.accumulate(groups)

    def finish(self, rest: Sequence[Group], ids: Sequence[int]) -> dict[str, float]:
        """``Learner.finish``, once the ``rest`` of the groups ``ids`` is accumulated too."""
        if rest:
            self.learner.accumulate(rest)
        return self.learner.finish(ids)

    def weights(self) -> tuple[Packed, int]:
        """What an engine needs, to stay in the object store (ask for two returns), and its bytes.

        Ray copies the live weights into the store before the next call runs.
        """
        packed = pack(self.learner.compute.policy.weights())
        return packed, packed_bytes(packed)

    def base_weights(self) -> tuple[Packed, int]:
        """``weights``, of what an adapter is added to."""
        packed = pack(self.learner.base_weights())
        return packed, packed_bytes(packed)

    def operators(self) -> str:
        """What ``learner.ops`` came to, and where it runs."""
        return self.learner.operators

    def version(self) -> int:
        """Version of the weights that ``weights`` returns."""
        return self.learner.version

    def probe_logprobs(self, tokens: Sequence[int] | np.ndarray, replay: ReplayRecord | None = None) -> np.ndarray:
        """``Learner.probe_logprobs``: float32 [T-1]."""
        return self.learner.probe_logprobs(tokens, replay)

    def probe(self, tokens: Sequence[int], replay: ReplayRecord | None, engine_dtype: str) -> ProbeScores:
        """``Learner.probe``."""
        return self.learner.probe(tokens, replay, engine_dtype)

    def save_policy(self, directory: str) -> None:
        """The policy alone, in the hub's layout (what an engine or transformers loads) and the dtype it computes in."""
        self.learner.compute.policy.save(directory)

    def save_checkpoint(self, root: str, step: int, extra: Mapping[str, Any] | None = None, keep: int = 2) -> Path:
        """``rl.learner.checkpoint.save_checkpoint``."""
        from rl.learner.checkpoint import save_checkpoint

        return save_checkpoint(root, self.learner, step, extra, keep)

    def load_checkpoint(self, path: str) -> dict[str, Any]:
        """``rl.learner.checkpoint.load_checkpoint``: the extra dict, with ``step``."""
        from rl.learner.checkpoint import load_checkpoint

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
) -> ActorHandle[LearnerProcess]:
    """Start the learner's actor. ``num_cpus`` is what Ray reserves; threads are ``config.threads``."""
    import ray

    actor: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(LearnerProcess)
    handle: ActorHandle[LearnerProcess] = actor.remote(policy, config, objective, str(run_dir), replay)
    return handle


def probe_tokens(policy_dir: Path, seed: int, longest: int) -> list[int]:
    """Random token ids, ``PROBE`` or so many more than the DSA indexer keeps that the sparse path is compared; at most
    ``longest``, what the engine's window has room for (then no rollout is long enough for it either)."""
    config = json.loads((policy_dir / "config.json").read_text())
    length = min(longest, max(PROBE, config.get("index_topk", 0) + PROBE // 2))
    tokens: list[int] = np.random.default_rng(seed).integers(0, config["vocab_size"], length).tolist()
    return tokens
