"""Nobody but a micro-batch and the optimiser step may change the sum of gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rl.learner.config import LearnerConfig
from rl.learner.gradient_seal import GradientSeal
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.types import Group

Groups = Callable[..., list[Group]]
Touch = Callable[[torch.nn.Parameter], None]


def learner(policy: Policy, folder: Path, dtype: str = "float32") -> Learner:
    # 64 tokens: several micro-batches
    config = LearnerConfig(lr=1e-3, threads=1, max_tokens_per_microbatch=64, compute_dtype=dtype)
    return Learner(policy, config, ObjectiveConfig(), folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_step_breaks_no_seal(policy: Policy, make_groups: Groups, tmp_path: Path, dtype: str) -> None:
    one = learner(policy, tmp_path, dtype)
    metrics = one.step(make_groups(count=4))
    assert metrics["learner/microbatches"] > 1
    assert metrics["learner/gradient_changed"] == 0.0
    for group in (later := make_groups(count=3, version=1)):
        one.accumulate([group])
    assert one.finish([g.id for g in later])["learner/gradient_changed"] == 0.0


def clear(parameter: torch.nn.Parameter) -> None:
    parameter.grad = None


def scale(parameter: torch.nn.Parameter) -> None:
    assert parameter.grad is not None
    parameter.grad *= 0.5


def poison(parameter: torch.nn.Parameter) -> None:
    assert parameter.grad is not None
    parameter.grad.fill_(torch.nan)


@pytest.mark.parametrize("touch", [clear, scale, poison])
def test_a_gradient_that_is_touched_between_micro_batches_is_counted(
    policy: Policy, make_groups: Groups, tmp_path: Path, touch: Touch
) -> None:
    one = learner(policy, tmp_path)
    groups = make_groups(count=3)
    for i, group in enumerate(groups):
        one.accumulate([group])
        if i == 1:
            touch(next(p for p in reversed(one.optimizer.parameters) if p.grad is not None))
    assert one.finish([g.id for g in groups])["learner/gradient_changed"] == 1.0


def test_a_gradient_that_is_cleared_before_the_step_is_counted(
    policy: Policy, make_groups: Groups, tmp_path: Path
) -> None:
    one = learner(policy, tmp_path)
    groups = make_groups(count=2)
    one.accumulate(groups)
    one.optimizer.zero_grad()
    assert one.finish([g.id for g in groups])["learner/gradient_changed"] == 1.0


def test_seal_of_gradients_given_by_hand() -> None:
    a, b = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    seal = GradientSeal([a, b])
    assert not seal.broken()
    a.grad = torch.zeros(2)  # as good as none
    assert not seal.broken()
    a.grad = torch.tensor([3.0, 4.0])
    assert seal.broken()
    seal.put()
    assert not seal.broken()
    b.grad = torch.tensor([0.0, 1e-3])
    assert seal.broken()
    a.grad = b.grad = torch.tensor([torch.nan, 1.0])
    seal.put()
    assert not seal.broken()
    b.grad = None
    assert seal.broken()
