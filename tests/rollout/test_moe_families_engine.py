"""Qwen3-MoE, GLM-4.5, DeepSeek-V3, GLM-5 and 5.2 end to end at tiny size: real vLLM, replay, GRPO steps, sync proved,
checkpoint, a reward that rises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from moe_families import FAMILIES, GLM5, VOCAB, write

from envs.types import StopReason
from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.loading import load_policy
from rl.policy.packed_weights import pack, unpack
from rl.rollout.config import EngineConfig
from rl.rollout.engine import Engine
from rl.rollout.engine_api import GenerateRequest, Generation
from rl.rollout.weights import probe_mismatch
from rl.types import Group, Segment, Trajectory

pytestmark = pytest.mark.engine
FORCED = {family: ReplayConfig(indexer="force" if family in GLM5 else "off") for family in (*FAMILIES, *GLM5)}
PROMPTS = [np.random.default_rng(i).integers(0, VOCAB, 70 - 9 * i).tolist() for i in range(6)]


@pytest.fixture(scope="module", params=FORCED)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(family, tmp_path_factory.mktemp("moe"))


@pytest.fixture(scope="module")
def pair(family: str, folder: Path) -> Iterator[tuple[Learner, Engine]]:
    config = LearnerConfig(lr=1e-2, threads=1, recompute=family in GLM5)
    learner = Learner(load_policy(folder), config, ObjectiveConfig(), folder, replay=FORCED[family])
    settings = EngineConfig(max_context=256, max_concurrency=4, max_num_batched_tokens=64, kv_cache_gib=0.05)
    engine = Engine(folder, settings, record_indexer=family in GLM5)
    yield learner, engine
    engine.close()


def sample(engine: Engine, prompts: Sequence[list[int]] = PROMPTS, tokens: int = 24) -> list[Generation]:
    """More requests than seats, prompts in chunks."""
    for i, prompt in enumerate(prompts):
        engine.add(GenerateRequest(str(i), prompt, tokens))
    done: dict[str, Generation] = {}
    while engine.has_unfinished():
        done |= dict(engine.step())
    return [done[str(i)] for i in range(len(prompts))]


def groups_of(
    generations: list[Generation],
    version: int,
    prompts: Sequence[list[int]] = PROMPTS,
    reward: Callable[[int, Generation], float] = lambda i, _: float(i % 2),
) -> list[Group]:
    trajectories = []
    for i, (prompt, g) in enumerate(zip(prompts, generations, strict=True)):
        tokens = np.array([*prompt, *g.tokens], np.int32)
        mask = np.arange(len(tokens)) >= len(prompt)
        logprobs = np.where(mask, np.concatenate([np.zeros(len(prompt)), g.logprobs]), 0.0).astype(np.float32)
        versions = np.where(mask, version, -1).astype(np.int32)
        segment = Segment(tokens, mask, logprobs, versions, g.replay)
        trajectories.append(Trajectory(str(i), "t", "f", [segment], [], StopReason.ANSWERED, reward(i, g), {}))
    return [Group(0, 0, "t", "f", version, trajectories)]


def prove_sync(learner: Learner, engine: Engine, version: int) -> None:
    engine.update_weights(unpack(pack(learner.weights())), version)
    tokens = np.random.default_rng(9).integers(0, VOCAB, 150).tolist()
    logprobs, replay = engine.score(tokens)
    expected = learner.probe(tokens, replay)
    assert probe_mismatch("engine", version, logprobs, expected.logprobs, expected.tolerance) < 1e-4


def test_from_rollout_to_checkpoint(family: str, pair: tuple[Learner, Engine], tmp_path: Path) -> None:
    learner, engine = pair
    assert engine.has_experts
    indexers = {"glm_moe_dsa": 5, "glm_moe_dsa-5.2": 3}.get(family)
    for version in (0, 1):
        generations = sample(engine)
        for prompt, g in zip(PROMPTS, generations, strict=True):
            assert g.replay is not None
            assert g.replay.experts is not None
            assert g.replay.experts.shape == (len(prompt) + len(g.tokens), learner.policy.num_moe_layers, 2)
            if indexers is not None:
                assert g.replay.indexer is not None
                assert g.replay.indexer.shape == (len(prompt) + len(g.tokens), indexers, 24)
            assert g.replay.valid[:-1].all()
            assert not g.replay.valid[-1]
        metrics = learner.step(groups_of(generations, version))
        # Equal weights, recorded experts: every ratio is 1 but for rounding.
        assert metrics["mismatch/max"] < 1e-4
        assert metrics["mismatch/outside"] == 0.0
        assert metrics["replay/routing_overlap"] > 0.99
        assert metrics["learner/grad_norm"] > 0
        assert metrics["learner/skipped_steps"] == 0
        prove_sync(learner, engine, version + 1)
    learner.policy.save(tmp_path)
    tokens = torch.tensor(PROMPTS[0])
    with torch.no_grad():
        ours = learner.policy.packed_logits(tokens, [0, len(tokens)])
        stored = load_policy(tmp_path).packed_logits(tokens, [0, len(tokens)])
    assert torch.allclose(stored, ours, atol=1e-6)


def test_recorded_experts_are_the_learner_s_own(pair: tuple[Learner, Engine]) -> None:
    """At equal weights the live router chooses what was recorded: rows belong to their tokens, whatever the batching,
    chunks and prefix hits (the prompts were run before)."""
    from rl.policy.replay import Record

    learner, engine = pair
    prove_sync(learner, engine, 5)
    sample(engine)
    for prompt, g in zip(PROMPTS, sample(engine), strict=True):
        tokens, record = torch.tensor([*prompt, *g.tokens]), Record()
        with torch.no_grad():
            learner.policy.packed_logits(tokens, [0, len(tokens)], None, record)
        assert g.replay is not None
        assert g.replay.experts is not None
        live = record.experts.sort(-1).values.numpy()[:-1]
        recorded = np.sort(g.replay.experts.astype(np.int64), -1)[:-1]
        assert (live == recorded).all(-1).mean() > 0.98, "but for near-ties"


def test_without_replay_other_experts_are_a_mismatch(pair: tuple[Learner, Engine], tmp_path: Path) -> None:
    learner, engine = pair
    prove_sync(learner, engine, 7)
    groups = groups_of(sample(engine), learner.version)
    for trajectory in groups[0].trajectories:
        record = trajectory.segments[0].replay
        assert record is not None
        assert record.experts is not None
        record.experts[:] = (record.experts + 1) % 8
    other = Learner(learner.policy, LearnerConfig(lr=1e-9, threads=1), ObjectiveConfig(), tmp_path)
    other.version = learner.version
    assert other.step(groups)["mismatch/max"] > 0.01
    live = ReplayConfig(routing="check")
    other = Learner(learner.policy, LearnerConfig(lr=1e-9, threads=1), ObjectiveConfig(), tmp_path, replay=live)
    other.version = learner.version
    assert other.step(groups)["replay/routing_overlap"] < 0.7


def low_share(_: int, g: Generation) -> float:
    """A reward that a policy without any knowledge can raise: the share of tokens from one half of the vocabulary."""
    return float(np.mean(np.array(g.tokens) < VOCAB // 2))


def test_a_reward_rises(family: str, folder: Path, pair: tuple[Learner, Engine], tmp_path: Path) -> None:
    """25 steps of GRPO from the random model, 2 groups of 8 each, judged on 48 prompts that were not trained on."""
    _, engine = pair
    config = LearnerConfig(lr=3e-3, threads=1)
    learner = Learner(load_policy(folder), config, ObjectiveConfig(), tmp_path, replay=FORCED[family])
    random = np.random.default_rng(0)
    engine.update_weights(unpack(pack(learner.weights())), 0)
    heldout = random.integers(0, VOCAB, (48, 8)).tolist()

    def score() -> float:
        return float(np.mean([low_share(0, g) for g in sample(engine, heldout, tokens=8)]))

    before, outside = score(), 0.0
    for version in range(25):
        groups = []
        for _ in range(2):
            prompts = [random.integers(0, VOCAB, 8).tolist()] * 8
            groups += groups_of(sample(engine, prompts, tokens=8), version, prompts, low_share)
        # No figure when all rewards of a step are equal.
        outside = max(outside, learner.step(groups).get("mismatch/outside", 0.0))
        engine.update_weights(unpack(pack(learner.weights())), learner.version)
    after = score()
    assert after > before + 0.25, (before, after)
    assert outside == 0.0
    prove_sync(learner, engine, learner.version)
