"""What both ways of running vLLM set alike: its arguments, and what its processes read from the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rl.policy.supported import DSA_ARCHITECTURES
from rl.rollout.config import EngineConfig
from rl.rollout.vllm_plugin import BACKEND_VARIABLE, dsa_backend_here

OWNER_VARIABLE = "SPECIALE_ENGINE_OWNER"  # process id of whoever processes of a served engine belong to


def set_environment(config: EngineConfig) -> None:
    """Before vLLM is loaded; processes that it starts inherit it."""
    os.environ[BACKEND_VARIABLE] = config.dsa_backend
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the second runner needs Triton kernels that CPUs lack
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # vLLM warns about tuning that does not apply here
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def engine_arguments(model_dir: str | Path, config: EngineConfig, block_size: int | None) -> dict[str, Any]:
    """vLLM's ``EngineArgs`` of an engine with the model in ``model_dir``.

    ``block_size``: tokens per cache block, the grain of prefix hits; None: 8 for the torch DSA model, else what vLLM's
    kernels want.
    """
    return dict(
        model=str(model_dir),
        generation_config="vllm",
        dtype=config.dtype,
        seed=config.seed,
        max_model_len=config.max_context,
        max_num_seqs=config.max_concurrency,
        max_num_batched_tokens=config.max_num_batched_tokens,
        kv_cache_memory_bytes=int(config.kv_cache_gib * 2**30),
        block_size=block_size or _default_block_size(Path(model_dir)),
        use_tqdm_on_load=False,
        enable_prefix_caching=True,
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
        max_logprobs=1,
        disable_log_stats=True,
    )


def check_model_dir(model_dir: str | Path) -> None:
    """Raise ValueError when no model lies there: what vLLM says of it is long and names no directory."""
    if not (Path(model_dir) / "config.json").is_file():
        raise ValueError(f"model_dir={str(model_dir)!r}: no config.json there; save the policy first")


def _default_block_size(model_dir: Path) -> int | None:
    """8 for our own paged layers: every rollout that has a prompt computes what does not fill a block of it anew, and
    smaller blocks cost more to look up than that. Elsewhere the attention backend decides: on a CPU 32, the smallest
    that its kernels take (vLLM takes 128 by itself, and prompts of a few hundred tokens then hit nothing)."""
    import torch

    kind = json.loads((model_dir / "config.json").read_text())["model_type"]
    if kind in DSA_ARCHITECTURES and dsa_backend_here() == "torch":
        return 8
    return None if torch.cuda.is_available() else 32
