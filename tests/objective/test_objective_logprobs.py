"""Token log-probs, entropy, sampling support, and the diagnostics made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.objective.config import ObjectiveConfig
from rl.objective.diagnostics import Diagnostics, percentile
from rl.objective.logprobs import check_sampler_logprobs, scores_of_logits, support_bits, support_mask
from rl.objective.loss import LossInputs, grpo_loss

# probabilities 1/2, 1/4, 1/8, 1/8
LOGITS = torch.tensor([[math.log(4), math.log(2), 0.0, 0.0]])


def test_logprob_entropy_greedy() -> None:
    scores = scores_of_logits(LOGITS.expand(2, -1), torch.tensor([0, 2]))
    assert scores.logprobs_N.tolist() == pytest.approx([math.log(1 / 2), math.log(1 / 8)])
    # H = 1/2 ln 2 + 1/4 ln 4 + 2/8 ln 8 = 1.75 ln 2
    assert scores.entropy_N.tolist() == pytest.approx([1.75 * math.log(2)] * 2)
    assert scores.greedy_N.tolist() == [True, False]


def test_temperature() -> None:
    # at temperature 1/2 the odds are squared: 16 : 4 : 1 : 1
    scores = scores_of_logits(LOGITS, torch.tensor([1]), temperature=0.5)
    assert scores.logprobs_N.item() == pytest.approx(math.log(4 / 22))


def test_support_renormalises_and_keeps_the_sampled_token() -> None:
    targets = torch.tensor([1, 1, 3])
    mask = support_mask([np.array([0, 1]), None, np.array([0, 1])], targets, 4)
    assert mask is not None
    assert mask.tolist() == [[True, True, False, False], [True] * 4, [True, True, False, True]]
    logits = LOGITS.expand(3, -1).clone().requires_grad_()
    scores = scores_of_logits(logits, targets, mask_NV=mask)
    # kept {0, 1}: 2/4 : 1/4 -> 1/3; whole vocabulary: 1/4; kept {0, 1, 3}: 1/8 / (7/8) = 1/7
    assert scores.logprobs_N.tolist() == pytest.approx([math.log(1 / 3), math.log(1 / 4), math.log(1 / 7)])
    assert torch.isfinite(scores.entropy_N).all()
    scores.logprobs_N.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 2] == 0.0  # outside the support: no gradient


def test_no_truncation_needs_no_mask() -> None:
    assert support_mask([None, None], torch.tensor([0, 1]), 4) is None


def test_percentile_has_no_interpolation() -> None:
    values = torch.arange(1.0, 101.0)
    assert percentile(values, 0.99) == 99.0
    assert percentile(torch.tensor([3.0]), 0.99) == 3.0


def test_support_bits_by_hand() -> None:
    """Tokens 0 and 9 of 10 with the sampled one, 3: 0b00001001 and 0b00000010; a row that was not cut is all ones."""
    bits = support_bits([np.array([0, 9]), None], torch.tensor([3, 1]), 10)
    assert bits is not None
    assert bits.tolist() == [[9, 2], [255, 255]]
    assert support_bits([None, None], torch.tensor([3, 1]), 10) is None


@given(st.integers(1, 40).flatmap(lambda v: st.tuples(
    st.just(v), st.lists(st.tuples(st.none() | st.sets(st.integers(0, v - 1)), st.integers(0, v - 1)), min_size=1)
)))  # fmt: skip
def test_support_bits_are_the_mask(drawn: tuple[int, list[tuple[set[int] | None, int]]]) -> None:
    vocab, rows = drawn
    support = [None if kept is None else np.array(sorted(kept), dtype=np.int32) for kept, _ in rows]
    targets = torch.tensor([target for _, target in rows])
    mask, bits = support_mask(support, targets, vocab), support_bits(support, targets, vocab)
    assert (mask is None) == (bits is None)
    if mask is not None and bits is not None:
        assert np.array_equal(np.unpackbits(bits.numpy(), axis=1, count=vocab, bitorder="little"), mask.numpy())


def test_diagnostics_by_hand() -> None:
    new = torch.tensor([math.log(0.5), math.log(0.5)], requires_grad=True)
    old = torch.tensor([math.log(0.5), math.log(0.25)])  # ratios 1 and 2
    segment = torch.tensor([0, 1])
    advantages = torch.tensor([1.0, 1.0])
    terms = grpo_loss(LossInputs(new, old, advantages, torch.tensor([0.5, 0.5]), segment, 2), ObjectiveConfig(), None)
    diagnostics = Diagnostics()
    diagnostics.add(terms, new, old, torch.tensor([1.0, 3.0]), torch.tensor([True, False]))
    out = diagnostics.summary()
    assert out["policy/ratio_mean"] == pytest.approx(1.5)
    assert out["policy/clip_fraction"] == 0.5
    # (0 + (2 - 1 - ln 2)) / 2
    assert out["policy/approx_kl"] == pytest.approx((1 - math.log(2)) / 2)
    assert out["policy/entropy"] == 2.0
    # drifts 0 and ln(0.25 / 0.5) = -ln 2
    assert out["policy/drift_mean"] == pytest.approx(-math.log(2) / 2)
    # the second token was sampled by other weights: no mismatch
    assert out["mismatch/max"] == 0.0
    assert "loss/kl" not in out
    assert Diagnostics().summary() == {}


@pytest.mark.parametrize(
    ("logprobs", "says"),
    [
        (None, "missing"),
        (np.array([-1.0, np.nan], np.float32), "1 of 2 sampler log-probs are NaN"),
        ([-1.0, 0.5], "0.5, a probability above 1"),
    ],
)
def test_impossible_sampler_logprobs_name_the_trajectory(logprobs: object, says: str) -> None:
    with pytest.raises(ValueError, match=rf"trajectory t7 segment 0: .*{says}"):
        check_sampler_logprobs(logprobs, "trajectory t7 segment 0")


def test_possible_sampler_logprobs_pass() -> None:
    check_sampler_logprobs(torch.tensor([-30.0, 0.0, 5e-5]), "trajectory t7")
    check_sampler_logprobs([], "trajectory t7")
