"""Numerics and checkpoints against transformers' DeepseekV32ForCausalLM; Hugging Face dense models."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import DeepseekV32ForCausalLM, LlamaConfig, LlamaForCausalLM

from rl.policy.attention_context import PackedContext
from rl.policy.checkpoint_files import CheckpointFiles
from rl.policy.dsa import DSAPolicy
from rl.policy.hf import HFPolicy, length_buckets
from rl.policy.io import stack_experts
from rl.policy.loading import build_policy, load_policy
from rl.policy.model import DSAForCausalLM
from rl.policy.presets import deepseek_v32, tiny_dsa
from rl.policy.replay import Record, Replay

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 1024,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def pair(**overrides: object) -> tuple[DSAForCausalLM, DeepseekV32ForCausalLM]:
    torch.manual_seed(0)
    ours = DSAForCausalLM(tiny_dsa(128, num_hidden_layers=3, **overrides))
    with torch.no_grad():
        for name, p in ours.named_parameters():
            if "norm" not in name:
                p.normal_(std=0.08)
    hf = DeepseekV32ForCausalLM(ours.config).eval()
    hf.load_state_dict(ours.state_dict())
    return ours, hf


@pytest.mark.parametrize("overrides", [{}, {"rope_parameters": YARN}, {"n_group": 1, "topk_group": 1}])
def test_dense_logits_and_gradients_match_transformers(overrides: dict[str, object]) -> None:
    ours, hf = pair(**overrides)
    ids = torch.randint(0, 128, (60,))
    a, b = ours(ids, PackedContext([0, 60])), hf(ids[None]).logits[0]
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    a.square().mean().backward()
    b.square().mean().backward()
    theirs = dict(hf.named_parameters())
    for name, p in ours.named_parameters():
        if ".indexer." in name:
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, theirs[name].grad, atol=1e-5, rtol=1e-3, msg=name)


def test_sparse_logits_and_gradients_match_transformers_without_ties() -> None:
    # 64 index heads: that all dots of a pair are negative (score exactly 0, a tie) has no chance here.
    ours, hf = pair(index_topk=16, index_n_heads=64)
    ids = torch.randint(0, 128, (60,))
    a, b = ours(ids, PackedContext([0, 60])), hf(ids[None]).logits[0]
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert (a - ours(ids, PackedContext([0, 60], mode="dense"))).abs().max() > 1e-3
    a.square().mean().backward()
    b.square().mean().backward()
    theirs = dict(hf.named_parameters())
    for name, p in ours.named_parameters():
        if ".indexer." not in name:
            torch.testing.assert_close(p.grad, theirs[name].grad, atol=1e-5, rtol=1e-3, msg=name)


def test_checkpoints_load_both_ways(tmp_path: Path) -> None:
    policy = build_policy({"preset": "tiny_dsa", "vocab_size": 128, "seed": 1, "overrides": {"num_hidden_layers": 2}})
    ids = torch.randint(0, 128, (30,))
    expected = policy.packed_logits(ids, [0, 30])
    policy.save(tmp_path / "ours")
    hf, info = DeepseekV32ForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(hf(ids[None]).logits[0], expected, atol=1e-5, rtol=1e-5)
    hf.save_pretrained(tmp_path / "theirs")
    for name in ("ours", "theirs"):
        again = load_policy(tmp_path / name)
        assert isinstance(again, DSAPolicy)
        assert torch.equal(again.packed_logits(ids, [0, 30]), expected)
    names = {n for n, _ in stack_experts(CheckpointFiles(tmp_path / "ours").stream())}
    assert names == set(policy.weights())


def test_incomplete_checkpoint_is_named() -> None:
    part = [("model.layers.1.mlp.experts.0.gate_proj.weight", torch.zeros(2, 2))]
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.experts"):
        list(stack_experts(part))


def test_replayed_experts_reproduce_a_pass_and_change_it() -> None:
    policy = build_policy({"preset": "tiny_dsa", "vocab_size": 128})
    ids, valid = torch.randint(0, 128, (300,)), torch.ones(300, dtype=torch.bool)
    record = Record()
    live = policy.packed_logits(ids, [0, 120, 300], record=record)
    assert record.experts.shape == (300, policy.num_moe_layers, 2)
    replayed = policy.packed_logits(ids, [0, 120, 300], Replay(record.experts, valid))
    torch.testing.assert_close(replayed, live, atol=1e-6, rtol=1e-5)
    other = Replay((record.experts + 1) % 8, valid.clone().index_fill_(0, torch.arange(150, 300), False))
    again = Record()
    changed = policy.packed_logits(ids, [0, 120, 300], other, again)
    assert torch.equal(again.experts[:150], other.experts[:150])
    assert (changed - live)[:120].abs().max() > 1e-4
    rows = torch.tensor([3, 299])
    torch.testing.assert_close(policy.packed_logits(ids, [0, 120, 300], rows=rows), live[rows])


def test_router_bias_update_reaches_every_layer() -> None:
    policy = build_policy({"preset": "tiny_dsa", "vocab_size": 64})
    counts = torch.zeros(policy.num_moe_layers, policy.num_experts)
    counts[:, 0] = 8
    policy.update_router_bias(counts, 0.001)
    biases = [v for n, v in policy.weights().items() if n.endswith("e_score_correction_bias")]
    assert len(biases) == policy.num_moe_layers
    assert all(b[0] < 0 < b[1] for b in biases)


def test_real_configuration() -> None:
    config = deepseek_v32()
    assert (config.index_topk, config.n_routed_experts, config.kv_lora_rank) == (2048, 256, 512)


def test_dense_hugging_face_model_packs() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    policy = HFPolicy(model)
    lengths = [9, 30, 8, 10, 1]
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    ids = torch.randint(0, 64, (bounds[-1],))
    packed = policy.packed_logits(ids, bounds)
    alone = torch.cat([model(ids[None, a:b]).logits[0] for a, b in pairwise(bounds)])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)
    rows = torch.tensor([40, 2])
    torch.testing.assert_close(policy.packed_logits(ids, bounds, rows=rows), alone[rows], atol=1e-5, rtol=1e-4)
    packed.sum().backward()
    with pytest.raises(ValueError, match="no expert choices"):
        policy.packed_logits(ids, bounds, Replay())


def test_hugging_face_model_saves_and_loads(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    policy = HFPolicy(LlamaForCausalLM(config))
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    ids = torch.arange(10)
    torch.testing.assert_close(again.packed_logits(ids, [0, 10]), policy.packed_logits(ids, [0, 10]))


def test_length_buckets_bound_the_padding() -> None:
    lengths = [100, 10, 96, 50, 48, 9, 95]
    buckets = length_buckets(lengths, waste=0.15, call=0)
    assert sorted(i for b in buckets for i in b) == list(range(7))
    for bucket in buckets:
        sizes = [lengths[i] for i in bucket]
        assert sum(sizes) >= 0.85 * max(sizes) * len(sizes)


def test_config_errors_name_the_key() -> None:
    with pytest.raises(ValueError, match="presets"):
        build_policy({"presets": "tiny_dsa"})
    with pytest.raises(ValueError, match="vocab_size"):
        build_policy({"preset": "tiny_dsa"})
    with pytest.raises(ValueError, match="index_top"):
        build_policy({"preset": "tiny_dsa", "vocab_size": 64, "overrides": {"index_top": 3}})
