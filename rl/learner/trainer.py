"""Supervised training wherever there are means for it: in this process, or in a group of Ray actors as in RL.

with open_trainer({"path": directory}, SFTConfig(...), Means(cfg.learner, gpus, timeout_s)) as trainer:
    metrics = trainer.step(documents)
    trainer.save(out)

One rank without a GPU is ``rl.learner.sft.SFTTrainer`` here. With a GPU, or several ranks, it is one in every actor;
each gets the same calls with the same examples and works on its share of their tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rl.learner.config import MeansConfig, SFTConfig
from rl.learner.group import LearnerGroup
from rl.learner.rank_process import RankProcess
from rl.types import TokenStream

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from configs.schema import TrainConfig, TrainingCommandConfig
    from rl.learner.ranks import Ranks
    from rl.learner.sft import SFTTrainer
    from rl.policy.attention_context import AttentionMode


@dataclass(frozen=True)
class Means:
    """``gpus``: of each rank. ``timeout_s``: for one call, and for ranks that wait for each other."""

    config: MeansConfig = field(default_factory=MeansConfig)
    gpus: float = 0.0
    timeout_s: float = 1800.0

    @classmethod
    def of(cls, cfg: TrainConfig | TrainingCommandConfig) -> Means:
        """What the command's configuration gives."""
        return cls(cfg.learner, cfg.ray.learner_gpus, cfg.step_deadline_s)

    @property
    def actors(self) -> int:
        """Ray actors that are needed; 0: all is done in this process."""
        return self.config.ranks if self.config.ranks > 1 or self.gpus > 0 else 0


class Trainer(Protocol):
    """What supervised stages train with; the methods are those of ``SFTTrainer``."""

    def step(self, examples: Sequence[TokenStream]) -> dict[str, float]: ...

    def evaluate(self, examples: Sequence[TokenStream]) -> dict[str, float]: ...

    def set_mode(self, mode: AttentionMode) -> None: ...

    def save(self, directory: str | Path) -> None: ...

    def figures(self) -> dict[str, Any]: ...


@contextmanager
def open_trainer(
    policy: Mapping[str, Any], config: SFTConfig, means: Means | None = None, threads: int = 0
) -> Iterator[Trainer]:
    """A trainer of ``policy`` (a mapping for ``rl.policy.loading.build_policy``) for the length of the block.

    ``threads``: of torch in each process; 0: as torch has it here, in actors a rank's share of its machine's cores.
    Actors need a Ray instance (``rl.run.assemble.cluster``) with room for ``means.actors``.
    """
    means = means or Means()
    if not means.actors:
        import torch

        from rl.learner.sft import SFTTrainer
        from rl.policy.loading import build_policy

        if threads:
            torch.set_num_threads(threads)
        yield SFTTrainer(build_policy(policy), config, means.config)
        return
    described = dict(policy)
    if "path" in described:  # actors have another working directory: that of `ray start`
        described["path"] = str(Path(described["path"]).absolute())
    start = partial(_start, described, config, means, threads)
    group = _Group(LearnerGroup(start, means.config.ranks, means.gpus), means.timeout_s)
    try:
        yield group
    finally:
        group.close()


class SupervisedProcess(RankProcess):
    """One rank's ``SFTTrainer``, in an actor."""

    def __init__(self, policy: Mapping[str, Any], config: SFTConfig, means: Means, threads: int, rank: int) -> None:
        self._given = (policy, config, threads)
        super().__init__(means.config, rank, means.timeout_s)

    def build(self, ranks: Ranks | None) -> None:
        import torch

        from rl.learner.sft import SFTTrainer

        policy, config, threads = self._given
        beside = 1 if ranks is None else ranks.beside
        torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // beside))
        self.trainer: SFTTrainer = SFTTrainer(self.policy(policy), config, self._means, ranks)

    def step(self, examples: Sequence[TokenStream]) -> dict[str, float]:
        return self.trainer.step(examples)

    def evaluate(self, examples: Sequence[TokenStream]) -> dict[str, float]:
        return self.trainer.evaluate(examples)

    def set_mode(self, mode: AttentionMode) -> None:
        self.trainer.set_mode(mode)

    def save(self, directory: str) -> None:
        self.trainer.save(directory)

    def figures(self) -> dict[str, Any]:
        return self.trainer.figures()


def _start(
    policy: Mapping[str, Any], config: SFTConfig, means: Means, threads: int, *, rank: int, **options: Any
) -> ActorHandle[SupervisedProcess]:
    import ray

    actor: Any = ray.remote(**({"num_cpus": 1.0} | options))(SupervisedProcess)
    handle: ActorHandle[SupervisedProcess] = actor.remote(policy, config, means, threads, rank)
    return handle


class _Group:
    """``Trainer`` of a group of ``SupervisedProcess``. Each call raises as ``LearnerGroup.get`` does."""

    def __init__(self, group: LearnerGroup, deadline_s: float) -> None:
        self._group, self._deadline_s = group, deadline_s

    def step(self, examples: Sequence[TokenStream]) -> dict[str, float]:
        metrics: dict[str, float] = self._call("a supervised step", "step", self._group.put(list(examples)))
        return metrics

    def evaluate(self, examples: Sequence[TokenStream]) -> dict[str, float]:
        metrics: dict[str, float] = self._call("an evaluation", "evaluate", self._group.put(list(examples)))
        return metrics

    def set_mode(self, mode: AttentionMode) -> None:
        self._call("the change of attention", "set_mode", mode)

    def save(self, directory: str | Path) -> None:
        self._call("the policy to be saved", "save", str(Path(directory).absolute()))

    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = self._call("the figures of the training", "figures")
        return figures

    def close(self) -> None:
        self._group.kill()

    def _call(self, what: str, method: str, *args: Any) -> Any:
        return self._group.get(what, self._group.call(method, *args), self._deadline_s)
