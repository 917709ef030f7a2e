"""How faults get into a run from outside; product code knows nothing of them.

    BENCHMARK_FAULT='router_flips=0.3' PYTHONPATH=benchmarks/fault_site:. rl-train …

``install`` waits for the modules that a fault changes and changes them as soon as they have been imported, in whatever
process imports them: driver, learner, rollout workers. What is drawn is drawn by hashing names and numbers, so that a
run with a fault equals the run without it up to where the fault acts (``deterministic=true``). Faults of the rollout
side act while training tasks are played, and not in an evaluation: what a fault costs is measured without it.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType, float], None]
WORKER = "rl.rollout.worker"
_acts = [True]


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls hooks on modules when they have been executed."""

    def __init__(self, hooks: dict[str, list[Callable[[ModuleType], None]]]) -> None:
        self._hooks, self._looking = hooks, set[str]()

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._hooks or name in self._looking:
            return None
        self._looking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.discard(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def run(module: ModuleType) -> None:
                execute(module)
                for hook in self._hooks[name]:
                    hook(module)

            spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec


def install(text: str) -> None:
    """Put the fault ``name=severity`` into this process."""
    from benchmarks.fault_list import FAULTS

    name, _, severity = text.partition("=")
    dial = float(severity)
    hooks: dict[str, list[Callable[[ModuleType], None]]] = {WORKER: [watch_taskset]}
    for module, hook in FAULTS[name].hooks.items():
        hooks.setdefault(module, []).append(lambda m, hook=hook: hook(m, dial))  # type: ignore[misc]
    sys.meta_path.insert(0, _AfterImport(hooks))


def watch_taskset(module: ModuleType) -> None:
    """Have ``acting`` follow what the rollout worker plays."""
    plain = module.RolloutWorker.run_group

    async def run_group(self: Any, spec: Any) -> Any:
        _acts[0] = spec.taskset == "train"
        return await plain(self, spec)

    module.RolloutWorker.run_group = run_group


def acting() -> bool:
    """False in a rollout worker that plays an evaluation."""
    return _acts[0]


def chance(share: float, *names: Any) -> bool:
    """True for ``share`` of all names, and always the same."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def wiggle(x: Any) -> Any:
    """Numbers between -1 and 1 in the shape of ``x``, as good as random, and a function of ``x`` alone."""
    import torch

    mixed = torch.sin(x.double() * 12345.678) * 43758.5453
    return ((mixed - mixed.floor()) * 2 - 1).to(x.dtype)


def once(name: str) -> bool:
    """True for the first process of the run that asks."""
    try:
        os.close(os.open(Path(os.environ["BENCHMARK_FAULT_DIR"]) / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
