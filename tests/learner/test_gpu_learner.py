"""A GRPO step on any device: the CPU's float32 step in float32, every switch, and nothing made on another device.

pytest -m gpu tests/policy tests/learner tests/objective
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICES, NO_GPU
from transformers import LlamaConfig, LlamaForCausalLM

from rl.learner.config import LearnerConfig, LoraConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.hf import HFPolicy
from rl.policy.loading import build_policy
from rl.types import Group, ReplayRecord

Groups = Callable[..., list[Group]]
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "recompute": {"recompute": True, "head_rows": 7},
    "offload": {"offload_optimizer": True},
    "bfloat16": {"compute_dtype": "bfloat16"},
    "bfloat16-offload": {"compute_dtype": "bfloat16", "offload_optimizer": True},
    "lora": {"lora": LoraConfig(rank=4, alpha=8)},
    "lora-bfloat16": {"lora": LoraConfig(rank=4, alpha=8), "compute_dtype": "bfloat16"},
    "indexer": {"train_indexer": "kl"},
    "triton": {"ops": "triton"},
    "triton-indexer": {"ops": "triton", "train_indexer": "kl"},
}


# Interpreted, a whole batch is half a minute of Triton's operators: every day they take a small one (below).
CASES = [pytest.param(s, "cpu", marks=[pytest.mark.slow] if "triton" in s else []) for s in SWITCHES]
CASES += [pytest.param(s, "cuda", marks=[pytest.mark.gpu, NO_GPU]) for s in SWITCHES]


def llama() -> Policy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return HFPolicy(LlamaForCausalLM(config))


def learner(policy: Policy, folder: Path, device: str, **config: Any) -> Learner:
    policy.module.to(device)
    settings = LearnerConfig(lr=1e-3, threads=1, max_tokens_per_microbatch=128, **config)
    objective = ObjectiveConfig(kl_coef=0.0 if config.get("train_indexer") else 0.1, opsm_delta="p95")
    replay = ReplayConfig(routing="force" if policy.num_experts else "off")
    return Learner(policy, settings, objective, folder, replay=replay)


def cut(groups: list[Group]) -> list[Group]:
    """A few tokens of every segment were sampled from a support of three tokens (Keep Sampling Mask)."""
    cut_groups = copy.deepcopy(groups)
    for group in cut_groups:
        for trajectory in group.trajectories:
            for segment in trajectory.segments:
                assert segment.replay is not None
                rows: list[np.ndarray | None] = [None] * len(segment.tokens)
                at = int(np.flatnonzero(segment.loss_mask)[0])
                rows[at] = np.unique([int(segment.tokens[at]), 1, 2]).astype(np.int32)
                segment.replay.support = rows  # type: ignore[assignment]
    return cut_groups


@pytest.mark.parametrize(("switch", "device"), CASES)
def test_a_step_is_the_cpu_s(
    policy_config: dict[str, Any], make_groups: Groups, tmp_path: Path, device: str, switch: str
) -> None:
    pytest.importorskip("peft") if "lora" in switch else None
    groups = make_groups()
    base = learner(build_policy(policy_config), tmp_path, "cpu", lora=SWITCHES[switch].get("lora", LoraConfig()))
    other = learner(build_policy(policy_config), tmp_path, device, **SWITCHES[switch])
    same_step(base, other, groups, device, 2e-2 if "bfloat16" in switch else 1e-4)


def same_step(base: Learner, other: Learner, groups: list[Group], device: str, close: float) -> None:
    assert other.device.type == device
    wanted, found = base.step(groups), other.step(groups)
    assert found["loss/policy"] == pytest.approx(wanted["loss/policy"], abs=close)
    assert found["mismatch/mean"] == pytest.approx(wanted["mismatch/mean"], abs=0.05 if close > 1e-3 else 1e-4)
    moved = {name: torch.as_tensor(value).float() for name, value in other.weights().items()}
    for name, value in base.weights().items():
        assert moved[name].device.type == "cpu"
        if ".indexer." not in name:
            # AdamW's first step is lr in the gradient's direction; a gradient near 0 may have another sign.
            assert float((moved[name] - torch.as_tensor(value)).abs().max()) < 2.1e-3 + close * 2, name


@pytest.mark.parametrize("device", DEVICES)
def test_a_small_step_by_triton_s_operators(
    policy_config: dict[str, Any], make_groups: Groups, tmp_path: Path, device: str
) -> None:
    """With its indexer's loss and a truncated support; what computes is said."""
    switch: dict[str, Any] = {"train_indexer": "kl"}
    base = learner(build_policy(policy_config), tmp_path, "cpu", **switch)
    other = learner(build_policy(policy_config), tmp_path, device, ops="triton", **switch)
    assert base.operators == "learner.ops=torch: torch"
    assert other.operators.startswith("learner.ops=triton: triton ")
    groups = cut(make_groups(1, 2))
    same_step(base, other, groups, device, 1e-4)
    indexers = [n for n in base.weights() if ".indexer." in n]
    assert indexers
    for name in indexers:
        moved, wanted = (torch.as_tensor(side.weights()[name]).float() for side in (other, base))
        assert float((moved - wanted).abs().max()) < 2.3e-3, name


@pytest.mark.parametrize(("switch", "device"), CASES)
def test_nothing_is_made_on_another_device(
    policy_config: dict[str, Any], make_groups: Groups, tmp_path: Path, device: str, switch: str
) -> None:
    """Step, probe and weights while the default device is another one: equal to those without."""
    pytest.importorskip("peft") if "lora" in switch else None
    groups, results = make_groups(), []
    tokens = groups[0].trajectories[0].segments[0].tokens
    for default in (device, "meta"):
        trainer = learner(build_policy(policy_config), tmp_path, device, **SWITCHES[switch])
        with torch.device(default):
            metrics = trainer.step(groups)
            scores = trainer.probe(tokens)
            results.append((metrics["loss/total"], scores.tolerance, trainer.weights()))
    (loss, tolerance, weights), (other_loss, other_tolerance, other) = results
    assert (other_loss, other_tolerance) == pytest.approx((loss, tolerance), rel=1e-3, abs=1e-6)
    assert other.keys() == weights.keys()


@pytest.mark.parametrize("device", DEVICES)
def test_a_cut_support_and_a_dense_model(make_groups: Groups, tmp_path: Path, device: str) -> None:
    groups = make_groups()
    for group in groups:
        for trajectory in group.trajectories:
            segment = trajectory.segments[0]
            segment.replay = ReplayRecord(np.zeros(len(segment.tokens), bool))  # a dense model has nothing to repeat
    trainer = learner(llama(), tmp_path, device)
    with torch.device("meta"):
        metrics = trainer.step(cut(groups))
    assert np.isfinite(metrics["loss/total"])
