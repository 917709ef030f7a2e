"""Loading vLLM for an engine in this process: all that it will run, and as little else as can be.

It takes longer than the engine's start. A worker does it ahead of its setup (``rl.rollout.worker``).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FunctionType
from typing import Any

from rl.policy.importing import without_collector, without_module
from rl.rollout.config import EngineConfig
from rl.rollout.engine_arguments import set_environment

# ``import vllm`` loads torch's compiler to teach it something about vLLM's operators, and goes on without where that
# cannot be imported. Our engines compile no model (``enforce_eager``).
COMPILER = "torch._inductor"


def load_vllm(config: EngineConfig) -> None:
    """Import what an ``Engine`` of this configuration runs, and our model into it."""
    set_environment(config)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine core is stepped in this process
    with without_collector(), compiling_at_first_call():
        with without_module(COMPILER):
            import vllm  # noqa: F401
        from vllm import plugins
        from vllm.platforms import current_platform
        from vllm.v1.engine import llm_engine  # noqa: F401

        load_plugins: Any = plugins.load_general_plugins
        load_plugins()  # as vLLM does before it looks for a model's class
        if current_platform.is_cpu():  # what it finds by its name
            from vllm.v1.worker import cpu_worker  # noqa: F401


@contextmanager
def compiling_at_first_call() -> Iterator[None]:
    """A function that a module decorates with ``torch.compile`` is given to it when it is called: most of vLLM's never
    are, and the decorator loads the compiler."""
    torch: Any = import_module("torch")
    compile_now = torch.compile

    def compile_later(model: Any = None, **how: Any) -> Any:
        if model is None:
            return functools.partial(compile_later, **how)
        if not isinstance(model, FunctionType):
            return compile_now(model, **how)
        compiled: list[Callable[..., Any]] = []

        @functools.wraps(model)
        def called(*args: Any, **named: Any) -> Any:
            if not compiled:
                compiled.append(compile_now(model, **how))
            return compiled[0](*args, **named)

        return called

    torch.compile = compile_later
    try:
        yield
    finally:
        torch.compile = compile_now
