"""Tiny random models of the mixture-of-experts families of transformers, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, Glm4MoeConfig, Qwen3MoeConfig

VOCAB = 64
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 512, "moe_intermediate_size": 32, "num_experts_per_tok": 2, "initializer_range": 0.1,
    "tie_word_embeddings": False,
}  # fmt: skip


def config_of(family: str) -> Any:
    if family == "qwen3_moe":
        return Qwen3MoeConfig(**_COMMON, num_key_value_heads=2, head_dim=32, num_experts=8, norm_topk_prob=True)
    grouped = {"n_routed_experts": 8, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
    if family == "glm4_moe":
        return Glm4MoeConfig(**_COMMON, **grouped, num_key_value_heads=2, head_dim=32, routed_scaling_factor=1.5)
    if family == "deepseek_v3":
        return DeepseekV3Config(
            **_COMMON, **grouped, num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=32, qk_rope_head_dim=16,
            qk_nope_head_dim=32, v_head_dim=32, routed_scaling_factor=2.5, topk_method="noaux_tc",
            scoring_func="sigmoid",
        )  # fmt: skip
    raise ValueError(family)


FAMILIES = ("qwen3_moe", "glm4_moe", "deepseek_v3")


def write(family: str, folder: Path, seed: int = 0) -> Path:
    """A checkpoint with router biases that matter."""
    # vLLM, which another test of this process may have started on a DeepSeek-V3.2 model, renames the class.
    DeepseekV3Config.model_type = "deepseek_v3"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(family))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.uniform_(-0.2, 0.2)
    model.save_pretrained(folder)
    return folder
