"""The learner inside a real Ray actor: step, publish, probe, checkpoint, threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from train_runs import train_config

from rl.learner import actor as actors
from rl.learner.actor import LearnerHandle, start_learner
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
    assert ray.get(actor.operators.remote(), timeout=240) == "learner.ops=torch: torch"
    segment = groups[0].trajectories[0].segments[0]
    probe = ray.get(actor.probe_logprobs.remote(segment.tokens, segment.replay), timeout=240)
    assert probe.shape == (len(segment) - 1,)
    path = ray.get(actor.save_checkpoint.remote(str(tmp_path / "c"), 1, {"note": 7}), timeout=240)
    assert ray.get(actor.load_checkpoint.remote(str(path)), timeout=240) == {"note": 7, "step": 1}
    ray.get(actor.save_policy.remote(str(tmp_path / "p")), timeout=240)
    assert (tmp_path / "p" / "model.safetensors").is_file()


@pytest.mark.parametrize("ops", ["torch", "triton"])
def test_other_operators_than_torch_s_are_said_once(
    ops: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the actor logs stays in its process, so the driver says it with the first sync."""
    remote = SimpleNamespace(
        operators=SimpleNamespace(remote=lambda: f"learner.ops={ops}: here"),
        weights=SimpleNamespace(remote=lambda: {}),
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(actors, "start_learner", lambda *_, **__: remote)
    monkeypatch.setattr(actors, "probe_tokens", lambda *_: [1, 2])
    handle = LearnerHandle(train_config(f"learner.ops={ops}"), Path("p"), Path("r"))
    monkeypatch.setattr(handle, "_ray", SimpleNamespace(get=lambda ref, timeout: ref, exceptions=ray.exceptions))
    pool: Any = SimpleNamespace(base=None, sync=lambda *_: SimpleNamespace(mismatch=0.0))
    for version in range(2):
        assert handle.sync(pool, version) == 0.0
    assert caplog.messages == (["learner.ops=triton: here"] if ops == "triton" else [])
