"""The loss on any device: value, gradient and diagnostics are the CPU's.

pytest -m gpu tests/policy tests/learner tests/objective
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import DEVICES

from rl.objective.config import ObjectiveConfig
from rl.objective.diagnostics import Diagnostics
from rl.objective.loss import LossInputs, grpo_loss

KINDS: list[dict[str, Any]] = [
    {},
    {"ratio": "sequence", "clip": 0.1},
    {"surrogate": "cispo"},
    {"kl_coef": 0.1},
    {"old_policy": "learner", "correction": "truncate"},
    {"opsm_delta": 0.01},
]


def inputs(device: str) -> LossInputs:
    """12 tokens of 3 sequences."""
    generator = torch.Generator().manual_seed(0)

    def drawn() -> torch.Tensor:
        return -2 * torch.rand(12, generator=generator)

    ours = drawn()
    sampler, old, reference = (ours + 0.1 * torch.randn(12, generator=generator) for _ in range(3))
    segment = torch.tensor([0] * 3 + [1] * 5 + [2] * 4)
    advantages = torch.tensor([1.0, -0.5, 0.25])[segment]
    weights = torch.full((12,), 1 / 12)
    parts = (ours, sampler, advantages, weights, segment)
    ours, sampler, advantages, weights, segment = (part.to(device) for part in parts)
    coefficients = torch.full((12,), 0.1, device=device)
    return LossInputs(
        ours.requires_grad_(),
        sampler,
        advantages,
        weights,
        segment,
        3,
        old.to(device),
        reference.to(device),
        coefficients,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_loss_and_gradient(device: str, kind: dict[str, Any]) -> None:
    config = ObjectiveConfig(**kind)
    found, wanted = inputs(device), inputs("cpu")
    with torch.device("meta"):  # nothing is made where the default is
        terms = grpo_loss(found, config, 0.01 if "opsm_delta" in kind else None)
        terms.loss.backward()
        diagnostics = Diagnostics()
        exact = torch.ones(12, dtype=torch.bool, device=device)
        entropy = torch.ones(12, device=device)
        diagnostics.add(terms, found.logprobs_N, found.sampler_logprobs_N, entropy, exact)
        summary = diagnostics.summary()
    truth = grpo_loss(wanted, config, 0.01 if "opsm_delta" in kind else None)
    truth.loss.backward()
    torch.testing.assert_close(terms.loss.detach().cpu(), truth.loss.detach())
    torch.testing.assert_close(found.logprobs_N.grad.cpu(), wanted.logprobs_N.grad)  # type: ignore[union-attr]
    assert summary["mismatch/mean"] > 0
