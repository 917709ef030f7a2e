"""What the stages of one `rl-train` have in common: configuration, run directory, progress, ledger, summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.tracking.usage import UsageBook

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset
    from rl.run.ledger import Ledger
    from rl.tracking.progress import Progress, Stage
    from rl.tracking.rundir import RunDir
    from rl.tracking.wandb_log import WandbLog

Report = Callable[[str, int, int, dict[str, float]], None]  # of a supervised stage: (what, done, total, metrics)


@dataclass
class Job:
    """One run, as its stages see it. ``summary`` is what summary.json will hold at the end."""

    cfg: TrainConfig
    rundir: RunDir
    tasksets: dict[str, Taskset]  # train and heldout
    progress: Progress
    wandb_log: WandbLog
    ledger: Ledger
    summary: dict[str, Any]
    usage: UsageBook = field(default_factory=UsageBook)

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """One row of metrics.jsonl and of wandb."""
        self.rundir.log_metrics(stage, step, metrics)
        self.wandb_log.log(stage, step, metrics)

    def write(self, more: Mapping[str, Any] | None = None) -> None:
        """summary.json as it stands, with ``more``."""
        self.rundir.write_summary(self.current(more))

    def current(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What summary.json says now, with ``more``. ``summary`` itself keeps what a stopped run had spent: that
        must be counted once."""
        return self.summary | dict(more or {}) | self.spent()

    def spent(self) -> dict[str, Any]:
        """Time, FLOPs and tokens so far: a resumed run adds its own to those of the stopped one."""
        earlier, now = self.summary.get("wall_s", {}), self.progress.wall_s()
        wall_s = {k: round(earlier.get(k, 0.0) + now.get(k, 0.0), 1) for k in {**earlier, **now}}
        return {"wall_s": wall_s, "compute": self.ledger.summary(), "usage": self.usage.summary(self.cfg.cost)}


def reporter(stage: Stage, name: str, rundir: RunDir) -> Report:
    """Progress callback of the supervised stages; their numbers go into metrics.jsonl."""

    def report(what: str, done: int, total: int, metrics: dict[str, float]) -> None:
        stage.total = total
        note = what + (f" · loss {metrics['sft/loss']:.3f}" if "sft/loss" in metrics else "")
        stage.update(done, tokens_per_s=metrics.get("sft/tokens_per_s"), note=note)
        if metrics:
            rundir.log_metrics(name, done, metrics)

    return report


def figures_of(directory: Path, name: str) -> dict[str, Any]:
    """What a supervised stage wrote about itself beside its policy (``coldstart.json``, ``distill.json``)."""
    figures: dict[str, Any] = json.loads((directory / name).read_text())
    return figures
