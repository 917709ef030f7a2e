"""Named configurations of the DSA/MoE policy, as transformers' DeepseekV32Config."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rl.policy.supported import INDEX_PRECISION

if TYPE_CHECKING:
    from transformers import DeepseekV32Config


def tiny_dsa(vocab_size: int, **overrides: Any) -> DeepseekV32Config:
    """About 1.5M parameters, every part of V3.2 present; trains on two CPU cores."""
    from transformers import DeepseekV32Config

    values: dict[str, Any] = dict(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=4,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=1.0,
        q_lora_rank=64,
        kv_lora_rank=48,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        index_n_heads=4,
        index_head_dim=32,
        index_topk=64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.04,
        tie_word_embeddings=False,
    )
    known = {*values, INDEX_PRECISION}
    unknown = sorted(k for k in overrides if k not in known and not hasattr(DeepseekV32Config(), k))
    if unknown:
        raise ValueError(f"tiny_dsa overrides {unknown} are no fields of DeepseekV32Config")
    return DeepseekV32Config(**{**values, **overrides})


def deepseek_v32(vocab_size: int = 129280, **overrides: Any) -> DeepseekV32Config:
    """The released 671B configuration (its config.json), YaRN 4K -> 160K."""
    from transformers import DeepseekV32Config

    rope = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    return DeepseekV32Config(**{"vocab_size": vocab_size, "rope_parameters": rope, **overrides})


PRESETS: dict[str, Callable[..., DeepseekV32Config]] = {"tiny_dsa": tiny_dsa, "deepseek_v32": deepseek_v32}
