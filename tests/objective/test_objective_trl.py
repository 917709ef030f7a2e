"""Our loss and its gradient agree with TRL 1.16's own ``GRPOTrainer._compute_loss`` on the same tensors.

TRL's method runs unchanged; only the model's forward pass is replaced by given log-probs. Where the definitions
differ in form, this is how they map (left TRL, right ours):

- ``loss_type`` grpo: mean over sequences = sequence_mean with groups of equal size. dapo, bnpo, cispo: sum / tokens
  = token_mean (TRL's ``num_items_in_batch`` counts the whole generation batch; here that is the minibatch). dr_grpo:
  sum / (sequences x ``max_completion_length``) = constant.
- ``epsilon`` / ``epsilon_high`` = clip / clip_high; for cispo TRL's ``epsilon_high`` is the upper bound itself, ours
  is 1 + clip_high. Neither has a lower bound there.
- importance_sampling_level=sequence differentiates through the mean, ours gives every token its own gradient (GSPO's
  token variant): the same gradient, because advantage and weight are one per sequence. A correction per token or a
  KL (TRL multiplies it by the sequence's ratio, V3.2 by the token's) would make them differ.
- ``old_per_token_logps``: the learner's; set to the sampler's for old_policy=sampler. ``off_policy_mask_threshold``
  compares with the sampler in both. TRL's correction comes as an input, made by the trainer as in ``correction_of``.
- TRL takes sampler log-probs that are missing or NaN as "no mismatch"; ours raises (``check_sampler_logprobs``).
"""

from __future__ import annotations

import importlib
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rl.objective.advantage import token_weights
from rl.objective.config import ObjectiveConfig
from rl.objective.loss import LossInputs, grpo_loss

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[trl]")

LENGTHS = [[5, 1, 9], [7, 3, 4]]  # 2 groups of 3 completions
MAX_LENGTH = 9
CLIP, CLIP_HIGH = 0.2, 0.28


@pytest.fixture(scope="module")
def trainer_class() -> Any:
    flags = importlib.import_module("trl.import_utils")  # not an attribute of TRL's lazy top module
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Importing the trainer would import all of vLLM, which the loss does not use.
        patch.setattr(flags, "is_vllm_available", lambda *args, **kwargs: False)
        from trl.trainer.grpo_trainer import GRPOTrainer
    return GRPOTrainer


def tensors(seed: int) -> SimpleNamespace:
    """Padded float64 log-probs [B, T] around a common policy; what lies behind a completion's end is noise."""
    g = torch.Generator().manual_seed(seed)
    shape = (sum(map(len, LENGTHS)), MAX_LENGTH)
    base = -torch.rand(shape, generator=g, dtype=torch.float64) * 4

    def near(scale: float) -> torch.Tensor:
        return base + scale * torch.randn(shape, generator=g, dtype=torch.float64)

    lengths = torch.tensor([n for group in LENGTHS for n in group])
    return SimpleNamespace(
        logprobs=near(0.0),
        sampler=near(0.35),
        old=near(0.25),
        ref=near(0.5),
        advantages=torch.randn(shape[0], generator=g, dtype=torch.float64),
        mask=(torch.arange(MAX_LENGTH) < lengths[:, None]).double(),
    )


def correction_of(data: SimpleNamespace, kind: str, low: float, high: float) -> torch.Tensor:
    """``importance_sampling_ratio`` as ``_generate_and_score_completions`` makes it for token_truncate / token_mask."""
    ratio = torch.exp((data.old - data.sampler) * data.mask)
    if kind == "truncate":
        return ratio.clamp(max=high)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


def theirs(trainer_class: Any, data: SimpleNamespace, settings: dict[str, Any], config: ObjectiveConfig) -> Any:
    """(loss, gradient [B, T]) of TRL's trainer; nothing of it but what ``_compute_loss`` reads is there."""
    leaf = data.logprobs.clone().requires_grad_()
    trainer = object.__new__(trainer_class)
    defaults: dict[str, Any] = {
        "loss_type": "grpo",
        "epsilon_low": CLIP,
        "epsilon_high": CLIP,
        "importance_sampling_level": "token",
        "off_policy_mask_threshold": None,
        "beta": 0.0,
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "use_vllm": config.correction != "none",
        "vllm_importance_sampling_correction": True,
        "max_completion_length": MAX_LENGTH,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "model": SimpleNamespace(training=True),
        "args": SimpleNamespace(use_bias_correction_kl=True, delta=None, steps_per_generation=1),
        "accelerator": SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        "_get_per_token_logps_and_entropies": lambda *args, **kwargs: (leaf, torch.zeros_like(leaf), None),
    }
    vars(trainer).update(defaults | settings)
    batch, ids = len(leaf), torch.zeros(leaf.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones(batch, 1),
        "completion_ids": ids,
        "completion_mask": data.mask,
        "advantages": data.advantages,
        "old_per_token_logps": data.old if config.old_policy == "learner" else data.sampler,
        "sampling_per_token_logps": data.sampler,
        "ref_per_token_logps": data.ref,
        "num_items_in_batch": data.mask.sum(),
    }
    if config.correction != "none":
        inputs["importance_sampling_ratio"] = correction_of(
            data, config.correction, config.correction_low, config.correction_high
        )
    loss = trainer_class._compute_loss(trainer, None, inputs)
    (grad,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), grad


