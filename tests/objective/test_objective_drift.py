"""The percentile threshold of the off-policy mask, and the numbers of the log."""

from __future__ import annotations

import math

import pytest
import torch

from rl.objective.config import ObjectiveConfig
from rl.objective.diagnostics import Diagnostics, outside
from rl.objective.drift import MIN_SEQUENCES, DriftWindow
from rl.objective.loss import LossInputs, LossTerms, grpo_loss

P95 = ObjectiveConfig(opsm_delta="p95")


def test_delta_as_a_number_needs_no_window() -> None:
    assert DriftWindow(64).delta(ObjectiveConfig(opsm_delta=0.05)) == 0.05
    assert DriftWindow(64).delta(ObjectiveConfig()) is None


def test_percentile_of_the_window() -> None:
    window = DriftWindow(100)
    window.add(torch.arange(MIN_SEQUENCES - 1, dtype=torch.float32))
    assert window.delta(P95) is None  # too few to speak of a distribution
    window.add(torch.tensor([63.0]))
    assert window.delta(P95) == 60.0  # the 61st of 0..63: 61/64 = 0.953 is the first share from 0.95
    window.add(torch.arange(64, 164, dtype=torch.float32))  # the window holds 100: 64..163
    assert window.delta(P95) == 158.0
    assert window.delta(ObjectiveConfig(opsm_delta="p99.5")) == 163.0


def test_drift_that_is_not_finite_is_left_out() -> None:
    window = DriftWindow(100)
    window.add(torch.tensor([float("nan"), float("inf"), 1.0]))
    assert list(window.values) == [1.0]


def test_window_survives_a_resume() -> None:
    window, resumed = DriftWindow(80), DriftWindow(80)
    window.add(torch.randn(100))
    resumed.load_state_dict(window.state_dict())
    assert resumed.delta(P95) == window.delta(P95)
    assert list(resumed.values) == list(window.values)


def logged(config: ObjectiveConfig, delta: float | None, ratios: list[float], **more: torch.Tensor) -> dict[str, float]:
    """What one micro-batch of single-token segments with these pi_theta / pi_sampler logs; two are same-version."""
    n = len(ratios)
    sampler = torch.full((n,), -1.0)
    logprobs = sampler + torch.tensor(ratios).log()
    inputs = LossInputs(logprobs, sampler, torch.full((n,), -1.0), torch.ones(n), torch.arange(n), n, **more)
    terms: LossTerms = grpo_loss(inputs, config, delta)
    diagnostics = Diagnostics()
    diagnostics.add(terms, logprobs, sampler, torch.zeros(n), torch.arange(n) < 2)
    return diagnostics.summary()


def test_share_of_ratios_outside() -> None:
    assert outside(torch.tensor([0.89, 0.91, 1.0, 1.09, 1.11])) == pytest.approx(0.4)
    out = logged(ObjectiveConfig(), None, [1.0, 1.2, 0.5, 0.95])
    assert out["policy/ratio_outside"] == 0.5
    assert out["mismatch/outside"] == 0.5  # only the first two were sampled by these weights


def test_delta_is_logged_only_when_there_is_one() -> None:
    assert "policy/opsm_delta" not in logged(P95, None, [1.0, 0.5])
    out = logged(P95, 0.3, [1.0, 0.5])  # drift 0 and ln 2
    assert (out["policy/opsm_delta"], out["policy/masked_sequences"]) == (0.3, 0.5)


def test_correction_is_logged() -> None:
    old = torch.full((4,), -1.0) + torch.tensor([1.0, 1.5, 4.0, 0.1]).log()
    config = ObjectiveConfig(old_policy="learner", correction="mask")
    out = logged(config, None, [1.0, 1.0, 1.0, 1.0], old_logprobs_N=old)
    assert out["policy/correction_mean"] == pytest.approx(2.5 / 4)
    assert out["policy/correction_masked"] == 0.5
    assert "policy/correction_mean" not in logged(ObjectiveConfig(), None, [1.0, 1.0])


def test_kl_is_the_mean_over_tokens_that_have_one() -> None:
    config = ObjectiveConfig(kl_coef={"default": 1.0, "math": 0.0})
    more = {"ref_logprobs_N": torch.tensor([-1.0 + math.log(2.0), -9.0]), "kl_coef_N": torch.tensor([1.0, 0.0])}
    assert logged(config, None, [1.0, 1.0], **more)["loss/kl"] == pytest.approx(1.0 - math.log(2.0), rel=1e-5)
    more["kl_coef_N"] = torch.zeros(2)
    assert "loss/kl" not in logged(config, None, [1.0, 1.0], **more)
