"""Ratio, surrogates, correction, unbiased KL, off-policy mask: values and gradients against hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch

from rl.objective.config import ObjectiveConfig
from rl.objective.terms import (
    cispo_surrogate,
    clipped_surrogate,
    importance_log_ratio,
    mismatch_correction,
    off_policy_mask,
    segment_mean,
    sequence_drift,
    unbiased_kl,
)

LOG2 = math.log(2.0)


def test_surrogate_values_and_clip() -> None:
    # ratios 1, 2, 2, 1/2, 1/2 with clip 0.2
    log_ratio = torch.tensor([0.0, LOG2, LOG2, -LOG2, -LOG2])
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    loss, clipped = clipped_surrogate(log_ratio, log_ratio - 1.0, advantages, (0.8, 1.2))
    # min(rA, clip(r)A): 1, min(2, 1.2), min(-2, -1.2), min(.5, .8), min(-.5, -.8)
    assert torch.allclose(loss, -torch.tensor([1.0, 1.2, -2.0, 0.5, -0.8]), atol=1e-6)
    assert clipped.tolist() == [False, True, False, False, True]


def test_surrogate_gradient_is_minus_ratio_times_advantage_inside_the_clip() -> None:
    log_ratio = torch.tensor([0.1, LOG2], requires_grad=True)
    loss, _ = clipped_surrogate(log_ratio, torch.zeros(2), torch.tensor([0.5, 0.5]), (0.8, 1.2))
    loss.sum().backward()
    assert log_ratio.grad is not None
    # e^0.1 = 1.105171
    assert torch.allclose(log_ratio.grad, torch.tensor([-0.5525855, 0.0]), atol=1e-6)


def test_asymmetric_clip() -> None:
    config = ObjectiveConfig(clip=0.2, clip_high=0.28)
    assert config.clip_range == (0.8, 1.28)


def test_cispo_value_and_gradient() -> None:
    # ratios 2, 1/2, 2 with upper bound 1.5: weights 1.5, 0.5, 1.5; log pi = -1, -2, -3; A = 0.5, 0.5, -1
    logprobs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    old = torch.tensor([-1.0 - LOG2, -2.0 + LOG2, -3.0 - LOG2])
    loss, bounded = cispo_surrogate(logprobs - old, logprobs, torch.tensor([0.5, 0.5, -1.0]), (0.8, 1.5))
    assert torch.allclose(loss, torch.tensor([0.75, 0.5, -4.5]), atol=1e-6)
    assert bounded.tolist() == [True, False, True]
    loss.sum().backward()
    assert logprobs.grad is not None
    # -weight A: the bounded tokens keep their gradient, and the weight itself has none
    assert torch.allclose(logprobs.grad, torch.tensor([-0.75, -0.25, 1.5]), atol=1e-6)


def test_sequence_ratio_is_the_geometric_mean_with_each_tokens_own_gradient() -> None:
    # segment 0: log ratios ln 2 and 0 -> s = sqrt(2); segment 1: ln 3
    new = torch.tensor([LOG2 - 1.0, math.log(3.0) - 1.0, -1.0], requires_grad=True)
    segment = torch.tensor([0, 1, 0])
    ratio = torch.exp(importance_log_ratio(new, torch.full((3,), -1.0), segment, 2, "sequence"))
    assert torch.allclose(ratio, torch.tensor([1.4142136, 3.0, 1.4142136]), atol=1e-6)
    # d s_t / d log pi_t = s for the token itself, 0 for the others
    (ratio * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert new.grad is not None
    assert torch.allclose(new.grad, torch.tensor([1.4142136, 30.0, 141.42136]), rtol=1e-6)


def test_token_ratio_is_the_plain_difference() -> None:
    new, old = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    assert importance_log_ratio(new, old, torch.tensor([0, 0]), 1, "token").tolist() == [0.5, -1.0]


def test_truncated_importance_sampling() -> None:
    # rho = 3, 1/4, 1.5 with upper bound 2
    rho = torch.tensor([3.0, 0.25, 1.5])
    weight, cut = mismatch_correction(rho.log() - 1.0, torch.full((3,), -1.0), "truncate", 0.5, 2.0)
    assert torch.allclose(weight, torch.tensor([2.0, 0.25, 1.5]), atol=1e-6)
    assert cut.tolist() == [True, False, False]


def test_icepop_masks_both_sides() -> None:
    rho = torch.tensor([3.0, 0.25, 1.5, 0.75])
    weight, cut = mismatch_correction(rho.log() - 1.0, torch.full((4,), -1.0), "mask", 0.5, 2.0)
    assert torch.allclose(weight, torch.tensor([0.0, 0.0, 1.5, 0.75]), atol=1e-6)
    assert cut.tolist() == [True, True, False, False]


def test_correction_has_no_gradient_and_names_a_wrong_kind() -> None:
    old = torch.tensor([-1.0], requires_grad=True)
    weight, _ = mismatch_correction(old, torch.tensor([-1.1]), "mask", 0.5, 2.0)
    assert not weight.requires_grad
    with pytest.raises(ValueError, match="'clip'"):
        mismatch_correction(old, old, "clip", 0.5, 2.0)


def test_unbiased_kl_value_and_gradient() -> None:
    # log old = -2, ref = -1.5, theta = -8 (V3.2 eq. 7): gradient coefficient
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


def test_segment_mean_of_a_segment_without_tokens_is_zero() -> None:
    assert segment_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 2, 0]), 3).tolist() == [3.0, 0.0, 3.0]


def test_sequence_drift_and_mask() -> None:
    # segment 0: (0.2 + 0.4) / 2 = 0.3; segment 1: -0.5; segment 2: 0.3
    new = torch.tensor([-1.2, -1.4, -0.5, -1.3])
    old = torch.full((4,), -1.0)
    drift = sequence_drift(new, old, torch.tensor([0, 0, 1, 2]), 3)
    assert torch.allclose(drift, torch.tensor([0.3, -0.5, 0.3]), atol=1e-6)
    # only a negative advantage beyond delta is masked
    assert off_policy_mask(drift, torch.tensor([-1.0, -1.0, 1.0]), 0.1).tolist() == [False, True, True]
    assert off_policy_mask(drift, torch.tensor([-1.0, -1.0, 1.0]), 0.4).tolist() == [True, True, True]
