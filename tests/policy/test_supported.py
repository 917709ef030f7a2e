"""What cannot be trained is refused by name, in one line, from config.json alone: no weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from moe_families import FAMILIES, GLM5, config_of
from transformers import LlamaConfig

from rl.policy.checkpoint_checks import check_checkpoint
from rl.policy.checkpoint_files import CheckpointError
from rl.policy.hf_moe import GATES
from rl.policy.loading import load_policy
from rl.policy.supported import DSA_ARCHITECTURES, MOE_FAMILIES, dsa_config, unsupported
from rl.run.paths import resolve

pytestmark = pytest.mark.unit
V3 = {"model_type": "deepseek_v3", "scoring_func": "sigmoid", "topk_method": "noaux_tc"}
HYBRID = "keep a recurrent state"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "has experts (num_experts_per_tok) whose routing is not"),
        ({"model_type": "dbrx"}, "has experts (moe_num_experts) whose routing is not known"),  # nested there
        ({"model_type": "gemma2", "final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 changes logits"),
        ({"model_type": "cohere", "logit_scale": 0.06}, "logit_scale=0.06 changes logits"),
        ({"model_type": "falcon_h1", "lm_head_multiplier": 0.04}, "lm_head_multiplier=0.04 changes logits"),
        ({"model_type": "deepseek_v3"}, "scoring_func is missing, and the engine then takes another router"),
        (V3 | {"topk_method": "greedy"}, "topk_method=greedy: only noaux_tc is supported"),
        (V3 | {"moe_layer_freq": 2}, "moe_layer_freq=2: only 1 is supported"),
        (V3 | {"rope_interleave": False}, "rope_interleave=False: only True is supported"),
        (V3 | {"tie_word_embeddings": True}, "tie_word_embeddings=True: only False is supported"),
        ({"model_type": "deepseek_v32", "moe_layer_freq": 2}, "moe_layer_freq=2: only 1 is supported"),
        ({"model_type": "glm_moe_dsa", "indexer_rope_interleave": False}, "indexer_rope_interleave=False: only True"),
        ({"model_type": "deepseek_v32", "indexer_rope_interleave": True}, "indexer_rope_interleave=True: only False"),
        ({"model_type": "glm_moe_dsa", "scoring_func": "softmax"}, "scoring_func=softmax: only sigmoid is supported"),
        ({"model_type": "qwen3_moe", "use_sliding_window": True, "sliding_window": 64}, "use_sliding_window is not"),
        ({"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 64}, "use_sliding_window is not"),
        (
            {"model_type": "glm4_moe", "num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types has sliding_attention; supported: full_attention",
        ),
        (
            {"model_type": "llama4_text", "num_local_experts": 0, "num_experts_per_tok": 0},
            "layer_types has chunked_attention; supported: full_attention, sliding_attention",
        ),
        (
            {"model_type": "lfm2", "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
            "layer_types has conv; supported",
        ),
        ({"model_type": "bamba"}, HYBRID),
        ({"model_type": "falcon_h1"}, HYBRID),
        ({"model_type": "mamba"}, HYBRID),
        ({"model_type": "llama", "hidden_size": "wide"}, "its config.json cannot be read"),
    ],
)
def test_refused_by_name(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    why = unsupported(config)
    assert why is not None
    assert says in why
    assert why.startswith(f"model_type={config['model_type']}: ")
    assert "\n" not in why
    (tmp_path / "config.json").write_text(json.dumps(config))
    for read in (load_policy, lambda folder: check_checkpoint(folder)):
        (tmp_path / "model.safetensors").write_bytes(b"never read")
        with pytest.raises(CheckpointError) as error:
            read(tmp_path)
        assert str(error.value) == why
    if config["model_type"] in DSA_ARCHITECTURES:
        with pytest.raises(ValueError, match=f"model_type={config['model_type']}"):
            dsa_config(tmp_path)


@pytest.mark.parametrize("family", [*FAMILIES, *GLM5])
def test_families_are_taken(family: str) -> None:
    assert unsupported(config_of(family).to_dict()) is None


def test_others_are_taken() -> None:
    assert unsupported(json.loads((resolve("pkg://rl.bases/tiny_dsa_base") / "config.json").read_text())) is None
    assert unsupported(LlamaConfig().to_dict()) is None
    windows = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    assert unsupported({"model_type": "gemma3_text", **windows}) is None, "dense: nothing is recorded by slot"
    assert unsupported({"model_type": "granite", "logits_scaling": 1.0}) is None


def test_every_family_has_its_gates() -> None:
    assert set(MOE_FAMILIES) == set(GATES)
