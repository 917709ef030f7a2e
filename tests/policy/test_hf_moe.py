"""Qwen3-MoE, GLM-4.5, DeepSeek-V3: our logits are transformers', recorded routing is repeated, gates are live."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from moe_families import FAMILIES, VOCAB, write
from transformers import AutoModelForCausalLM

from rl.policy.checkpoint_checks import check_checkpoint
from rl.policy.hf import HFPolicy
from rl.policy.loading import load_policy
from rl.policy.replay import Record, Replay, ReplayError

LENGTHS = (17, 5, 40, 3, 40, 26)
BOUNDS = [0, *np.cumsum(LENGTHS).tolist()]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("moe"))


@pytest.fixture
def policy(folder: Path) -> HFPolicy:
    found = load_policy(folder)
    assert isinstance(found, HFPolicy)
    return found


def tokens() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, BOUNDS[-1]))


@torch.no_grad()
def recorded(policy: HFPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    record = Record()
    return policy.packed_logits(tokens(), BOUNDS, None, record), record.experts


def test_logits_are_transformers_own(folder: Path, policy: HFPolicy) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours, _ = recorded(policy)
    for begin, end in pairwise(BOUNDS):
        with torch.no_grad():
            alone = model(tokens()[None, begin:end]).logits[0]
        assert torch.allclose(ours[begin:end], alone, atol=2e-5)


def test_repeating_the_own_choice_changes_nothing(policy: HFPolicy) -> None:
    logits, experts = recorded(policy)
    assert experts.shape == (BOUNDS[-1], policy.num_moe_layers, 2)
    replay = Replay(experts, torch.ones(BOUNDS[-1], dtype=torch.bool))
    with torch.no_grad():
        again = policy.packed_logits(tokens(), BOUNDS, replay)
    assert torch.allclose(again, logits, atol=1e-6)
    assert [len(o) for o in replay.expert_overlaps] == [BOUNDS[-1]] * policy.num_moe_layers
    assert torch.cat(replay.expert_overlaps).mean() == 1.0
    with pytest.raises(ReplayError, match="used twice"):
        policy.packed_logits(tokens(), BOUNDS, replay)


def test_other_experts_give_other_logits_only_where_valid(policy: HFPolicy) -> None:
    logits, experts = recorded(policy)
    other, valid = (experts + 1) % policy.num_experts, torch.zeros(BOUNDS[-1], dtype=torch.bool)
    valid[BOUNDS[2] + 10 : BOUNDS[3]] = True  # the second half of the third sequence
    replay, record = Replay(other, valid), Record()
    with torch.no_grad():
        changed = policy.packed_logits(tokens(), BOUNDS, replay, record)
    difference = (changed - logits).abs().amax(-1)
    assert (difference[: BOUNDS[2] + 10] < 1e-6).all()
    assert (difference[BOUNDS[2] + 10 : BOUNDS[3]] > 1e-4).all()
    assert (difference[BOUNDS[3] :] < 1e-6).all()
    assert torch.equal(record.experts[valid], other[valid])
    assert torch.equal(record.experts[: BOUNDS[2]].sort(-1).values, experts[: BOUNDS[2]].sort(-1).values)


def test_gates_of_replayed_experts_are_live(folder: Path, policy: HFPolicy) -> None:
    """The router's gradient is that of the formula written out by hand, through experts that it would not choose."""
    assert policy.routing is not None
    router = policy.routing.routers[0]
    torch.manual_seed(1)
    x = torch.randn(6, 64)
    forced = torch.tensor([[0, 5], [1, 2], [7, 3], [4, 0], [6, 1], [2, 5]])
    replay = Replay(forced[:, None].repeat(1, policy.num_moe_layers, 1), torch.ones(6, dtype=torch.bool))
    taps = [replay.expert_tap(layer) for layer in range(policy.num_moe_layers)]
    with policy.routing.run(taps):
        _, gates, experts = router(x)
    assert torch.equal(experts, forced)
    weight = router.weight.detach().clone().requires_grad_()
    logits = x @ weight.t()
    family = json.loads((folder / "config.json").read_text())
    if family["model_type"] == "qwen3_moe":
        scores = logits.exp() / logits.exp().sum(-1, keepdim=True)
        scaling = 1.0
    else:
        scores, scaling = 1 / (1 + (-logits).exp()), family["routed_scaling_factor"]
    chosen = torch.stack([scores[t, forced[t]] for t in range(6)])
    expected = chosen / chosen.sum(-1, keepdim=True) * scaling
    assert torch.allclose(gates, expected, atol=1e-6)
    pull = torch.randn(6, 2)
    (gates * pull).sum().backward()
    (expected * pull).sum().backward()
    assert router.weight.grad is not None
    assert torch.allclose(router.weight.grad, weight.grad, atol=1e-6)
    assert float(weight.grad.abs().max()) > 1e-3


def test_a_copy_routes_by_itself(policy: HFPolicy) -> None:
    other = copy.deepcopy(policy)
    assert other.routing is not None
    assert policy.routing is not None
    assert other.routing.routers[0] is not policy.routing.routers[0]
    logits, experts = recorded(policy)
    with torch.no_grad():
        other.routing.routers[0].weight.mul_(-1.0)
    _, chosen = recorded(other)
    assert not torch.equal(chosen, experts)
    assert torch.equal(recorded(policy)[0], logits), "the original is as it was"


def test_recomputed_layers_route_as_in_their_own_pass(policy: HFPolicy) -> None:
    """Two buckets with other forced experts each, then one backward pass through both."""
    _, experts = recorded(policy)
    forced = (experts + 3) % policy.num_experts
    valid = torch.ones(BOUNDS[-1], dtype=torch.bool)

    def gradient(recompute: bool) -> list[torch.Tensor]:
        policy.set_recompute(recompute)
        policy.module.zero_grad()
        policy.packed_logits(tokens(), BOUNDS, Replay(forced, valid)).square().mean().backward()
        return [p.grad.clone() for _, p in policy.named_parameters() if p.grad is not None]

    plain, again = gradient(False), gradient(True)
    policy.set_recompute(False)
    assert len(plain) == len(again)
    for one, other in zip(plain, again, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_saved_and_loaded(folder: Path, policy: HFPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    check_checkpoint(tmp_path)
    back = load_policy(tmp_path)
    assert back.weights().keys() == policy.weights().keys()
    for name, value in policy.weights().items():
        assert torch.equal(back.weights()[name], value), name


def test_balancing_bias(folder: Path, policy: HFPolicy) -> None:
    counts = torch.arange(8.0).repeat(policy.num_moe_layers, 1)
    if "qwen3" in json.loads((folder / "config.json").read_text())["model_type"]:
        with pytest.raises(ValueError, match="no e_score_correction_bias"):
            policy.update_router_bias(counts, 0.1)
        return
    assert policy.routing is not None
    before = policy.routing.routers[0].e_score_correction_bias.clone()
    policy.update_router_bias(counts, 0.1)
    moved = policy.routing.routers[0].e_score_correction_bias - before
    assert torch.allclose(moved, torch.tensor([0.1] * 4 + [-0.1] * 4), atol=1e-6)
