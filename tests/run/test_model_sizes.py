"""Sizes of policies against numbers worked out by hand, published ones, and the files of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from moe_families import FAMILIES, GLM5, config_of, write
from released_models import NAMES, sizes
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma3Config, GPT2Config, Qwen3Config

from rl.policy.hf import HFPolicy
from rl.policy.lora import LoraPolicy
from rl.policy.presets import tiny_dsa
from rl.run.model_sizes import LayerSizes, ModelSizes

TINY = ModelSizes.of(tiny_dsa(1024))


def test_qwen3_8b_by_hand() -> None:
    attention = 4096 * 32 * 128 * 2 + 4096 * 8 * 128 * 2 + 2 * 128  # q and o, k and v, norms of q and k
    layer = attention + 3 * 4096 * 12288 + 2 * 4096
    found = sizes("qwen3_8b")
    assert found.parameters == 36 * layer + 4096 + 2 * 151936 * 4096 == 8_190_735_360
    assert found.layers[7] == LayerSizes(layer, 0, (3 * 32 + 2 * 8 + 2 * (32 + 8)) * 128 + 4 * 12288)
    assert found.cache_row(2) == 147_456  # 36 layers x 2 x 8 heads x 128 numbers of 2 bytes
    assert (found.moe_layers, found.experts, found.chosen) == (0, 0, 0)
    assert found.replay_row(indexer=True) == 0


def test_qwen3_30b_a3b_by_hand() -> None:
    attention = 2048 * 32 * 128 * 2 + 2048 * 4 * 128 * 2 + 2 * 128
    experts = 128 * 3 * 2048 * 768
    layer = attention + 2 * 2048 + 2048 * 128 + experts
    found = sizes("qwen3_30b_a3b")
    assert found.parameters == 48 * layer + 2048 + 2 * 151936 * 2048 == 30_532_122_624
    # active as its authors count, the embedding included: 3.3 B
    assert found.cost.parameters + 151936 * 2048 == 48 * (layer - experts * 120 // 128) + 2048 + 2 * 151936 * 2048
    assert found.cost.parameters + 151936 * 2048 == pytest.approx(3.3e9, rel=0.02)
    assert found.largest.experts == experts
    assert found.cache_row(2) == 48 * 2 * 4 * 128 * 2
    assert found.replay_row(indexer=False) == 48 * 8
    assert found.layers[0].saved == (3 * 32 + 2 * 4 + 2 * 36) * 128 + 8 * (2 * 2048 + 4 * 768)


def test_glm_4_5_air_by_hand() -> None:
    attention = 4096 * 96 * 128 * 2 + 96 * 128 + 2 * (4096 * 8 * 128 + 8 * 128)  # biases of q, k, v
    dense, expert = 3 * 4096 * 10944, 3 * 4096 * 1408
    moe = (128 + 1) * expert + 4096 * 128
    found = sizes("glm_4_5_air")
    total = 46 * (attention + 2 * 4096) + dense + 45 * moe + 4096 + 2 * 151552 * 4096
    assert found.parameters == total == 106_852_245_504
    assert found.cost.parameters == pytest.approx(12e9, rel=0.07)  # "106B-A12B"
    assert [layer.experts > 0 for layer in found.layers] == [False] + [True] * 45


def test_deepseek_v3_2_by_hand() -> None:
    found = sizes("deepseek_v3_2")
    indexer = 1536 * 64 * 128 + 7168 * 128 + 2 * 128 + 7168 * 64
    assert found.frozen == 61 * indexer
    assert found.parameters - found.frozen == pytest.approx(671e9, rel=1e-3)  # "671B in total"
    assert found.cost.parameters == pytest.approx(37e9, rel=0.03)
    assert found.cache_row(2) == 61 * 2 * (512 + 64 + 128)
    assert found.replay_row(indexer=False) == 58 * 8
    # 61 x 2,048 positions of int32 are the 500 KB a token that make replay.indexer expensive
    assert found.replay_row(indexer=True) == 58 * 8 + 61 * 2048 * 4
    assert found.read_row(100_000, 2) == 61 * 2 * (2048 * 576 + 100_000 * 128)
    assert found.read_row(1000, 2) == 61 * 2 * 1000 * (576 + 128)
    row, heads = 512 + 64, 128
    mla = 2 * 1536 + heads * 192 + 3 * heads * row + heads * 128 + 3 * row
    assert found.layers[0].saved == mla + 4 * 18432
    assert found.layers[3].saved == mla + 8 * (7168 + 3 * 2048) + 4 * 2048
    assert (found.cache_split(8), sizes("qwen3_8b").cache_split(16), sizes("glm_4_5_air").cache_split(2)) == (1, 8, 2)


@pytest.mark.parametrize("family", [*FAMILIES, *GLM5])
def test_as_many_as_the_files_of_a_tiny_model_hold(family: str, tmp_path: Path) -> None:
    directory = write(family, tmp_path)
    stored = load_file(directory / "model.safetensors")
    found = ModelSizes.load(directory)
    assert found.parameters == sum(v.numel() for name, v in stored.items() if "e_score_correction_bias" not in name)
    routed = sum(value.numel() for name, value in stored.items() if ".experts." in name)
    assert sum(layer.experts for layer in found.layers) == routed
    inside = sum(layer.parameters for layer in found.layers)
    assert found.parameters - inside == 2 * 64 * 64 + 64  # embedding, head, last norm


@pytest.mark.parametrize("config", [*(config_of(f) for f in FAMILIES), tiny_dsa(64)], ids=[*FAMILIES, "tiny_dsa"])
def test_an_adapter_is_as_large_as_peft_makes_it(config: object) -> None:
    sized = ModelSizes.of(config)
    if sized.is_dsa:
        from rl.policy.dsa import DSAPolicy
        from rl.policy.model import DSAForCausalLM

        policy = LoraPolicy(DSAPolicy(DSAForCausalLM(config)), rank=4, alpha=8)  # type: ignore[arg-type]
    else:
        policy = LoraPolicy(HFPolicy(AutoModelForCausalLM.from_config(config)), rank=4, alpha=8)
    made = sum(p.numel() for name, p in policy.named_parameters() if ".lora_" in name)
    assert sized.adapter(4) == made


def saved_bytes(module: torch.nn.Module, **inputs: torch.Tensor) -> int:
    """Bytes of what one forward pass keeps for the backward pass, parameters left out; shared memory counts once."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = module(**inputs)
        assert out.requires_grad
        return sum(kept.values())


