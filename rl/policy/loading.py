"""Ways to get a policy: a new one from a preset, or one that is stored.

policy = build_policy({"preset": "tiny_dsa", "vocab_size": 1024, "seed": 0})
policy.save(directory); policy = load_policy(directory)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from rl.policy.api import Policy
from rl.policy.attention_context import AttentionMode
from rl.policy.checkpoint_checks import read_config
from rl.policy.checkpoint_files import CheckpointError
from rl.policy.dsa import DSAPolicy
from rl.policy.io import load_dsa, meta_dsa
from rl.policy.model import DSAForCausalLM
from rl.policy.presets import PRESETS
from rl.policy.supported import DSA_ARCHITECTURES, unsupported


def build_policy(cfg: Mapping[str, Any], empty: bool = False) -> Policy:
    """A policy from a config mapping. ``empty``: as in ``load_policy``, of one that is stored.

    Either ``path`` (a checkpoint directory), or ``preset`` + ``vocab_size`` (+ ``overrides``, fields of
    DeepseekV32Config; ``seed``). For DSA policies: ``mode`` "sparse" (default) or "dense"; ``index_topk``, rows each
    query attends to (default the checkpoint's own); ``reset_indexer``, the seed of an indexer that is drawn anew.
    """
    allowed = {"path", "preset", "vocab_size", "overrides", "seed", "mode", "index_topk", "reset_indexer"}
    unknown = sorted(set(cfg) - allowed)
    if unknown:
        raise ValueError(f"policy config has unknown keys {unknown}; allowed: {sorted(allowed)}")
    mode = cast(AttentionMode, cfg.get("mode") or "sparse")
    if cfg.get("path"):
        policy = load_policy(cfg["path"], mode, empty)
        if cfg.get("index_topk") is not None:
            _dsa(policy, "index_topk").set_index_topk(int(cfg["index_topk"]))
        if cfg.get("reset_indexer") is not None and not empty:
            _dsa(policy, "reset_indexer").reset_indexer(int(cfg["reset_indexer"]))
        return policy
    preset = cfg.get("preset")
    if preset not in PRESETS:
        raise ValueError(f"policy.preset is {preset!r}; expected one of {sorted(PRESETS)}, or set policy.path")
    if not cfg.get("vocab_size"):
        raise ValueError("policy.vocab_size is missing; set it to the tokenizer's size")
    config = PRESETS[preset](vocab_size=int(cfg["vocab_size"]), **dict(cfg.get("overrides") or {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(cfg.get("seed") or 0))
        return DSAPolicy(DSAForCausalLM(config), mode)


def _dsa(policy: Policy, setting: str) -> DSAPolicy:
    if not isinstance(policy, DSAPolicy):
        raise ValueError(f"{setting} is for policies with a DSA indexer; this one has none")
    return policy


def load_policy(directory: str | Path, mode: AttentionMode = "sparse", empty: bool = False) -> Policy:
    """The policy stored in ``directory``, in float32: DSA if config.json says so, else a Hugging Face model.

    ``empty``: on the meta device, without reading a weight (``rl.policy.sharding`` fills its shards).

    Raises CheckpointError (a ValueError) when there is none, when it is of a kind that cannot be trained, or when its
    weights do not fit its configuration.
    """
    config = read_config(Path(directory))
    if why := unsupported(config):
        raise CheckpointError(why)
    if config["model_type"] in DSA_ARCHITECTURES:
        return DSAPolicy(meta_dsa(directory) if empty else load_dsa(directory), mode)
    from rl.policy.hf import HFPolicy

    return HFPolicy.empty(directory) if empty else HFPolicy.load(directory)
