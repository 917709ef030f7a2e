"""The learner inside a real Ray actor: step, publish, probe, checkpoint, threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from rl.learner.actor import start_learner
from rl.learner.config import LearnerConfig
from rl.objective.config import ObjectiveConfig
from rl.types import Group


def test_learner_actor(
    local_ray: None, policy_config: dict, make_groups: Callable[..., list[Group]], tmp_path: Path
) -> None:
    config = LearnerConfig(lr=1e-3, threads=1)
    actor = start_learner(policy_config, config, ObjectiveConfig(), tmp_path)
    groups = make_groups()
    metrics: Any = ray.get(actor.step.remote(groups), timeout=240)
    assert metrics["mismatch/max"] < 1e-5
    assert ray.get(actor.version.remote(), timeout=240) == 1
    ray.get(actor.accumulate.remote(groups[1:]), timeout=240)
    ray.get(actor.finish.remote(groups[:1], [0, 1]), timeout=240)
    assert ray.get(actor.version.remote(), timeout=240) == 2
    stored, size = actor.weights.options(num_returns=2).remote()
    assert ray.get(size, timeout=240) == sum(array.nbytes for array, _ in ray.get(stored, timeout=240).values())
    segment = groups[0].trajectories[0].segments[0]
    probe = ray.get(actor.probe_logprobs.remote(segment.tokens, segment.replay), timeout=240)
    assert probe.shape == (len(segment) - 1,)
    path = ray.get(actor.save_checkpoint.remote(str(tmp_path / "c"), 1, {"note": 7}), timeout=240)
    assert ray.get(actor.load_checkpoint.remote(str(path)), timeout=240) == {"note": 7, "step": 1}
    ray.get(actor.save_policy.remote(str(tmp_path / "p")), timeout=240)
    assert (tmp_path / "p" / "model.safetensors").is_file()