def grown(make: object, tokens: int) -> float:
    """Bytes a token that one more layer keeps."""
    kept = []
    for layers in (1, 3):
        torch.manual_seed(0)
        kept.append(make(layers, tokens))  # type: ignore[operator]
    return (kept[1] - kept[0]) / 2 / tokens


def test_what_a_dense_layer_keeps_is_what_autograd_keeps() -> None:
    values = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512, "tie_word_embeddings": False,
    }  # fmt: skip

    def keeps(layers: int, tokens: int) -> int:
        model = AutoModelForCausalLM.from_config(Qwen3Config(num_hidden_layers=layers, **values)).base_model

        class Hidden(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, ids: torch.Tensor) -> torch.Tensor:
                return self.model(input_ids=ids, use_cache=False).last_hidden_state

        return saved_bytes(Hidden(), ids=torch.zeros(1, tokens, dtype=torch.long))

    found = ModelSizes.of(Qwen3Config(num_hidden_layers=3, **values))
    expected = 4 * (found.norms(4) + found.layers[0].saved)
    assert grown(keeps, 256) == pytest.approx(expected, rel=0.15)


def test_what_a_tiny_dsa_layer_keeps_is_what_autograd_keeps() -> None:
    from rl.policy.attention_context import PackedContext
    from rl.policy.model import DSAForCausalLM

    def keeps(layers: int, tokens: int) -> int:
        config = tiny_dsa(64, num_hidden_layers=layers, first_k_dense_replace=0)
        model = DSAForCausalLM(config)

        class Hidden(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, ids: torch.Tensor) -> torch.Tensor:
                return self.model.hidden(ids, PackedContext([0, len(ids)]))

        return saved_bytes(Hidden(), ids=torch.zeros(tokens, dtype=torch.long))

    sized = ModelSizes.of(tiny_dsa(64, num_hidden_layers=3, first_k_dense_replace=0))
    expected = 4 * (sized.norms(4) + sized.layers[0].saved) + sized.choices(512)
    assert grown(keeps, 512) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (GPT2Config(n_layer=2, n_embd=32, n_head=2), "its config.json has no intermediate_size"),
        (Gemma3Config(), "its config.json has no num_hidden_layers"),  # a model in a model
        (GPT2Config(n_layer=2, n_embd=32, n_head=2, intermediate_size=64), "no weight of it is in a layer 'layers.0'"),
    ],
)
def test_a_family_whose_sizes_are_not_known_is_told_by_name(config: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"model_type={config.model_type}: its sizes are not known, {why}"):
        ModelSizes.of(config)


def test_the_released_ones_are_all_there() -> None:
    assert [sizes(name).config.model_type for name in NAMES] == [
        "qwen3", "qwen3_moe", "glm4_moe", "deepseek_v32",
    ]  # fmt: skip
    assert TINY.parameters == 1_309_504
    assert TINY.choices(64) == 0.0  # all rows are seen: nothing is chosen
    assert TINY.choices(1000) == 500 * 5
    assert TINY.choices(2000) == 64 * 8
