"""Schedules and the optimiser step against hand-computed numbers."""

from __future__ import annotations

import pytest
import torch

from rl.learner.config import LearnerConfig, SFTConfig
from rl.learner.optim import Optimizer, schedule


def optimizer(parameter: torch.nn.Parameter, **changes: float) -> Optimizer:
    settings = {"lr": 0.1, "eps": 1e-8, "weight_decay": 0.0, "grad_clip": 1.0} | changes
    return Optimizer([("w", parameter)], betas=(0.9, 0.95), share=schedule("constant", 0), **settings)


def test_schedules() -> None:
    assert [schedule("constant", 2)(s) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert [schedule("linear", 0, 4)(s) for s in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    cosine = schedule("cosine", 1, 5, 0.2)
    # half way: 0.2 + 0.8 * (1 + cos(pi/2)) / 2 = 0.6
    assert [cosine(s) for s in (0, 1, 3, 5, 9)] == pytest.approx([1.0, 1.0, 0.6, 0.2, 0.2])


def test_first_adamw_step_and_clip() -> None:
    w = torch.nn.Parameter(torch.tensor([[1.0, 1.0]]))
    opt = optimizer(w)
    (w * torch.tensor([[3.0, 4.0]])).sum().backward()
    # norm 5, clipped to 1; Adam's first step is lr * sign(grad) whatever the size
    assert opt.step(1.0) == pytest.approx({"grad_norm": 5.0, "lr": 0.1, "applied": 1.0})
    assert torch.allclose(w.detach(), torch.tensor([[0.9, 0.9]]), atol=1e-5)
    assert w.grad is None


@pytest.mark.parametrize(("loss", "factor"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_bad_numbers_change_nothing(loss: float, factor: float) -> None:
    w = torch.nn.Parameter(torch.ones(1, 2))
    opt = optimizer(w)
    (w * factor).sum().backward()
    assert opt.step(loss)["applied"] == 0.0
    assert w.tolist() == [[1.0, 1.0]]
    assert opt.steps == 0
    assert not opt.adamw.state


def test_weight_decay_spares_vectors() -> None:
    w, gain = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    opt = Optimizer(
        [("w", w), ("norm", gain)],
        lr=0.1,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.5,
        grad_clip=1.0,
        share=schedule("constant", 0),
    )
    (w.sum() * 0 + gain.sum() * 0).backward()
    opt.step(0.0)
    assert torch.allclose(w, torch.full((2, 2), 0.95))  # 1 - lr * decay
    assert gain.tolist() == [1.0, 1.0]


def test_nothing_to_train_is_an_error() -> None:
    frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    with pytest.raises(ValueError, match="nothing to train"):
        optimizer(frozen)


@pytest.mark.parametrize(
    "bad", [{"lr": 0.0}, {"train_indexer": "yes"}, {"minibatches": 0}, {"warmup_steps": -1}, {"threads": -1}]
)
def test_learner_config_names_the_field(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"learner.{next(iter(bad))}"):
        LearnerConfig(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"schedule": "step"},
        {"indexer_kl_coef": 0.0, "indexer_only": True},
        {"total_steps": 10, "warmup_steps": 10},
        {"indexer_kl_every": 0},
    ],
)
def test_sft_config_names_the_field(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"sft.{next(iter(bad))}"):
        SFTConfig(**bad)
