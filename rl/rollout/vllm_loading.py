"""Loading vLLM for an engine in this process: all that it will run, and as little else as can be.

It takes longer than the engine's start. A worker does it ahead of its setup (``rl.rollout.worker``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rl.policy.collector import without_collector
from rl.rollout.config import EngineConfig
from rl.rollout.engine_arguments import set_environment

COMPILER = "torch._inductor.lowering"


def load_vllm(config: EngineConfig) -> None:
    """Import what an ``Engine`` of this configuration runs, and our model into it."""
    set_environment(config)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine core is stepped in this process
    with without_collector():
        with _without_compiler():
            import vllm  # noqa: F401
        from vllm.platforms import current_platform
        from vllm.plugins import load_general_plugins
        from vllm.v1.engine import llm_engine  # noqa: F401

        load_general_plugins()  # as vLLM does before it looks for a model's class
        if current_platform.is_cpu():  # what it finds by its name
            from vllm.v1.worker import cpu_worker  # noqa: F401


@contextmanager
def _without_compiler() -> Iterator[None]:
    """``import vllm`` loads torch's compiler to teach it something about vLLM's operators, and goes on without where
    that cannot be imported. Our engines compile nothing (``enforce_eager``)."""
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[COMPILER] = None  # type: ignore[assignment]  # what import takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[COMPILER]
