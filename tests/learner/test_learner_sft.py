"""Supervised steps: the loss falls, masks hold, and the indexer learns from its own loss only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rl.learner.config import SFTConfig
from rl.learner.sft import SFTTrainer
from rl.policy.api import Policy
from rl.policy.dsa import DSAPolicy
from rl.policy.hf import HFPolicy
from rl.types import TokenStream


def config(**changes: object) -> SFTConfig:
    return SFTConfig(**{"lr": 3e-3, "warmup_steps": 2, "total_steps": 60, **changes})  # type: ignore[arg-type]


def examples(count: int = 8, seed: int = 0) -> list[TokenStream]:
    """Sequences that count upwards: the next token is certain from the second on."""
    rng = np.random.default_rng(seed)
    return [
        TokenStream.language_modelling((rng.integers(32) + np.arange(rng.integers(16, 28))) % 32) for _ in range(count)
    ]


def snapshot(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.named_parameters()}


def moved(policy: Policy, before: dict[str, torch.Tensor]) -> tuple[bool, bool]:
    """(indexer moved, the rest moved)"""
    names = [name for name, value in policy.named_parameters() if not torch.equal(before[name], value)]
    return any(".indexer." in n for n in names), any(".indexer." not in n for n in names)


def test_learns_to_count(policy: Policy) -> None:
    trainer = SFTTrainer(policy, config(lr=1e-2, router_bias_gamma=1e-3))
    first = trainer.step(examples())
    assert first["sft/loss"] == pytest.approx(np.log(32), abs=0.5)
    for seed in range(25):
        last = trainer.step(examples(seed=seed))
    assert last["sft/loss"] < 1.0
    held_out = trainer.evaluate(examples(seed=99))
    assert held_out["sft/eval_accuracy"] > 0.8
    assert 0.0 <= held_out["sft/eval_exact"] <= 1.0
    assert trainer.steps == 26


def test_loss_is_the_mean_over_targets_whatever_the_packing(policy: Policy) -> None:
    data = examples()
    whole = SFTTrainer(policy, config()).evaluate(data)["sft/eval_loss"]
    split = SFTTrainer(policy, config(max_tokens_per_microbatch=32)).evaluate(data)["sft/eval_loss"]
    total, count = 0.0, 0
    for e in data:
        ids = torch.from_numpy(e.tokens).long()
        with torch.no_grad():
            logprobs = policy.packed_logits(ids, [0, len(ids)])[:-1].log_softmax(-1)
        total -= logprobs.gather(1, ids[1:, None]).sum().item()
        count += len(ids) - 1
    assert whole == pytest.approx(total / count, rel=1e-5)
    assert split == pytest.approx(whole, rel=1e-5)


def test_masked_tokens_are_not_learned(policy: Policy) -> None:
    tokens = np.array([1, 2, 3, 4, 5, 6])
    mask = np.array([False, False, True, False, True, False])
    metrics = SFTTrainer(policy, config()).step([TokenStream(tokens, mask)])
    assert metrics["sft/targets"] == 2
    assert metrics["sft/tokens"] == 4  # the tail behind the last target is not run


@pytest.mark.parametrize("mode", ["dense", "sparse"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"indexer_kl_coef": 0.0}, (False, True)),
        ({"indexer_kl_coef": 1.0}, (True, True)),
        ({"indexer_only": True}, (True, False)),
    ],
)
def test_who_learns(policy: Policy, mode: str, changes: dict, expected: tuple[bool, bool]) -> None:
    assert isinstance(policy, DSAPolicy)
    policy.mode = mode  # type: ignore[assignment]
    before = snapshot(policy)
    metrics = SFTTrainer(policy, config(**changes)).step(examples())
    assert moved(policy, before) == expected
    assert ("sft/indexer_kl" in metrics) == expected[0]


def test_indexer_loss_falls(policy: Policy) -> None:
    trainer = SFTTrainer(policy, config(indexer_only=True, schedule="constant"))
    values = [trainer.step(examples())["sft/indexer_kl"] for _ in range(5)]
    assert values[-1] < values[0]


def test_indexer_kl_every(policy: Policy) -> None:
    trainer = SFTTrainer(policy, config(indexer_kl_every=3))
    assert ["sft/indexer_kl" in trainer.step(examples()) for _ in range(4)] == [True, False, False, True]


def test_router_bias_moves_towards_balance(policy: Policy) -> None:
    assert isinstance(policy, DSAPolicy)
    SFTTrainer(policy, config(router_bias_gamma=0.01)).step(examples())
    bias = policy.module.moe_layers[0].gate.e_score_correction_bias
    assert set(np.round(bias.abs().tolist(), 6)) <= {0.0, 0.01}
    assert bias.abs().sum() > 0


def test_dense_hf_policy_trains() -> None:
    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    policy = HFPolicy(LlamaForCausalLM(llama))
    trainer = SFTTrainer(policy, config())
    losses = [trainer.step(examples())["sft/loss"] for _ in range(5)]
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match="indexer_only"):
        SFTTrainer(policy, config(indexer_only=True))
    with pytest.raises(ValueError, match="router_bias_gamma"):
        SFTTrainer(policy, config(router_bias_gamma=0.1))


def test_no_targets_is_an_error(policy: Policy) -> None:
    with pytest.raises(ValueError, match="none of the 1 examples has a target"):
        SFTTrainer(policy, config()).step([TokenStream(np.arange(4), np.zeros(4, bool))])
