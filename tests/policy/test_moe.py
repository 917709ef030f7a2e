"""Router, keep-routing, balancing, and the hand-written backward passes of experts and RMSNorm."""

from __future__ import annotations

import math

import pytest
import torch

from rl.policy.layers import RMSNorm
from rl.policy.moe import Experts, Router, _every_expert, _GroupedExperts
from rl.policy.presets import tiny_dsa
from rl.policy.replay import ExpertTap

CONFIG = tiny_dsa(
    64,
    hidden_size=8,
    moe_intermediate_size=8,
    n_routed_experts=4,
    n_group=2,
    topk_group=1,
    routed_scaling_factor=2.5,
)


def router_with_logits(*logits: float) -> tuple[Router, torch.Tensor]:
    router = Router(CONFIG)
    with torch.no_grad():
        router.weight[:, 0] = torch.tensor(logits)
    return router, torch.eye(8)[:1]


def test_gates_by_hand_and_group_limit() -> None:
    # sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2, sigmoid(ln 9) = 9/10, sigmoid(-ln 9) = 1/10.
    # Groups {0,1}: 1.25, {2,3}: 1.0 -> experts 0 and 1, although expert 2 scores best alone.
    router, x = router_with_logits(math.log(3), 0.0, math.log(9), -math.log(9))
    gates, experts = router(x)
    by_expert = dict(zip(experts[0].tolist(), gates[0].tolist(), strict=True))
    assert by_expert == pytest.approx({0: 2.5 * 0.75 / 1.25, 1: 2.5 * 0.5 / 1.25})


def test_bias_moves_the_choice_but_not_the_gate() -> None:
    router, x = router_with_logits(math.log(3), 0.0, math.log(9), -math.log(9))
    router.e_score_correction_bias[2:] = 1.0
    gates, experts = router(x)
    by_expert = dict(zip(experts[0].tolist(), gates[0].tolist(), strict=True))
    assert by_expert == pytest.approx({2: 2.5 * 0.9, 3: 2.5 * 0.1})


def test_replay_forces_experts_and_keeps_gates_live() -> None:
    router, x = router_with_logits(math.log(3), 0.0, math.log(9), -math.log(9))
    tap = ExpertTap(torch.tensor([[2, 0], [2, 0]]), torch.tensor([True, False]), force=True, overlaps=[])
    gates, experts = router(x.expand(2, 8), tap)
    assert experts[0].tolist() == [2, 0]
    assert torch.cat(tap.overlaps).tolist() == [0.5]  # of experts 2 and 0 the live router has only 0; row 1 is live
    assert sorted(experts[1].tolist()) == [0, 1]
    assert gates[0].tolist() == pytest.approx([2.5 * 0.9 / 1.65, 2.5 * 0.75 / 1.65])
    (gates[0, 0] - gates[0, 1]).backward()
    assert router.weight.grad is not None
    assert router.weight.grad[[0, 2], 0].abs().min() > 0


def test_bias_update_by_hand() -> None:
    router = Router(CONFIG)
    router.update_bias(torch.tensor([10, 2, 6, 6]), 0.01)
    assert router.e_score_correction_bias.tolist() == pytest.approx([-0.01, 0.01, 0.0, 0.0])
    with pytest.raises(ValueError, match="counts"):
        router.update_bias(torch.zeros(3), 0.01)


def test_dense_and_grouped_experts_agree_with_gradients() -> None:
    torch.manual_seed(0)
    experts = Experts(CONFIG)
    torch.nn.init.normal_(experts.gate_up_proj)
    torch.nn.init.normal_(experts.down_proj)
    x = torch.randn(20, 8, requires_grad=True)
    gates = torch.rand(20, 2, requires_grad=True)
    chosen = torch.stack([torch.randperm(3)[:2] for _ in range(20)])  # expert 3 stays empty
    wanted = (x, gates, experts.gate_up_proj, experts.down_proj)
    target = torch.randn(20, 8)
    outs = [_every_expert(x, gates, chosen, *wanted[2:]), _GroupedExperts.apply(x, gates, chosen, *wanted[2:])]
    torch.testing.assert_close(outs[0], outs[1], atol=1e-4, rtol=1e-4)
    first, second = ([*torch.autograd.grad((o * target).sum(), wanted)] for o in outs)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    assert second[2][3].abs().max() == 0


def test_rms_norm_and_its_gradients() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    x = torch.randn(7, 6, requires_grad=True)
    reference = norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(norm(x), reference)
    target = torch.randn(7, 6)
    ours = torch.autograd.grad((norm(x) * target).sum(), (x, norm.weight))
    for a, b in zip(ours, torch.autograd.grad((reference * target).sum(), (x, norm.weight)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_impossible_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="n_group"):
        Router(tiny_dsa(64, n_routed_experts=8, n_group=3))
    with pytest.raises(ValueError, match="topk_group"):
        Router(tiny_dsa(64, n_routed_experts=8, n_group=4, topk_group=1, num_experts_per_tok=4))
