"""Held-out evaluation: avg@k over n tasks a family, and `rl-eval`, which does it for any policy.

rl-eval run=demo                     the last policy of a run
rl-eval path=assets/tiny_dsa_base env=search eval.n_tasks=16
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rollout.pool import GroupSpec
from .types import Trajectory

if TYPE_CHECKING:
    from configs.schema import EvalConfig, EvaluateConfig
    from envs.taskset import Taskset
    from envs.types import Task

    from .rollout.pool import RolloutPool

HELDOUT = "heldout"  # name of the held-out taskset in the pool


def heldout_tasks(taskset: Taskset, n_tasks: int, family: str | None = None) -> list[tuple[int, Task]]:
    """(index, task) of the first ``n_tasks`` tasks of every family (or of ``family`` alone), in taskset order."""
    if taskset.split != "heldout":
        raise ValueError(f"evaluation needs a held-out taskset, this one has split={taskset.split!r}")
    taken: Counter[str] = Counter()
    tasks = []
    for index in range(len(taskset)):
        task = taskset.task(index)
        if taken[task.family] < n_tasks and family in (None, task.family):
            taken[task.family] += 1
            tasks.append((index, task))
    return tasks


def evaluate(
    pool: RolloutPool,
    taskset: Taskset,
    config: EvalConfig,
    *,
    deadline_s: float,
    family: str | None = None,
    on_group: Callable[[int, int, list[Trajectory]], None] = lambda done, total, trajectories: None,
) -> list[Trajectory]:
    """``config.k`` rollouts of every held-out task (of ``family``) with the engines' present weights, in task order.

    ``deadline_s`` bounds the wait for any one group.
    """
    tasks = heldout_tasks(taskset, config.n_tasks, family)
    for number, (index, task) in enumerate(tasks):
        pool.submit(GroupSpec(number, task, index, config.k, pool.version, taskset=HELDOUT))
    groups: dict[int, list[Trajectory]] = {}
    for done in range(1, len(tasks) + 1):
        group = pool.collect(1, deadline_s)[0]
        groups[group.id] = group.trajectories
        on_group(done, len(tasks), [t for g in groups.values() for t in g])
    return [t for number in sorted(groups) for t in groups[number]]


def main() -> None:
    """Console entry point."""
    from .cli import hydra_main

    hydra_main("evaluate", _run)


def _run(cfg: EvaluateConfig) -> None:
    from rich.console import Console

    from .assemble import cluster, open_composer, open_pool, open_tasksets
    from .tracking.rundir import trajectory_json, write_atomic
    from .tracking.summary import eval_summary, event_counts, summary_table
    from .tracking.usage import UsageBook, tally

    directory = _policy_directory(cfg)
    _like_the_run(cfg)
    out = Path(cfg.out) if cfg.out else directory / "eval"
    out.mkdir(parents=True, exist_ok=True)
    console = Console() if sys.stdout.isatty() else Console(width=120)  # a log file has no width: room for the tables
    started = time.perf_counter()
    with cluster(cfg.ray, cfg.rollout.workers):
        tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
        reward = open_composer(cfg.reward).describe()
        console.print(reward, highlight=False, markup=False)
        pool = open_pool(cfg, directory, tasksets)
        try:
            with console.status("evaluating") as status:
                trajectories = evaluate(
                    pool,
                    tasksets[HELDOUT],
                    cfg.eval,
                    deadline_s=cfg.rollout.group_s,
                    on_group=lambda done, total, _: status.update(f"evaluating: {done} of {total} tasks"),
                )
        finally:
            pool.close()
    result = eval_summary(trajectories)
    counts, failures = event_counts(trajectories)
    book = UsageBook()
    book.put("evaluation", "evaluation", tally(trajectories))
    summary: dict[str, Any] = {
        "reward": reward,
        "eval_after": result,
        "policy": str(directory),
        "wall_s": {"evaluation": round(time.perf_counter() - started, 1)},
        "tokens_sampled": sum(t.sampled_tokens for t in trajectories),
        "usage": book.summary(cfg.cost),
        "counts": dict(counts),
        "failures": dict(failures),
    }
    lines = (json.dumps(trajectory_json(t), ensure_ascii=False) + "\n" for t in trajectories)
    write_atomic(out / "trajectories.jsonl", "".join(lines))
    write_atomic(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    console.print(summary_table(summary, str(out / "summary.json")))


def _like_the_run(cfg: EvaluateConfig) -> None:
    """A run is evaluated as it was trained: its own policy format, environments, rewards and rollout settings."""
    if cfg.run is None:
        return
    from omegaconf import OmegaConf

    from configs.schema import TrainConfig

    stored = OmegaConf.load(Path(cfg.runs_dir) / cfg.run / "config.yaml")
    run: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), stored))
    cfg.policy, cfg.env, cfg.reward, cfg.rollout = run.policy, run.env, run.reward, run.rollout


def _policy_directory(cfg: EvaluateConfig) -> Path:
    if (cfg.run is None) == (cfg.path is None):
        raise SystemExit("rl-eval needs one of run=<name of a run> or path=<policy directory>")
    directory = Path(cfg.path) if cfg.path is not None else Path(cfg.runs_dir) / str(cfg.run) / "policy"
    if not (directory / "config.json").is_file():
        raise SystemExit(f"no policy at '{directory}': it has no config.json")
    return directory


if __name__ == "__main__":
    main()
