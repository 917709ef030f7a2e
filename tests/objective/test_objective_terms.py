"""Surrogate, unbiased KL, off-policy mask: values and gradients against hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch

from rl.objective.config import ObjectiveConfig
from rl.objective.loss import grpo_loss
from rl.objective.terms import clipped_surrogate, off_policy_mask, sequence_drift, unbiased_kl

LOG2 = math.log(2.0)


def test_surrogate_values_and_clip() -> None:
    # ratios 1, 2, 2, 1/2, 1/2 with clip 0.2
    new = torch.tensor([0.0, LOG2, LOG2, -LOG2, -LOG2]) - 1.0
    old = torch.full((5,), -1.0)
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    loss, clipped = clipped_surrogate(new, old, advantages, (0.8, 1.2))
    # min(rA, clip(r)A): 1, min(2, 1.2), min(-2, -1.2), min(.5, .8), min(-.5, -.8)
    assert torch.allclose(loss, -torch.tensor([1.0, 1.2, -2.0, 0.5, -0.8]), atol=1e-6)
    assert clipped.tolist() == [False, True, False, False, True]


def test_surrogate_gradient_is_minus_ratio_times_advantage_inside_the_clip() -> None:
    new = torch.tensor([-1.0, LOG2 - 1.0], requires_grad=True)
    loss, _ = clipped_surrogate(new, torch.tensor([-1.1, -1.0]), torch.tensor([0.5, 0.5]), (0.8, 1.2))
    loss.sum().backward()
    assert new.grad is not None
    assert torch.allclose(new.grad, torch.tensor([-math.exp(0.1) * 0.5, 0.0]), atol=1e-6)


def test_asymmetric_clip() -> None:
    config = ObjectiveConfig(clip=0.2, clip_high=0.28)
    assert config.clip_range == (0.8, 1.28)


def test_unbiased_kl_value_and_gradient() -> None:
    # log old = -2, ref = -1.5, theta = -8 (recipe 2.3): gradient coefficient
    # (pi_theta / pi_old) log(pi_theta / pi_ref) = e^-6 * -6.5 = -0.016112
    theta = torch.tensor([-8.0], dtype=torch.float64, requires_grad=True)
    kl = unbiased_kl(theta, torch.tensor([-2.0]), torch.tensor([-1.5]))
    # r (e^6.5 - 6.5 - 1) = e^-6 * 657.6416 = 1.630131
    assert kl.item() == pytest.approx(math.exp(-6) * (math.exp(6.5) - 7.5), rel=1e-9)
    kl.sum().backward()
    assert theta.grad is not None
    assert theta.grad.item() == pytest.approx(-0.016112, abs=1e-6)


def test_unbiased_kl_expectation_is_the_true_kl_and_its_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    old, ref = (torch.randn(6, dtype=torch.float64).log_softmax(0) for _ in range(2))
    theta = logits.log_softmax(0)
    (estimate,) = torch.autograd.grad((old.exp() * unbiased_kl(theta, old, ref)).sum(), logits, retain_graph=True)
    true_kl = (theta.exp() * (theta - ref)).sum()
    (exact,) = torch.autograd.grad(true_kl, logits)
    assert (old.exp() * unbiased_kl(theta, old, ref)).sum().item() == pytest.approx(true_kl.item(), abs=1e-12)
    assert torch.allclose(estimate, exact, atol=1e-12)


def test_sequence_drift_and_mask() -> None:
    # segment 0: (0.2 + 0.4) / 2 = 0.3; segment 1: -0.5; segment 2: 0.3
    new = torch.tensor([-1.2, -1.4, -0.5, -1.3])
    old = torch.full((4,), -1.0)
    drift = sequence_drift(new, old, torch.tensor([0, 0, 1, 2]), 3)
    assert torch.allclose(drift, torch.tensor([0.3, -0.5, 0.3]), atol=1e-6)
    # only a negative advantage beyond delta is masked
    assert off_policy_mask(drift, torch.tensor([-1.0, -1.0, 1.0]), 0.1).tolist() == [False, True, True]
    assert off_policy_mask(drift, torch.tensor([-1.0, -1.0, 1.0]), 0.4).tolist() == [True, True, True]


def test_loss_masks_the_surrogate_but_not_the_kl() -> None:
    new = torch.tensor([-1.4, -1.0], requires_grad=True)
    old = torch.tensor([-1.0, -1.0])
    ref = torch.tensor([-1.4, -1.0 + LOG2])
    config = ObjectiveConfig(opsm_delta=0.1, kl_coef=0.5)
    terms = grpo_loss(
        new, old, torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), 2, config, ref
    )
    # surrogate: token 0 masked; token 1: -1 * 0.25. KL: token 0 has theta == ref: 0; token 1: 2 - ln 2 - 1
    assert terms.kept_S.tolist() == [False, True]
    assert terms.policy_loss.item() == pytest.approx(-0.25)
    assert terms.loss.item() == pytest.approx(-0.25 + 0.5 * 0.25 * (1 - LOG2), rel=1e-5)
    terms.loss.backward()
    assert new.grad is not None
    # masked surrogate and KL at theta == ref: no gradient at all
    assert new.grad[0].item() == pytest.approx(0.0, abs=1e-7)


def test_masked_sequence_with_infinite_ratio_leaves_no_nan() -> None:
    new = torch.tensor([200.0, -10.0, -1.0], requires_grad=True)  # exp(200 + 1) overflows float32
    old = torch.tensor([-1.0, 500.0, -1.0])
    segment = torch.tensor([0, 0, 1])
    config = ObjectiveConfig(opsm_delta=0.1)
    terms = grpo_loss(new, old, torch.tensor([-1.0, -1.0, 1.0]), torch.full((3,), 1 / 3), segment, 2, config)
    assert terms.kept_S.tolist() == [False, True]
    assert torch.isfinite(terms.loss)
    terms.loss.backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.0, 0.0, -1 / 3])


def test_kl_without_reference_is_an_error() -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="kl_coef"):
        grpo_loss(one, one, one, one, torch.zeros(1, dtype=torch.long), 1, ObjectiveConfig(kl_coef=0.1))


@pytest.mark.parametrize(
    "bad",
    [
        {"clip": 0.0},
        {"kl_coef": -1.0},
        {"advantage_norm": "x"},
        {"loss_aggregation": "x"},
        {"temperature": 0.0},
    ],
)
def test_config_names_the_bad_field(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"objective.{next(iter(bad))}"):
        ObjectiveConfig(**bad)
