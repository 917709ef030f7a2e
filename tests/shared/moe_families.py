"""Tiny random models of the mixture-of-experts families, made on the spot by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, Glm4MoeConfig, GlmMoeDsaConfig, Qwen3MoeConfig

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
    if family in GLM5:
        return glm5(sharing=family == "glm_moe_dsa-5.2")
    raise ValueError(family)


def glm5(*, sharing: bool, **overrides: Any) -> GlmMoeDsaConfig:
    """GLM-5, whose queries choose 24 rows; ``sharing``: layers 1 and 3 of 5 attend to the choices of 0 and 2 (5.2)."""
    kinds = ["full", "shared", "full", "shared", "full"] if sharing else ["full"] * 5
    values = _COMMON | {
        "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_hidden_layers": 5,
        "num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32,
        "v_head_dim": 24, "attention_bias": True, "index_topk": 24, "index_n_heads": 16, "index_head_dim": 24,
        "indexer_types": kinds, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    } | overrides  # fmt: skip
    return GlmMoeDsaConfig(**values)


FAMILIES = ("qwen3_moe", "glm4_moe", "deepseek_v3")
GLM5 = ("glm_moe_dsa", "glm_moe_dsa-5.2")


def write(family: str, folder: Path, seed: int = 0) -> Path:
    """A checkpoint with router biases that matter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(family))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.uniform_(-0.2, 0.2)
    model.save_pretrained(folder)
    return folder
