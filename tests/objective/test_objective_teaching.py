"""On-policy distillation: reverse KL to a teacher in its three forms, by hand and by its properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.objective.config import ObjectiveConfig, TeachingConfig
from rl.objective.logprobs import TokenScores
from rl.objective.loss import LossInputs, grpo_loss
from rl.objective.teaching import Lesson, lesson_of_logits, reverse_kl, sampled_lesson

SMALL = st.floats(-6.0, 6.0, width=32)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V] of two policies."""
    rows, words = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    return tuple(
        torch.tensor(draw(st.lists(SMALL, min_size=rows * words, max_size=rows * words))).view(rows, words)
        for _ in range(2)
    )  # type: ignore[return-value]


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def taught(**settings: Any) -> ObjectiveConfig:
    more = {key: settings.pop(key) for key in ("old_policy", "correction", "surrogate") if key in settings}
    return ObjectiveConfig(distill=TeachingConfig(teachers={"default": "somewhere"}, **settings), **more)


def test_full_by_hand() -> None:
    # 1/2 ln(1/2 : 1/4) + 1/2 ln(1/2 : 3/4) = 0.143841
    p, q = logs(0.5, 0.5), logs(0.25, 0.75)
    assert reverse_kl(p, q).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    logits = logs(0.5, 0.5).requires_grad_()
    lesson = lesson_of_logits(logits, logs(0.25, 0.75), torch.tensor([1]))
    assert lesson.kl_N.item() == pytest.approx(0.143841, abs=1e-6)
    assert lesson.entropy_N.item() == pytest.approx(0.562335, abs=1e-6)
    assert lesson.greedy_N.tolist() == [True]
    lesson.kl_N.sum().backward()
    # dK/dz_v = p_v (ln(p_v / q_v) - K)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx(
        [0.5 * (0.693147 - 0.143841), 0.5 * (-0.405465 - 0.143841)], abs=1e-6
    )


def test_top_k_takes_the_rest_for_one_token() -> None:
    p, q = logs(0.125, 0.5, 0.125, 0.25), logs(0.4, 0.25, 0.1, 0.25)
    # the policy's two likeliest are 1 and 3: 1/2 ln 2 + 1/4 ln 1 + 1/4 ln(1/4 : 1/2)
    assert reverse_kl(p, q, 2).item() == pytest.approx(0.25 * math.log(2))
    # 1/2 ln 2 + 1/8 ln(1/8 : 0.4) + 1/8 ln(1/8 : 0.1)
    full = 0.5 * math.log(2) + 0.125 * (math.log(0.125 / 0.4) + math.log(1.25))
    for top_k in (None, 3, 4, 99):  # with one token left the rest is that token
        assert reverse_kl(p, q, top_k).item() == pytest.approx(full, abs=1e-6)


def test_the_temperature_divides_both() -> None:
    z, e = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    hot = lesson_of_logits(z, e, torch.tensor([0]), temperature=2.0).kl_N
    assert hot.item() == pytest.approx(reverse_kl((z / 2).log_softmax(-1), (e / 2).log_softmax(-1)).item())
    assert hot.item() == pytest.approx(math.tanh(0.5), abs=1e-6)  # (2 sigmoid(1) - 1) * 1


