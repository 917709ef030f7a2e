"""Which models can be trained here, told by name from config.json alone: before any weight is read.

DSA models (``DSA_ARCHITECTURES``) are ours (``rl.policy.model``); the rest are transformers' own, dense or of the MoE
families whose routing ``rl.policy.hf_moe`` replays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rl.policy.transformers_imports import config_class

# By model_type: the class that transformers and vLLM have for it.
DSA_ARCHITECTURES = {"deepseek_v32": "DeepseekV32ForCausalLM", "glm_moe_dsa": "GlmMoeDsaForCausalLM"}
# What a config.json may ask for and transformers (or our model) and vLLM do not do alike: field -> what both do.
_V3_ROUTER = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
_ALIKE: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "glm4_moe": _V3_ROUTER,
    "deepseek_v3": {**_V3_ROUTER, "rope_interleave": True, "tie_word_embeddings": False},
    "deepseek_v32": {**_V3_ROUTER, "rope_interleave": True, "indexer_rope_interleave": False},
    "glm_moe_dsa": {**_V3_ROUTER, "rope_interleave": True, "indexer_rope_interleave": True},
}
MOE_FAMILIES = tuple(kind for kind in _ALIKE if kind not in DSA_ARCHITECTURES)
# How the indexer compares (``rl.policy.index_precision``): as computed, or rounded to 8-bit integers.
INDEX_PRECISION = "index_precision"
INDEX_PRECISIONS = ("float32", "int8")
LONGEST_CODES = 1040  # numbers of a key: 127^2 times so many is the last integer that float32 counts to
_NEEDED = {"deepseek_v3": ("scoring_func", "topk_method")}  # without these vLLM takes another router
# Fields by which some families change logits after lm_head; None and 1 mean no change.
_LOGIT_FIELDS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json cannot be trained, in one line; None: it can."""
    from huggingface_hub.errors import StrictDataclassError

    kind = config["model_type"]
    try:
        fields = _complete(config)
        why = _why(kind, fields)
    except (StrictDataclassError, ValueError, TypeError) as error:  # transformers checks fields when it reads them
        why = f"its config.json cannot be read: {' '.join(str(error).split())}"
    return None if why is None else f"model_type={kind}: {why}"


def dsa_config(directory: str | Path) -> Any:
    """transformers' configuration of the DSA model in ``directory``. Raises ValueError when it cannot be trained."""
    stored = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    if why := unsupported(stored):
        raise ValueError(why)
    return config_class(stored["model_type"]).from_pretrained(str(directory))


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """All fields, defaults included; as stored where transformers does not know the type."""
    kind = config_class(config["model_type"])
    if kind is None:
        return dict(config)
    full: dict[str, Any] = kind.from_dict(dict(config)).to_dict()
    return full


def _why(kind: str, fields: Mapping[str, Any]) -> str | None:
    for part in (fields, fields.get("text_config") or {}):
        if changed := [name for name in _LOGIT_FIELDS if part.get(name) not in (None, 1, 1.0)]:
            return f"{changed[0]}={part[changed[0]]} changes logits after lm_head, which is not supported"
    if kind not in _ALIKE and (found := sorted(set(_expert_fields(fields)))):
        return f"has experts ({found[0]}) whose routing is not known; with experts: {', '.join(_ALIKE)}"
    for name, alike in _ALIKE.get(kind, {}).items():
        if name not in fields and name in _NEEDED.get(kind, ()):
            return f"{name} is missing, and the engine then takes another router; add {name}={alike}, as released"
        if fields.get(name, alike) != alike:
            return f"{name}={fields[name]}: only {alike} is supported; learner and engine differ on others"
    if kind in DSA_ARCHITECTURES and (why := _why_precision(fields)):
        return why
    return _why_cache(kind, fields)


def _why_precision(fields: Mapping[str, Any]) -> str | None:
    asked, dim = fields.get(INDEX_PRECISION, INDEX_PRECISIONS[0]), fields["index_head_dim"]
    if asked not in INDEX_PRECISIONS:
        return f"{INDEX_PRECISION}={asked!r}: must be {' or '.join(INDEX_PRECISIONS)}"
    if asked == "int8" and dim > LONGEST_CODES:
        return f"{INDEX_PRECISION}=int8 with index_head_dim={dim}: sums of products are exact up to {LONGEST_CODES}"
    return None


def _why_cache(kind: str, fields: Mapping[str, Any]) -> str | None:
    """Choices are recorded by cache slot, and a token keeps its slot in a plain key-value cache only."""
    if fields.get("use_sliding_window"):
        return "use_sliding_window is not supported: the engine gives other layers a window than transformers does"
    if kind in DSA_ARCHITECTURES:
        known = {"indexed_attention"}
    else:
        known = {"full_attention"} if kind in MOE_FAMILIES else {"full_attention", "sliding_attention"}
    if other := sorted(set(fields.get("layer_types") or ()) - known):
        return f"layer_types has {other[0]}; supported: {', '.join(sorted(known))}"
    if kind not in _ALIKE and _keeps_state(kind):  # to ask loads all of transformers' generation
        return "has layers that keep a recurrent state, not only keys and values (a hybrid model): not supported"
    return None


def _keeps_state(kind: str) -> bool:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    return bool(getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])._is_stateful)


def _expert_fields(fields: Mapping[str, Any]) -> Iterator[str]:
    """Fields that count experts, nested ones too."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _expert_fields(value)
        elif "expert" in str(name) and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield str(name)
