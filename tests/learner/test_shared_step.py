"""A learner step on prefix trees is the step on single segments: loss, gradient, every metric, every record once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moe_families import FAMILIES, write
from test_memory_switches import gradient
from test_precision import llama

from envs.types import StopReason
from rl.learner.config import LoraConfig, ReplayConfig
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.loading import build_policy, load_policy
from rl.policy.replay import Record
from rl.types import Group, ReplayRecord, Segment, Trajectory
from tests.learner.conftest import tiny_config

ABOUT_TREES = {
    f"learner/{n}" for n in ("tokens_distinct", "sharing", "packing", "microbatches", "seconds", "tokens_per_s")
}


def segment(policy: Policy, tokens: np.ndarray, mask: np.ndarray, shift: int, seed: int) -> Segment:
    """Log-probs that are a little off the policy's, so that ratios are clipped; its own experts, all of them moved by
    ``shift``; its own rows; a support for every third target."""
    ids = torch.from_numpy(tokens).long()
    has_indexer = hasattr(policy.module, "num_indexers")
    record = Record(want_experts=policy.num_moe_layers > 0, want_indexer=has_indexer)
    with torch.no_grad():
        logits = policy.packed_logits(ids, [0, len(ids)], None, record if policy.num_moe_layers else None)
    rng = np.random.default_rng(seed)
    logprobs = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy() + rng.normal(0, 0.2, len(ids) - 1)
    support: list[np.ndarray | None] = [None] * len(tokens)
    for t in range(2, len(tokens), 3):
        support[t] = np.union1d(rng.integers(0, policy.vocab_size, 8), tokens[t])
    replay = None
    if policy.num_moe_layers:
        replay = ReplayRecord(
            np.arange(len(tokens)) < len(tokens) - 1,
            ((record.experts.numpy() + shift) % policy.num_experts).astype(np.uint8),
            record.indexer.numpy().astype(np.int16) if has_indexer else None,
            support,
        )
    sampled = np.where(mask, np.concatenate(([0.0], logprobs.clip(max=0))), 0.0).astype(np.float32)
    return Segment(tokens.astype(np.int32), mask, sampled, np.where(mask, 0, -1).astype(np.int32), replay)


def groups_of(policy: Policy) -> list[Group]:
    """Two groups of one prompt and one of another. Rollouts answer alike for a while; two have a second segment that
    branches off in the middle; one was computed with other experts."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, policy.vocab_size, 30) for _ in range(2)]
    groups = []
    for g, prompt in enumerate((prompts[0], prompts[0], prompts[1])):
        group = Group(g, g, f"task{g}", "search", 0)
        said = rng.integers(0, policy.vocab_size, 12)
        for i in range(4):
            own = rng.integers(0, policy.vocab_size, 6 + 3 * i)
            tokens = np.concatenate((prompt, said[: 4 * i], own))
            shift = int(i == 2)
            parts = [segment(policy, tokens, np.arange(len(tokens)) >= 30, shift, 10 * g + i)]
            if i % 2:
                branch = np.concatenate((tokens[:-4], rng.integers(0, policy.vocab_size, 9)))
                parts.append(segment(policy, branch, np.arange(len(branch)) >= len(tokens) - 4, shift, 100 * g + i))
            group.trajectories.append(
                Trajectory(f"{g}-{i}", group.task_id, "search", parts, [], StopReason.ANSWERED, float((i + g) % 3 == 0))
            )
        groups.append(group)
    return groups


def assert_same(policy: Policy, folder: Path, **config: Any) -> dict[str, float]:
    """Both ways from the same weights; returns the metrics of the step on trees."""
    groups = groups_of(policy)
    start = {name: value.clone() for name, value in policy.module.state_dict().items()}
    config = {"max_tokens_per_microbatch": 120, **config}
    expected, flat = gradient(policy, groups, folder, share_prefixes=False, **config)
    policy.module.load_state_dict(start)
    found, tree = gradient(policy, groups, folder, share_prefixes=True, **config)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert flat.keys() == tree.keys()
    for name in flat.keys() - ABOUT_TREES:
        assert tree[name] == pytest.approx(flat[name], rel=1e-4, abs=1e-6), name
    assert abs(tree["loss/total"] - flat["loss/total"]) < 1e-6
    assert flat["learner/sharing"] == 1.0
    assert flat["learner/tokens_distinct"] == flat["learner/tokens"] == tree["learner/tokens"]
    assert tree["learner/sharing"] == pytest.approx(tree["learner/tokens"] / tree["learner/tokens_distinct"])
    assert tree["learner/microbatches"] < flat["learner/microbatches"]
    return tree


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"replay": ReplayConfig(indexer="force")},
        {"replay": ReplayConfig(routing="check", indexer="check")},
        {"replay": ReplayConfig(routing="off")},
        {"recompute": True, "head_rows": 7},
        {"train_indexer": "kl"},
        {"objective": ObjectiveConfig(kl_coef=0.1)},
        {"objective": ObjectiveConfig(old_policy="learner"), "minibatches": 1},
    ],
)
def test_dsa(policy: Policy, tmp_path: Path, config: dict[str, Any]) -> None:
    tree = assert_same(policy, tmp_path, **config)
    assert tree["learner/sharing"] > 1.5
    assert tree["replay/rows"] == tree["learner/tokens"], "every record, once per rollout"


def test_dsa_with_an_adapter(policy: Policy, tmp_path: Path) -> None:
    """Each learner puts the adapter into a policy of its own."""
    groups, results = groups_of(policy), []
    for share in (False, True):
        own = build_policy(tiny_config())
        results.append(gradient(own, groups, tmp_path, share_prefixes=share, lora=LoraConfig(rank=2)))
    (expected, flat), (found, tree) = results
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert tree["loss/total"] == pytest.approx(flat["loss/total"], abs=1e-6)
    assert tree["learner/sharing"] > 1.5


@pytest.mark.parametrize("recompute", [False, True])
def test_dense(tmp_path: Path, recompute: bool) -> None:
    policy = load_policy(llama(tmp_path / "policy", torch.float32))
    tree = assert_same(policy, tmp_path, recompute=recompute)
    assert tree["learner/sharing"] > 1.5


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_of_transformers(tmp_path: Path, family: str) -> None:
    policy = load_policy(write(family, tmp_path / "policy"))
    tree = assert_same(policy, tmp_path)
    assert tree["learner/sharing"] > 1.5
    assert tree["replay/rows"] == tree["learner/tokens"]


def test_twice_the_same_bits(policy: Policy, tmp_path: Path) -> None:
    """deterministic=true is about the engine; a learner repeats itself on trees as it does without."""
    groups = groups_of(policy)
    start = {name: value.clone() for name, value in policy.module.state_dict().items()}
    one, _ = gradient(policy, groups, tmp_path)
    policy.module.load_state_dict(start)
    other, _ = gradient(policy, groups, tmp_path)
    assert torch.equal(one, other)
