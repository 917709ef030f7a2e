"""Released models: of each its config.json with the fields that its sizes follow from (``released/<name>``)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from train_runs import train_config

from rl.run.model_sizes import ModelSizes

NAMES = ("qwen3_8b", "qwen3_30b_a3b", "glm_4_5_air", "deepseek_v3_2")


def directory(name: str) -> Path:
    return Path(__file__).parent / "released" / name


@cache
def sizes(name: str) -> ModelSizes:
    return ModelSizes.load(directory(name))


@cache
def planned(*overrides: str) -> Any:
    """The configuration of a plan on H100s with these overrides; one for all tests: change it with ``replace`` only."""
    return train_config("plan=true", "hardware=h100", *overrides)


def on_hardware(cfg: Any, **values: Any) -> Any:
    """``cfg`` with other values in its group ``hardware``."""
    return replace(cfg, hardware=replace(cfg.hardware, **values))


# What a policy of some size is trained with: 8,192 tokens a rollout, half of them sampled, in bfloat16.
LARGE = (
    "learner.compute_dtype=bfloat16", "learner.recompute=true", "learner.head_rows=1024", "rollout.max_context=8192",
    "rollout.max_tokens=4096", "rollout.max_turns=1", "rollout.kv_cache_gib=40", "rollout.episode_s=3600",
    "ray.worker_gpus=1", "ray.learner_gpus=1", "ray.object_store_mb=65536", "step_deadline_s=7200",
)  # fmt: skip
# Rollouts whose activations one GPU does not hold.
LONG = (
    *LARGE, "rollout.max_context=131072", "learner.max_tokens_per_microbatch=131072", "objective.kl_coef=0",
    "rollout.episode_s=360000", "step_deadline_s=360000",
)  # fmt: skip
