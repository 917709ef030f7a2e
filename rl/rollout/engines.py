"""Opens the engine that ``rollout.engine`` names."""

from __future__ import annotations

from pathlib import Path

from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import RolloutEngine


def load_engine(config: RolloutConfig) -> None:
    """Load the libraries of ``open_engine``, which takes longer than what it does then. Raises ImportError."""
    if config.engine == "served":  # in processes of its own
        return
    from rl.rollout.vllm_loading import load_vllm

    load_vllm(config)


def open_engine(model_dir: str | Path, config: RolloutConfig, *, record_indexer: bool = False) -> RolloutEngine:
    """The engine of a rollout worker, up, with the weights of ``model_dir``. vLLM and torch are loaded here.

    Raises ValueError and RuntimeError: it cannot be had with these settings, or on this machine; says why.
    """
    if config.engine == "served":
        from rl.rollout.served_engine import ServedEngine

        return ServedEngine(model_dir, config, record_indexer=record_indexer)
    from rl.rollout.engine import Engine
    from rl.rollout.engine_check import check_invariance

    engine = Engine(model_dir, config, record_indexer=record_indexer, deterministic=config.deterministic)
    if config.deterministic:
        check_invariance(engine)
    return engine