@settings(max_examples=40)
@given(pairs())
def test_properties(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """0 or more, growing with k up to the full KL, 0 for equal policies, blind to a shift of the logits."""
    p, q = (z.double().log_softmax(-1) for z in pair)
    full = reverse_kl(p, q)
    words = p.shape[-1]
    by_k = torch.stack([reverse_kl(p, q, k) for k in range(1, words + 1)])
    assert (by_k >= -1e-12).all()
    assert (by_k.diff(dim=0) >= -1e-12).all()
    torch.testing.assert_close(by_k[-1], full)
    for k in (None, 1, words - 1):
        assert reverse_kl(p, p, k).abs().max() < 1e-12
    moved = lesson_of_logits(pair[0] + 3.0, pair[1] - 5.0, torch.zeros(len(p), dtype=torch.long)).kl_N
    torch.testing.assert_close(moved.double(), full, atol=1e-4, rtol=1e-4)


@settings(max_examples=40)
@given(pairs())
def test_gradients(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """p_v (ln(p_v / q_v) - K); with top-k tokens of the rest share r ln(r_p / r_q) by their p. None for the teacher."""
    z, e = (one.double().requires_grad_() for one in pair)
    p, q = z.detach().softmax(-1), e.detach().softmax(-1)
    lesson_of_double = reverse_kl(z.log_softmax(-1), e.detach().log_softmax(-1))
    (found,) = torch.autograd.grad(lesson_of_double.sum(), z)
    torch.testing.assert_close(found, p * ((p / q).log() - lesson_of_double.detach()[:, None]), atol=1e-9, rtol=1e-6)
    kl = reverse_kl(z.log_softmax(-1), e.detach().log_softmax(-1), 1)
    (found,) = torch.autograd.grad(kl.sum(), z)
    best = z.log_softmax(-1).topk(1).indices  # where two are equal, the same of them
    rest = 1 - p.gather(1, best), 1 - q.gather(1, best)
    ratio = (rest[0] / rest[1]).log().expand_as(p).scatter(1, best, (p / q).log().gather(1, best))
    torch.testing.assert_close(found, p * (ratio - kl.detach()[:, None]), atol=1e-6, rtol=1e-4)
    lesson_of_logits(z, e, torch.zeros(len(z), dtype=torch.long)).kl_N.sum().backward()
    assert e.grad is None


def test_no_rest_at_all_and_almost_none() -> None:
    """What is left beside a sure token is far below float32's rounding of 1, and still counts for the gradient."""
    z = torch.tensor([[30.0, 0.0, -1.0]]).requires_grad_()
    kl = reverse_kl(z.log_softmax(-1), logs(0.2, 0.4, 0.4), 1)
    assert kl.item() == pytest.approx(math.log(5), rel=1e-6)
    (gradient,) = torch.autograd.grad(kl.sum(), z)
    assert bool(gradient.isfinite().all())
    assert gradient[0, 1] != 0


def inputs(logprobs: torch.Tensor, lesson: Lesson | None, **given: Any) -> LossInputs:
    n = len(logprobs)
    settings: dict[str, Any] = {
        "sampler_logprobs_N": logprobs.detach(), "advantages_N": torch.zeros(n), "weights_N": torch.full((n,), 1 / n),
        "segment_N": torch.zeros(n, dtype=torch.long), "segments": 1, "distill_weight": 1.0,
    }  # fmt: skip
    return LossInputs(logprobs, lesson=lesson, **settings | given)


def flags(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(n), torch.zeros(n, dtype=torch.bool)


def test_the_loss_by_hand() -> None:
    """alpha L + lambda K: at ratio 1 the surrogate is -A, whose gradient on log pi is -A."""
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    kl = torch.tensor([0.3, 0.5], requires_grad=True)
    given = inputs(
        logprobs, Lesson(kl, *flags(2)), advantages_N=torch.tensor([2.0, -1.0]), weights_N=torch.tensor([0.5, 0.25]),
        distill_weight=0.1,
    )  # fmt: skip
    terms = grpo_loss(given, taught(reward_weight=0.4), None)
    assert terms.policy_loss.item() == pytest.approx(0.4 * (-2.0 * 0.5 + 1.0 * 0.25))
    assert terms.distill_loss.item() == pytest.approx(0.1 * (0.5 * 0.3 + 0.25 * 0.5))
    assert terms.loss.item() == pytest.approx(terms.policy_loss.item() + terms.distill_loss.item())
    terms.loss.backward()
    assert logprobs.grad is not None
    assert kl.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.4 * -2.0 * 0.5, 0.4 * 1.0 * 0.25])
    assert kl.grad.tolist() == pytest.approx([0.05, 0.025])
    alone = grpo_loss(given, taught(), None)  # reward_weight 0
    assert alone.policy_loss.item() == 0.0
    assert alone.loss.item() == pytest.approx(alone.distill_loss.item())


def test_the_off_policy_mask_leaves_the_teacher() -> None:
    logprobs = torch.tensor([-3.0], requires_grad=True)
    given = inputs(
        logprobs, Lesson(torch.tensor([0.3]), *flags(1)), advantages_N=torch.tensor([-1.0]),
        sampler_logprobs_N=torch.tensor([-1.0]),
    )  # fmt: skip
    terms = grpo_loss(given, taught(reward_weight=1.0), delta=0.5)
    assert terms.kept_S.tolist() == [False]
    assert terms.loss.item() == pytest.approx(0.3)
    far = inputs(torch.tensor([-1.0], requires_grad=True), given.lesson, sampler_logprobs_N=torch.tensor([-1000.0]))
    assert grpo_loss(far, taught(), None).loss.item() == pytest.approx(0.3)  # weight 0 times an infinite ratio


@pytest.mark.parametrize("surrogate", ["clip", "cispo"])
def test_sampled_has_the_gradient_of_the_full_kl_on_average(surrogate: str) -> None:
    """Over all tokens that could have been drawn, by their probability, on-policy."""
    torch.manual_seed(0)
    z, e = torch.randn(6).double().requires_grad_(), torch.randn(6).double()
    (wanted,) = torch.autograd.grad(reverse_kl(z.log_softmax(-1)[None], e.log_softmax(-1)[None]).sum(), z)
    logprobs = z.log_softmax(-1)
    lesson = sampled_lesson(logprobs, TokenScores(e.log_softmax(-1), *flags(6)))
    assert lesson.kl_N.tolist() == pytest.approx((logprobs - e.log_softmax(-1)).tolist())
    given = inputs(logprobs, lesson, weights_N=logprobs.detach().exp(), distill_weight=0.5)
    terms = grpo_loss(given, taught(form="sampled", surrogate=surrogate), None)
    (found,) = torch.autograd.grad(terms.loss, z)
    torch.testing.assert_close(found, 0.5 * wanted)


def test_sampled_is_clipped_and_corrected_as_an_advantage_is() -> None:
    """A = ln pi_E - ln pi_theta = 1 at ratio e^0.4: clip holds min(r, 1.2) A, without a gradient."""
    logprobs = torch.tensor([-1.0], requires_grad=True)
    teacher = TokenScores(torch.tensor([0.0]), *flags(1))
    given = inputs(logprobs, sampled_lesson(logprobs, teacher), sampler_logprobs_N=torch.tensor([-1.4]))
    terms = grpo_loss(given, taught(form="sampled"), None)
    assert terms.loss.item() == pytest.approx(-1.2)
    assert terms.clipped_N.tolist() == [True]
    terms.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == 0.0
    given.old_logprobs_N = torch.tensor([-1.2])  # ratio e^0.2 clipped to 1.2, rho e^0.2
    settings = taught(form="sampled", old_policy="learner", correction="truncate")
    assert grpo_loss(given, settings, None).loss.item() == pytest.approx(-1.2 * math.exp(0.2), rel=1e-6)
