"""Adapters and the real engine: base once, factors at each sync, the engine computes what the learner computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from moe_families import write as write_moe
from test_moe_families_engine import groups_of, sample
from test_sync_dtypes import write_dsa, write_qwen3

from rl.learner.config import LearnerConfig, LoraConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.loading import load_policy
from rl.policy.lora import merge
from rl.policy.packed_weights import pack, unpack
from rl.rollout.config import EngineConfig
from rl.rollout.engine import Engine
from rl.rollout.weights import WeightSyncError, probe_mismatch

pytestmark = pytest.mark.engine


def write_qwen3_moe(folder: Path) -> None:
    write_moe("qwen3_moe", folder)


CASES = [(write_dsa, "float32"), (write_qwen3, "float32"), (write_qwen3, "bfloat16"), (write_qwen3_moe, "float32")]


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Learner, Engine]]:
    write, dtype = request.param
    folder = tmp_path_factory.mktemp("policy")
    write(folder)
    policy = load_policy(folder)
    settings = LearnerConfig(
        lr=1e-2, threads=1, compute_dtype=dtype, lora=LoraConfig(rank=4, alpha=8), skip_zero_advantage=False
    )
    replay = ReplayConfig(routing="force" if policy.num_experts else "off")
    learner = Learner(policy, settings, ObjectiveConfig(), folder, replay=replay)
    engine = Engine(folder, EngineConfig(dtype=dtype, max_context=256, max_concurrency=4, kv_cache_gib=0.05))
    yield learner, engine
    engine.close()


def test_rollout_step_and_sync(pair: tuple[Learner, Engine]) -> None:
    learner, engine = pair
    base = unpack(pack(learner.base_weights()))
    tokens = np.random.default_rng(9).integers(0, 64, 150).tolist()
    dtype = learner.config.compute_dtype
    for version in range(3):
        factors = learner.weights()
        assert sum(value.nbytes for value in factors.values()) < 0.6 * sum(value.nbytes for value in base.values())
        engine.update_weights(merge(base, unpack(pack(factors))), version)
        logprobs, replay = engine.score(tokens)
        expected = learner.probe(tokens, replay, dtype)
        probe_mismatch("engine", version, logprobs, expected.logprobs, expected.tolerance)
        metrics = learner.step(groups_of(sample(engine), version))
        assert metrics["mismatch/max"] < (1e-4 if dtype == "float32" else 1.0)
    # An adapter that did not arrive is found.
    expected = learner.probe(tokens, replay, dtype)
    with pytest.raises(WeightSyncError, match="does not hold the learner's weights"):
        probe_mismatch("engine", 3, logprobs, expected.logprobs, expected.tolerance)
    assert torch.isfinite(torch.tensor(metrics["learner/grad_norm"]))
