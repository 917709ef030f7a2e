"""Models of transformers compute a prefix tree as they compute its sequences: dense and with experts, in one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_families import FAMILIES, config_of
from random_trees import Batch, assert_same, run
from transformers import (
    AutoModelForCausalLM,
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
from rl.policy.lora import LoraPolicy
from rl.policy.prefix_tree import PrefixTree
from rl.policy.replay import Record
from rl.policy.tree_attention import TreeAttention, area_buckets

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def make(kind: str) -> HFPolicy:
    torch.manual_seed(0)
    if kind == "llama":
        return HFPolicy(LlamaForCausalLM(LlamaConfig(**SMALL)))
    if kind == "qwen3":
        return HFPolicy(Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16)))
    return HFPolicy(AutoModelForCausalLM.from_config(config_of(kind)))


MADE = {kind: make(kind) for kind in ("llama", "qwen3", *FAMILIES)}
kinds = pytest.mark.parametrize("kind", list(MADE))


@kinds
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.0, 0.3]))
@settings(max_examples=8)
def test_trees_are_the_flat_packing(kind: str, seed: int, sequences: int, split: float) -> None:
    """Logits and gradients; recorded experts are forced where there are any, and a tree splits where they differ."""
    policy = MADE[kind]
    batch = Batch(seed, sequences, split, policy)
    assert_same(policy, batch, lambda: batch.replay(False) if policy.num_moe_layers else None)


@pytest.mark.parametrize("kind", ["llama", "deepseek_v3"])
def test_long_sequences_attend_piece_by_piece(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.policy.tree_attention.MOST_PAIRS", 200)
    monkeypatch.setattr("rl.policy.tree_attention.LEAST", 3)
    batch = Batch(2, 6, 0.0, MADE[kind])
    buckets = TreeAttention(batch.tree).buckets
    assert len(buckets) > 6
    assert all(len(b.asks) == 1 or b.mask.numel() <= 200 for b in buckets)
    assert_same(MADE[kind], batch)


@kinds
def test_each_distinct_token_once(kind: str) -> None:
    policy = MADE[kind]
    batch = Batch(1, 9, 0.0, policy)
    computed: list[int] = []
    hook = policy.module.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    run(policy, batch, True)
    hook.remove()
    assert computed == [batch.tree.nodes]
    assert batch.tree.nodes < len(batch.tokens)
    assert policy.module.config._attn_implementation == "sdpa", "and nothing is left behind"


@kinds
def test_recomputed_layers_attend_as_in_their_own_pass(kind: str) -> None:
    policy = make(kind)
    policy.set_recompute(True)
    for seed in range(2):
        batch = Batch(seed, 6, 0.3, policy)
        replays = (lambda batch=batch: batch.replay(False)) if policy.num_moe_layers else (lambda: None)
        assert_same(policy, batch, replays)


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_adapters(kind: str) -> None:
    policy = LoraPolicy(make(kind), rank=2, alpha=4)
    for name, value in policy.named_parameters():
        value.requires_grad_(".lora_" in name)
        if ".lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    batch = Batch(2, 7, 0.3, policy)
    assert_same(policy, batch, lambda: batch.replay(False) if policy.num_moe_layers else None)


@pytest.mark.parametrize("kind", FAMILIES)
def test_experts_are_recorded_and_compared_for_all_rows(kind: str) -> None:
    policy, taken = MADE[kind], []
    batch = Batch(3, 8, 0.3, policy)
    for layout in (batch.bounds, batch.tree):
        record, replay = Record(), batch.replay(False, force=False)
        with torch.no_grad():
            policy.packed_hidden(batch.tokens, layout, replay, record)
        taken.append((record.experts.sort(-1).values, torch.cat(replay.expert_overlaps).sort().values))
    for flat, mine in zip(*taken, strict=True):
        assert torch.equal(flat, mine)


def kept_bytes(policy: HFPolicy, tokens: torch.Tensor, layout: Any) -> int:
    """What a forward pass keeps for the backward pass beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in policy.module.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        alive.append(value)
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        policy.packed_hidden(tokens, layout)
    return sum(size for place, size in kept.items() if place not in weights)


def test_paths_are_not_kept() -> None:
    """64 sequences that share all but 4 tokens: the paths are 32 times the tree, and memory follows the tree."""
    rng = torch.Generator().manual_seed(0)
    shared, own, count = 256, 4, 64
    prompt = torch.randint(64, (shared,), generator=rng)
    tokens = torch.cat([torch.cat((prompt, torch.randint(64, (own,), generator=rng))) for _ in range(count)])
    tree = PrefixTree([i * (shared + own) for i in range(count + 1)], [0, *[shared] * (count - 1)])
    assert len(tokens) > 32 * tree.nodes
    flat = [0, *[tree.nodes // 2 * (i + 1) for i in range(2)]]  # as many tokens without anything shared
    for kind in ("llama", "qwen3"):
        policy = MADE[kind]
        most = 1.5 * kept_bytes(policy, tokens[: flat[-1]], flat)
        assert kept_bytes(policy, tokens, tree) < most


def test_models_with_windows_do_not_share() -> None:
    config = Gemma3TextConfig(
        **SMALL, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    )
    torch.manual_seed(0)
    policy = HFPolicy(Gemma3ForCausalLM(config))
    assert not policy.shares_prefixes
    assert MADE["llama"].shares_prefixes
    batch = Batch(0, 3, 0.0, policy)
    with pytest.raises(ValueError, match="cannot compute prefix trees"):
        policy.packed_hidden(batch.tokens, batch.tree)


def test_models_whose_places_are_not_position_ids_do_not_share() -> None:
    """Bloom's come from the mask (ALiBi); dynamic RoPE's frequencies from the whole length. Both still compute."""
    torch.manual_seed(0)
    bloom = HFPolicy(BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)))
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    dynamic = HFPolicy(LlamaForCausalLM(LlamaConfig(**SMALL, max_position_embeddings=32, rope_parameters=scaled)))
    for policy in (bloom, dynamic):
        assert not policy.shares_prefixes
        with torch.no_grad():
            assert policy.packed_logits(torch.arange(43), [0, 22, 43]).shape == (43, 64)


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 400)), max_size=40))
def test_buckets_of_pairs(sizes: list[tuple[int, int]]) -> None:
    """Everything once; what is computed is at most twice what is wanted, and what a call costs."""
    sizes = [(queries, queries + before) for queries, before in sizes]
    buckets = area_buckets(sizes)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(sizes)))
    for bucket in buckets:
        padded = max(sizes[i][0] for i in bucket) * max(sizes[i][1] for i in bucket) * len(bucket)
        wanted = sum(sizes[i][0] * sizes[i][1] for i in bucket)
        assert len(bucket) == 1 or 0.5 * padded <= wanted + 4096
