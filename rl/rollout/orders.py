"""What a pool orders of its workers, and what those are made from."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.taskset import Taskset
from envs.types import Task
from rl.rollout.config import RolloutConfig

if TYPE_CHECKING:
    from rewards.compose import RewardComposer

POLICY_FILES = (".json", ".safetensors")


@dataclass(frozen=True)
class GroupSpec:
    """An order for ``size`` rollouts of one task, admitted at policy version ``version``.

    ``taskset`` names which of the pool's tasksets makes the environments; ``temperature`` replaces the
    configured one (evaluation). ``settings``: fields of ``RolloutConfig`` that differ for these rollouts: those
    that an episode reads (limits and deadlines), not those of the engine. ``parallel``: independent runs for
    each of the ``size`` rollouts; the finished one with the fewest steps comes back (``rl.rollout.selection``).
    ``records``: a learner is to repeat the choices that engines record; else they stay with the worker.
    """

    id: int
    task: Task
    task_index: int
    size: int
    version: int
    taskset: str = "train"
    temperature: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    parallel: int = 1
    records: bool = True


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is made from; sent to every new actor (pickled, see ``Player``).

    ``open_renderer`` runs in the worker and makes the chat renderer (with its tokenizer). ``record_indexer``:
    trajectories carry the DSA indexer's choices. ``files``: what the driver sees in ``model_dir`` (``files_of``), which
    every worker has to see too.
    """

    config: RolloutConfig
    model_dir: str
    open_renderer: Callable[[], Any]
    tasksets: Mapping[str, Taskset]
    composer: RewardComposer
    record_indexer: bool = False
    files: Mapping[str, int] = field(default_factory=dict)

    def check_files(self) -> None:
        """Raise ValueError where this machine does not see the policy's folder as the driver does."""
        here = files_of(self.model_dir)
        if wrong := sorted(name for name, size in self.files.items() if here.get(name) != size):
            raise ValueError(
                f"the policy's folder {self.model_dir} on {platform.node()} has no {wrong[0]} like the driver's: "
                "every machine with engines or environments needs it under this path, on a file system that all of "
                "them see or as a copy"
            )


def files_of(directory: str | Path) -> dict[str, int]:
    """Names and bytes of a policy's files in ``directory``: weights, settings, tokenizer; empty where there is none."""
    try:
        with os.scandir(directory) as entries:
            files = [entry for entry in entries if entry.name.endswith(POLICY_FILES) and entry.is_file()]
            return {entry.name: entry.stat().st_size for entry in files}
    except OSError:
        return {}
