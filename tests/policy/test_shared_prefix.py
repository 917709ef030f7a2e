"""Shared prompts are computed once: the same logits and gradient as sequence by sequence, fewer tokens computed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rl.policy.hf import HFPolicy
from rl.policy.shared_prefix import WORTH, Shared, find_shared

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def llama(dtype: torch.dtype = torch.float32) -> HFPolicy:
    torch.manual_seed(0)
    return HFPolicy(LlamaForCausalLM(LlamaConfig(**SMALL)).to(dtype))


def qwen3() -> HFPolicy:
    torch.manual_seed(0)
    return HFPolicy(Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16)))


def packed(sequences: list[list[int]]) -> tuple[torch.Tensor, list[int]]:
    bounds = [0, *np.cumsum([len(s) for s in sequences]).tolist()]
    return torch.tensor([t for s in sequences for t in s]), bounds


def gradients(policy: HFPolicy, ids: torch.Tensor, bounds: list[int], weights: torch.Tensor) -> list[torch.Tensor]:
    policy.module.zero_grad()
    (policy.packed_logits(ids, bounds) * weights).sum().backward()
    return [p.grad.clone() for p in policy.module.parameters() if p.grad is not None]


def alone(policy: HFPolicy, ids: torch.Tensor, bounds: list[int]) -> torch.Tensor:
    return torch.cat([policy.packed_logits(ids[a:b], [0, b - a]) for a, b in pairwise(bounds)])


def test_groups_by_hand() -> None:
    """Three rollouts of a prompt of 20, two of one of 18, a lone sequence; what is all prompt keeps a token."""
    a, b = list(range(20)), list(range(30, 48))
    sequences = [[*a, 1], [*b, 5, 6], [*a, 2, 3], [7] * 25, [*a, 4], [*b, 9]]
    ids, bounds = packed(sequences)
    assert sorted(find_shared(ids.tolist(), bounds), key=lambda g: -g.length) == [
        Shared((0, 2, 4), 20), Shared((5, 1), 18) if sequences[5] < sequences[1] else Shared((1, 5), 18),
    ]  # fmt: skip
    same = [a, a, [*a, 1]]
    ids, bounds = packed(same)
    (group,) = find_shared(ids.tolist(), bounds)
    assert group.length == 19
    assert find_shared(list(range(10)) * 3, [0, 10, 20, 30]) == []  # shorter than what is worth it
    assert WORTH == 16


@st.composite
def batches(draw: st.DrawFn) -> list[list[int]]:
    """Groups whose sequences share a prompt, some of them a longer one, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    sequences: list[list[int]] = []
    for _ in range(draw(st.integers(1, 4))):
        prompt = rng.integers(0, 64, draw(st.integers(1, 40))).tolist()
        more = rng.integers(0, 64, draw(st.integers(0, 20))).tolist()
        for i in range(draw(st.integers(1, 5))):
            tail = rng.integers(0, 64, draw(st.integers(1, 12))).tolist()
            sequences.append([*prompt, *(more if i % 2 else []), *tail])
    order = rng.permutation(len(sequences))
    return [sequences[i] for i in order]


@given(batches())
def test_logits_are_those_of_each_sequence_alone(sequences: list[list[int]]) -> None:
    policy = POLICY
    ids, bounds = packed(sequences)
    groups = find_shared(ids.tolist(), bounds)
    seen = [i for group in groups for i in group.members]
    assert len(seen) == len(set(seen))
    for group in groups:
        first = sequences[group.members[0]][: group.length]
        assert all(sequences[i][: group.length] == first and len(sequences[i]) > group.length for i in group.members)
    with torch.no_grad():
        torch.testing.assert_close(policy.packed_logits(ids, bounds), alone(policy, ids, bounds), atol=2e-6, rtol=0)


POLICY = llama()


@pytest.mark.parametrize("make", [llama, qwen3])
def test_gradient_is_the_same(make: Any) -> None:
    """Against the path without sharing, which recomputation takes; relative to the gradient's norm."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 64, n).tolist() for n in (60, 33, 47)]
    sequences = [[*p, *rng.integers(0, 64, 1 + 3 * i).tolist()] for p in prompts for i in range(4)]
    ids, bounds = packed(sequences)
    weights = torch.randn(len(ids), 64, generator=torch.Generator().manual_seed(2))
    policy = make()
    computed: list[int] = []
    policy.module.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    shared = gradients(policy, ids, bounds, weights)
    few, computed[:] = sum(computed), []
    policy.set_recompute(True)
    assert not policy.shares_prefixes
    flat = gradients(policy, ids, bounds, weights)
    assert few < 0.5 * sum(computed)
    for one, other in zip(shared, flat, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_models_with_windows_do_not_share() -> None:
    config = Gemma3TextConfig(
        **SMALL, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    )
    torch.manual_seed(0)
    policy = HFPolicy(Gemma3ForCausalLM(config))
    assert not policy.shares_prefixes
    assert llama().shares_prefixes


def test_models_whose_places_are_not_position_ids_do_not_share() -> None:
    """Bloom's come from the mask (ALiBi); dynamic RoPE's frequencies from the whole length. Both still compute."""
    torch.manual_seed(0)
    bloom = HFPolicy(BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)))
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    dynamic = HFPolicy(LlamaForCausalLM(LlamaConfig(**SMALL, max_position_embeddings=32, rope_parameters=scaled)))
    prompt = list(range(20))
    ids, bounds = packed([[*prompt, 1, 2], [*prompt, 3]])
    for policy in (bloom, dynamic):
        assert not policy.shares_prefixes
        with torch.no_grad():
            assert policy.packed_logits(ids, bounds).shape == (43, 64)
