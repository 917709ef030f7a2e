"""Recomputed layers and a head in pieces: the same loss and gradient, fewer tensors kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moe_families import write
from test_precision import llama

from envs.types import StopReason
from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.loading import build_policy, load_policy
from rl.policy.replay import Record, Replay
from rl.types import Group, ReplayRecord, Segment, Trajectory

Groups = Callable[..., list[Group]]
SWITCHES: list[dict[str, Any]] = [
    {"recompute": True},
    {"head_rows": 5},
    {"recompute": True, "head_rows": 7},
    {"offload_optimizer": True},
]


def gradient(policy: Policy, groups: list[Group], folder: Path, **config: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """The whole gradient of one step, and its metrics."""
    replay = config.pop("replay", ReplayConfig())
    objective = config.pop("objective", ObjectiveConfig())
    trainer = Learner(policy, LearnerConfig(lr=1e-9, threads=1, **config), objective, folder, replay=replay)
    kept: list[torch.Tensor] = []

    def keep(loss: float) -> dict[str, float]:
        kept.append(torch.cat([p.grad.flatten() for p in trainer.optimizer.parameters if p.grad is not None]))
        trainer.optimizer.zero_grad()
        return {"grad_norm": 1.0, "lr": 0.0, "applied": 1.0}

    trainer.optimizer.step = keep  # type: ignore[method-assign]
    metrics = trainer.step(groups)
    return kept[0], metrics


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_the_gradient_is_the_same(
    policy: Policy, make_groups: Groups, tmp_path: Path, switch: dict[str, Any], dtype: str
) -> None:
    """With routing replayed, a KL term and entropies; every record is still used exactly once."""
    groups = make_groups()
    objective = ObjectiveConfig(kl_coef=0.1)
    plain, expected = gradient(policy, groups, tmp_path, compute_dtype=dtype, objective=objective)
    other, metrics = gradient(policy, groups, tmp_path, compute_dtype=dtype, objective=objective, **switch)
    # In bfloat16 the pieces' gradients of the head are rounded before they are added.
    assert float((other - plain).norm() / plain.norm()) < (1e-5 if dtype == "float32" else 0.02)
    for name in ("loss/total", "policy/entropy", "mismatch/max", "replay/expert_overlap"):
        assert metrics.get(name) == pytest.approx(expected.get(name), abs=1e-6), name


def test_an_indexer_that_learns_is_run_once(policy_config: dict, make_groups: Groups, tmp_path: Path) -> None:
    """Its loss is noted in the forward pass: such layers keep their activations, and the gradient is the same."""
    groups = make_groups()
    plain, _ = gradient(build_policy(policy_config), groups, tmp_path, train_indexer="kl")
    other, _ = gradient(build_policy(policy_config), groups, tmp_path, train_indexer="kl", recompute=True)
    assert torch.allclose(other, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("switch", SWITCHES)
def test_choices_shared_between_layers(tmp_path: Path, switch: dict[str, Any]) -> None:
    """GLM-5.2: a layer that borrows, run again, finds the choice that was forced in its own pass."""
    policy = load_policy(write("glm_moe_dsa-5.2", tmp_path / "glm"))
    random = np.random.default_rng(0)
    trajectories = []
    for i in range(4):
        tokens = random.integers(0, 64, 50 + 9 * i)
        record, length, mask = Record(want_indexer=True), len(tokens), np.arange(len(tokens)) >= 8
        with torch.no_grad():  # choices of another text: forced, never chosen live
            policy.packed_logits(torch.from_numpy((tokens + 5) % 64), [0, length], record=record)
            replay = Replay(record.experts, torch.ones(length, dtype=torch.bool), record.indexer)
            logits = policy.packed_logits(torch.from_numpy(tokens), [0, length], replay)
        found = logits[:-1].log_softmax(-1).gather(1, torch.from_numpy(tokens[1:, None]))[:, 0].numpy()
        segment = Segment(
            tokens.astype(np.int32),
            mask,
            np.where(mask, np.concatenate([[0.0], found]), 0.0).astype(np.float32),
            np.where(mask, 0, -1).astype(np.int32),
            ReplayRecord(np.arange(length) < length - 1, record.experts.numpy(), record.indexer.numpy()),
        )
        trajectories.append(Trajectory(str(i), "t", "f", [segment], [], StopReason.ANSWERED, float(i % 2)))
    groups = [Group(0, 0, "t", "f", 0, trajectories)]
    forced = ReplayConfig(indexer="force")
    plain, expected = gradient(policy, groups, tmp_path, replay=forced)
    live, _ = gradient(policy, groups, tmp_path)
    other, metrics = gradient(policy, groups, tmp_path, replay=forced, **switch)
    assert float((live - plain).norm() / plain.norm()) > 0.1
    assert float((other - plain).norm() / plain.norm()) < 1e-5
    assert metrics["mismatch/max"] < 1e-4
    assert expected["mismatch/max"] < 1e-4


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_hugging_face_model(make_groups: Groups, tmp_path: Path, switch: dict[str, Any]) -> None:
    folder = llama(tmp_path / "llama", torch.float32)
    groups = make_groups()
    for group in groups:
        for trajectory in group.trajectories:
            trajectory.segments[0].replay = None
    none = ReplayConfig(routing="off")
    plain, _ = gradient(load_policy(folder), groups, tmp_path, replay=none)
    other, _ = gradient(load_policy(folder), groups, tmp_path, replay=none, **switch)
    assert torch.allclose(other, plain, rtol=1e-5, atol=1e-7)


def saved_bytes(run: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Bytes that autograd keeps for the backward pass, and the largest tensor among them."""
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.data_ptr()] = max(seen.get(tensor.data_ptr(), 0), tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(seen.values()), max(seen.values())


def test_less_is_kept(tmp_path: Path) -> None:
    """Recomputation keeps the inputs of layers; the head in pieces never keeps [targets, vocabulary]."""
    from rl.learner.forward import packed_scores
    from rl.learner.pack_item import PackItem
    from rl.learner.packing import pack

    policy = load_policy(llama(tmp_path / "llama", torch.float32))
    tokens = np.arange(600, dtype=np.int32) % 64
    (batch,) = pack([PackItem(tokens, np.arange(600) > 0, 1.0)], 1024, torch.device("cpu"))

    def kept(recompute: bool, head_rows: int | None) -> tuple[int, int]:
        policy.set_recompute(recompute)
        return saved_bytes(lambda: packed_scores(policy, batch, head_rows=head_rows).logprobs_N)

    plain, _ = kept(False, None)
    recomputed, _ = kept(True, None)
    pieces, largest = kept(True, 64)
    assert recomputed < 0.5 * plain
    assert pieces < recomputed
    assert largest < 599 * 64 * 4, "no [targets, vocabulary] float32 tensor is kept"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_with_the_optimizer_on_the_host_are_the_same(
    policy_config: dict, make_groups: Groups, tmp_path: Path, dtype: str
) -> None:
    """Two steps with a KL term: equal weights, and what computes shares no memory with what learns."""
    groups, objective = make_groups(), ObjectiveConfig(kl_coef=0.1)
    trained = []
    for offload in (False, True):
        config = LearnerConfig(lr=1e-3, threads=1, compute_dtype=dtype, offload_optimizer=offload)
        trainer = Learner(build_policy(policy_config), config, objective, tmp_path)
        for _ in range(2):
            trainer.step(groups)
        trained.append(trainer.weights())
    assert all(bool((torch.as_tensor(trained[1][n]) == torch.as_tensor(v)).all()) for n, v in trained[0].items())
    masters = {p.data_ptr() for _, p in trainer.policy.named_parameters()}
    assert masters.isdisjoint(p.data_ptr() for _, p in trainer.compute.policy.named_parameters())