def ours(data: SimpleNamespace, config: ObjectiveConfig) -> Any:
    """(loss, gradient [B, T], terms) of the same numbers, flat over the real tokens."""
    real = data.mask.bool()
    segment_N = real.nonzero()[:, 0]
    weights = token_weights(LENGTHS, config.loss_aggregation, config.loss_constant)
    weights_S = torch.tensor([w for group in weights for w in group], dtype=torch.float64)
    leaf = data.logprobs[real].clone().requires_grad_()
    inputs = LossInputs(
        leaf,
        data.sampler[real],
        data.advantages[segment_N],
        weights_S[segment_N],
        segment_N,
        len(weights_S),
        data.old[real],
        data.ref[real],
        torch.full_like(leaf, config.kl_coef_for("math")),
    )
    terms = grpo_loss(inputs, config, config.opsm_delta)
    (grad,) = torch.autograd.grad(terms.loss, leaf)
    return terms.loss.detach(), torch.zeros_like(data.mask).masked_scatter(real, grad), terms


DAPO = {"loss_aggregation": "token_mean", "clip_high": CLIP_HIGH}
SEQUENCE = {"importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04}
LEARNER = {"old_policy": "learner", "correction_low": 0.8, "correction_high": 1.25}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (TRL's settings, ours)
    "grpo": ({}, {}),
    "dapo": ({"loss_type": "dapo", "epsilon_high": CLIP_HIGH}, DAPO),
    "bnpo": ({"loss_type": "bnpo", "epsilon_high": CLIP_HIGH}, DAPO),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"loss_aggregation": "constant", "loss_constant": MAX_LENGTH}),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1 + CLIP_HIGH},
        {"surrogate": "cispo", "loss_aggregation": "token_mean", "clip_high": CLIP_HIGH},
    ),
    "gspo": (SEQUENCE, {"ratio": "sequence", "clip": 0.03, "clip_high": 0.04}),
    "gspo-dapo": (
        SEQUENCE | {"loss_type": "dapo"},
        {"ratio": "sequence", "clip": 0.03, "clip_high": 0.04, "loss_aggregation": "token_mean"},
    ),
    "unbiased-kl": ({"beta": 0.3}, {"kl_coef": 0.3}),
    "unbiased-kl-dr_grpo": (
        {"beta": 0.3, "loss_type": "dr_grpo"},
        {"kl_coef": {"math": 0.3}, "loss_aggregation": "constant", "loss_constant": MAX_LENGTH},
    ),
    "off-policy-mask": ({"off_policy_mask_threshold": 0.0}, {"opsm_delta": 0.0}),
    "off-policy-mask-kl": ({"off_policy_mask_threshold": 0.0, "beta": 0.3}, {"opsm_delta": 0.0, "kl_coef": 0.3}),
    "decoupled": ({"off_policy_mask_threshold": 0.0}, {"old_policy": "learner", "opsm_delta": 0.0}),
    "tis": ({}, LEARNER | {"correction": "truncate"}),
    "icepop": ({"loss_type": "dapo", "epsilon_high": CLIP_HIGH}, LEARNER | DAPO | {"correction": "mask"}),
    "cispo-icepop": (
        {"loss_type": "cispo", "epsilon_high": 1 + CLIP_HIGH},
        LEARNER | DAPO | {"correction": "mask", "surrogate": "cispo"},
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_agree_with_trl(trainer_class: Any, name: str, seed: int) -> None:
    settings, fields = CASES[name]
    config, data = ObjectiveConfig(**fields), tensors(seed)
    loss, grad = theirs(trainer_class, data, settings, config)
    our_loss, our_grad, _ = ours(data, config)
    assert our_loss.item() == pytest.approx(loss.item(), abs=1e-6)
    assert (our_grad - grad).abs().max().item() < 1e-6
    assert grad.abs().max().item() > 1e-3  # there was something to agree on


def test_the_cases_reach_what_they_name() -> None:
    """Over the seeds, clips, masks and corrections are all active: agreement is not for want of a difference."""
    for name in ("grpo", "dapo", "cispo", "gspo", "off-policy-mask", "tis", "icepop"):
        config = ObjectiveConfig(**CASES[name][1])
        terms = [ours(tensors(seed), config)[2] for seed in range(3)]
        assert any(t.clipped_N.any() for t in terms), name
        if config.opsm_delta is not None:
            assert any(not t.kept_S.all() for t in terms), name
        if config.correction != "none":
            assert any(t.cut_N.any() for t in terms), name
