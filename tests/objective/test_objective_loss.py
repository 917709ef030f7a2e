"""The whole loss: how ratio, bound, weights, masks and KL combine, against hand-computed numbers and by properties."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.objective.config import ObjectiveConfig
from rl.objective.loss import LossInputs, grpo_loss

LOG2 = math.log(2.0)
KINDS = list(itertools.product(("clip", "cispo"), ("token", "sequence")))


def make(logprobs: Any, sampler: Any, advantages: Any, weights: Any, segment: list[int], **more: Any) -> LossInputs:
    """Inputs from lists; ``logprobs`` a leaf that collects the gradient."""
    leaf = torch.tensor(logprobs, requires_grad=True)
    flat = [torch.tensor(values) for values in (sampler, advantages, weights)]
    more = {name: torch.tensor(values) for name, values in more.items()}
    return LossInputs(leaf, *flat, torch.tensor(segment), max(segment) + 1, **more)


def gradient(inputs: LossInputs) -> list[float]:
    assert inputs.logprobs_N.grad is not None
    return inputs.logprobs_N.grad.tolist()


def test_loss_masks_the_surrogate_but_not_the_kl() -> None:
    inputs = make(
        [-1.4, -1.0],
        [-1.0, -1.0],
        [-1.0, 1.0],
        [0.5, 0.25],
        [0, 1],
        ref_logprobs_N=[-1.4 + LOG2, -1.0 + LOG2],
        kl_coef_N=[0.5, 0.5],
    )
    terms = grpo_loss(inputs, ObjectiveConfig(kl_coef=0.5), delta=0.1)
    # surrogate: token 0 masked; token 1: -1 * 0.25. KL at pi_ref = 2 pi_theta: r (2 - ln 2 - 1), r = e^-0.4 and 1
    one = 1.0 - LOG2
    assert terms.kept_S.tolist() == [False, True]
    assert terms.policy_loss.item() == pytest.approx(-0.25)
    assert terms.loss.item() == pytest.approx(-0.25 + 0.5 * (0.5 * 0.670320 * one + 0.25 * one), rel=1e-5)
    terms.loss.backward()
    # KL: beta w r log(pi_theta/pi_ref) = 0.5 * 0.5 * 0.670320 * -ln 2 and 0.5 * 0.25 * -ln 2; surrogate: 0 and -0.25
    assert gradient(inputs) == pytest.approx([-0.1161576, -0.25 - 0.0866434], rel=1e-5)


def test_kl_strength_is_per_token() -> None:
    inputs = make(
        [-1.0, -1.0],
        [-1.0, -1.0],
        [0.0, 0.0],
        [1.0, 1.0],
        [0, 1],
        ref_logprobs_N=[-1.0 + LOG2] * 2,
        kl_coef_N=[0.0, 2.0],
    )
    terms = grpo_loss(inputs, ObjectiveConfig(kl_coef={"math": 0.0, "default": 2.0}), None)
    assert terms.loss.item() == pytest.approx(2.0 * (1.0 - LOG2), rel=1e-5)
    assert terms.kl_K is not None
    assert terms.kl_K.tolist() == pytest.approx([1.0 - LOG2], rel=1e-5)


def test_an_infinite_kl_where_its_strength_is_zero_leaves_no_nan() -> None:
    inputs = make(
        [200.0, -1.0], [-1.0, -1.0], [0.0, 1.0], [0.5, 0.5], [0, 1], ref_logprobs_N=[-1.0, -1.0], kl_coef_N=[0.0, 1.0]
    )
    inputs = replace(inputs, advantages_N=torch.tensor([-1.0, 1.0]))
    terms = grpo_loss(inputs, ObjectiveConfig(kl_coef={"math": 0.0, "default": 1.0}), delta=-1e9)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(-0.5)
    assert gradient(inputs) == pytest.approx([0.0, -0.5])


def test_gspo_loss_and_gradient() -> None:
    # segment 0: log ratios 0.2, 0.0 -> s = e^0.1 = 1.105171, A = 1, inside [0.8, 1.2]
    # segment 1: log ratios 0.6, 0.4 -> s = e^0.5 = 1.648721, A = 1, above 1.2: value 1.2, no gradient
    inputs = make([-0.8, -1.0, -0.4, -0.6], [-1.0] * 4, [1.0] * 4, [0.25] * 4, [0, 0, 1, 1])
    terms = grpo_loss(inputs, ObjectiveConfig(ratio="sequence"), None)
    assert terms.loss.item() == pytest.approx(-0.25 * 2 * (1.105171 + 1.2), rel=1e-5)
    assert terms.clipped_N.tolist() == [False, False, True, True]
    terms.loss.backward()
    # each token gets s A w, not its own ratio (e^0.2, 1)
    assert gradient(inputs) == pytest.approx([-0.2762927, -0.2762927, 0.0, 0.0], rel=1e-5)


def test_cispo_loss_and_gradient() -> None:
    # ratio 2 bounded at 1.2: -1.2 * 1 * -1 * 0.5 = 0.6; ratio 1/2: -0.5 * -2 * -1 * 0.5 = -0.5
    inputs = make([-1.0, -1.0], [-1.0 - LOG2, -1.0 + LOG2], [1.0, -2.0], [0.5, 0.5], [0, 1])
    terms = grpo_loss(inputs, ObjectiveConfig(surrogate="cispo"), None)
    assert terms.loss.item() == pytest.approx(0.6 - 0.5, rel=1e-5)
    terms.loss.backward()
    assert gradient(inputs) == pytest.approx([-0.6, 0.5], rel=1e-5)


@pytest.mark.parametrize(
    ("correction", "weights"), [("none", [1.0, 1.0, 1.0]), ("truncate", [2.0, 0.25, 1.5]), ("mask", [0.0, 0.0, 1.5])]
)
def test_decoupled_ratio_and_correction(correction: str, weights: list[float]) -> None:
    # rho = pi_learner_old / pi_sampler = 3, 1/4, 3/2; pi_theta = 1.1 pi_learner_old, so r = 1.1
    old = [math.log(0.3), math.log(0.1), math.log(0.3)]
    sampler = [math.log(0.1), math.log(0.4), math.log(0.2)]
    new = [value + math.log(1.1) for value in old]
    inputs = make(new, sampler, [1.0] * 3, [0.5] * 3, [0, 0, 0], old_logprobs_N=old)
    terms = grpo_loss(inputs, ObjectiveConfig(old_policy="learner", correction=correction), None)
    assert terms.loss.item() == pytest.approx(-0.5 * 1.1 * sum(weights), rel=1e-5)
    # the logged ratio is against the sampler whatever pi_old is
    assert terms.ratio_N.tolist() == pytest.approx([3.3, 0.275, 1.65], rel=1e-5)
    terms.loss.backward()
    assert gradient(inputs) == pytest.approx([-0.55 * w for w in weights], rel=1e-5)


@pytest.mark.parametrize(("surrogate", "ratio"), KINDS)
def test_masked_sequence_with_infinite_ratio_leaves_no_nan(surrogate: str, ratio: str) -> None:
    # exp(200 + 1) overflows float32; the drift of segment 0 is (-201 + 510) / 2, far above delta
    inputs = make([200.0, -10.0, -1.0], [-1.0, 500.0, -1.0], [-1.0, -1.0, 1.0], [1 / 3] * 3, [0, 0, 1])
    terms = grpo_loss(inputs, ObjectiveConfig(surrogate=surrogate, ratio=ratio), delta=0.1)
    assert terms.kept_S.tolist() == [False, True]
    assert torch.isfinite(terms.loss)
    terms.loss.backward()
    assert gradient(inputs) == pytest.approx([0.0, 0.0, -1 / 3])


@pytest.mark.parametrize(("surrogate", "ratio"), KINDS)
def test_token_masked_by_the_correction_with_infinite_ratio_leaves_no_nan(surrogate: str, ratio: str) -> None:
    # token 0: rho = e^150 is masked, and its ratio pi_theta / pi_learner_old = e^150 overflows
    inputs = make([299.0, -1.0], [-1.0, -1.0], [-1.0, 1.0], [0.5, 0.5], [0, 1], old_logprobs_N=[149.0, -1.0])
    config = ObjectiveConfig(surrogate=surrogate, ratio=ratio, old_policy="learner", correction="mask")
    terms = grpo_loss(inputs, config, None)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(0.5 if surrogate == "cispo" else -0.5)
    assert gradient(inputs) == pytest.approx([0.0, -0.5])


def test_without_delta_nothing_is_masked() -> None:
    inputs = make([-9.0], [-1.0], [-1.0], [1.0], [0])
    terms = grpo_loss(inputs, ObjectiveConfig(), None)
    assert terms.kept_S.all()
    assert terms.delta is None


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (ObjectiveConfig(kl_coef=0.1), "objective.kl_coef"),
        (ObjectiveConfig(old_policy="learner"), "old_policy=learner"),
    ],
)
def test_missing_logprobs_are_an_error(config: ObjectiveConfig, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        grpo_loss(make([0.0], [0.0], [0.0], [0.0], [0]), config, None)


CONFIGS = [
    ObjectiveConfig(surrogate=surrogate, ratio=ratio, kl_coef=0.1, **more)
    for surrogate, ratio in KINDS
    for more in (
        {},
        {"old_policy": "learner", "correction": "mask"},
        {"old_policy": "learner", "correction": "truncate"},
    )
]


@settings(max_examples=40)
@given(st.integers(0, 2**31 - 1), st.sampled_from(CONFIGS), st.sampled_from([None, 0.0, 0.1]))
def test_order_and_packing_do_not_change_the_loss(seed: int, config: ObjectiveConfig, delta: float | None) -> None:
    """One micro-batch, or its segments dealt onto two with their tokens shuffled: same loss, same gradient."""
    g = torch.Generator().manual_seed(seed)
    segments = int(torch.randint(2, 6, (), generator=g))
    segment = torch.arange(segments).repeat_interleave(torch.randint(1, 7, (segments,), generator=g))
    n = len(segment)

    def draw(scale: float, around: torch.Tensor | float = 0.0) -> torch.Tensor:
        return around + scale * torch.randn(n, generator=g, dtype=torch.float64)

    logprobs, advantage = draw(1.0, -3.0), torch.randn(segments, generator=g, dtype=torch.float64)
    inputs = LossInputs(
        logprobs, draw(0.3, logprobs), advantage[segment], draw(1.0).abs()[segment], segment, segments,
        draw(0.2, logprobs), draw(0.3, logprobs), draw(1.0).clamp(min=0.0),
    )  # fmt: skip

    def run(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids, local = inputs.segment_N[rows].unique(return_inverse=True)
        names = [n for n, value in vars(inputs).items() if isinstance(value, torch.Tensor) and n != "segment_N"]
        cut = replace(inputs, **{name: getattr(inputs, name)[rows] for name in names})
        cut = replace(cut, segment_N=local, segments=len(ids), logprobs_N=cut.logprobs_N.requires_grad_())
        loss = grpo_loss(cut, config, delta).loss
        (grad,) = torch.autograd.grad(loss, cut.logprobs_N)
        return loss.detach(), torch.zeros(n, dtype=torch.float64).index_copy(0, rows, grad)

    whole = run(torch.arange(n))
    shuffled = torch.randperm(n, generator=g)
    first = inputs.segment_N[shuffled] % 2 == 0
    parts = [run(shuffled[first]), run(shuffled[~first])]
    assert torch.allclose(whole[0], parts[0][0] + parts[1][0], atol=1e-12)
    assert torch.allclose(whole[1], parts[0][1] + parts[1][1], atol=1e-12)
