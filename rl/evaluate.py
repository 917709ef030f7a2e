"""Held-out evaluation: k rollouts of n tasks a family, and `rl-eval`, which does it for any policy.

rl-eval run=demo                     the last policy of a run
rl-eval path=assets/tiny_dsa_base env=search eval.n_tasks=16
rl-eval run=demo 'sweep.thinking=[16,32,64,null]'       the same tasks under limits on thinking
rl-eval 'runs=[seed-0,seed-1,seed-2]'                   several runs, and their mean
rl-eval run=seed-1 baseline=seed-0                      the difference, task by task
"""

from __future__ import annotations

import copy
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rollout.pool import GroupSpec
from .types import Trajectory

if TYPE_CHECKING:
    from rich.console import Console

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
    settings: Mapping[str, Any] | None = None,
    on_group: Callable[[int, int, list[Trajectory]], None] = lambda done, total, trajectories: None,
) -> list[Trajectory]:
    """``config.k`` rollouts of every held-out task (of ``family``) with the engines' present weights, in task order.

    ``deadline_s`` bounds the wait for any one group. ``settings``: see ``GroupSpec``.
    """
    tasks = heldout_tasks(taskset, config.n_tasks, family)
    for number, (index, task) in enumerate(tasks):
        order = GroupSpec(
            number,
            task,
            index,
            config.k,
            pool.version,
            taskset=HELDOUT,
            parallel=pool.config.context.runs,
            settings=settings or {},
        )
        pool.submit(order)
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

    from .evaluate_settings import baseline_of, like_the_run, policies_of

    policies = policies_of(cfg)
    baseline = baseline_of(cfg)
    console = Console() if sys.stdout.isatty() else Console(width=120)  # a log file has no width: room for the tables
    if not cfg.runs:
        ((name, directory),) = policies
        settings = like_the_run(cfg, cfg.run)
        out = Path(cfg.out) if cfg.out else directory / "eval"
        evaluate_policy(settings, name, directory, out, console, baseline)
        return
    from .tracking.policies import policies_summary, print_policies
    from .tracking.report import write_report
    from .tracking.rundir import RunDir

    out = Path(cfg.out) if cfg.out else Path(cfg.runs_dir) / f"eval-{'+'.join(cfg.runs)}"
    rundir = RunDir(out)
    found = {}
    for name, directory in policies:
        settings = like_the_run(copy.deepcopy(cfg), name)
        found[name] = evaluate_policy(settings, name, directory, out / name, console, baseline)
    summary = policies_summary(found, cfg.eval.confidence)
    rundir.write_summary(summary)
    print_policies(console, summary, str(write_report(rundir)))


def evaluate_policy(
    cfg: EvaluateConfig, name: str, directory: Path, out: Path, console: Console, baseline: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Evaluate the policy in ``directory`` and all points of the sweep; write, log and print it. The summary.

    ``baseline``: an earlier summary whose evaluation this one is compared with.
    """
    from omegaconf import OmegaConf

    from .assemble import cluster, open_composer, open_judge, open_pool, open_tasksets
    from .evaluate_settings import check_before_start
    from .tracking.evaluation import evaluation_metrics
    from .tracking.report import write_report
    from .tracking.rundir import RunDir, write_atomic
    from .tracking.summary import eval_summary, event_counts, summary_table
    from .tracking.sweep import sweep_metrics, sweep_point, sweep_svg
    from .tracking.usage import UsageBook, tally
    from .tracking.wandb_log import WandbLog

    check_before_start(cfg)
    rundir = RunDir(out)
    resolved = asdict(cfg)
    rundir.write_config(OmegaConf.to_yaml(OmegaConf.create(resolved)))
    wandb_log = WandbLog(cfg.tracking, rundir, resolved, name=f"{name}-eval")
    wall_s: dict[str, float] = {}
    points: list[dict[str, Any]] = []
    book = UsageBook()

    def log(stage: str, step: int, metrics: Mapping[str, float]) -> None:
        rundir.log_metrics(stage, step, metrics)
        wandb_log.log(stage, step, metrics)

    started = time.perf_counter()
    with cluster(cfg.ray, cfg.rollout.workers + cfg.judge.is_worker), open_judge(cfg, directory):
        tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
        reward = open_composer(cfg.reward).describe()
        console.print(reward, highlight=False, markup=False)
        pool = open_pool(cfg, directory, tasksets)
        wall_s["start"] = round(time.perf_counter() - started, 1)

        def measure(what: str, file: str, settings: Mapping[str, Any]) -> list[Trajectory]:
            began = time.perf_counter()
            with console.status(what) as status:
                trajectories = evaluate(
                    pool,
                    tasksets[HELDOUT],
                    cfg.eval,
                    deadline_s=cfg.rollout.group_s,
                    settings=settings,
                    on_group=lambda done, total, _: status.update(f"{name}, {what}: {done} of {total} tasks"),
                )
            rundir.log_trajectories(file, trajectories, tokens=cfg.tracking.save_tokens)
            wall_s[what] = round(time.perf_counter() - began, 1)
            book.put(what, "evaluation", tally(trajectories))
            return trajectories

        try:
            trajectories = measure("evaluation", "eval_after", {})
            for budget in cfg.sweep.thinking:
                own = trajectories
                if budget != cfg.rollout.max_thinking:  # the evaluation itself is that point otherwise
                    own = measure(f"thinking {budget}", f"thinking_{budget}", {"max_thinking": budget})
                point = sweep_point(own, eval_summary(own, cfg.eval), budget, cfg.rollout.max_tokens)
                log("thinking", point["limit"], evaluation_metrics(point["evaluation"]) | sweep_metrics(point))
                points.append(point)
        finally:
            pool.close()
    result = eval_summary(trajectories, cfg.eval)
    log("eval_after", 0, evaluation_metrics(result))
    wandb_log.log_trajectories("eval_after", 0, trajectories)
    counts, failures = event_counts(trajectories)
    summary: dict[str, Any] = {
        "reward": reward,
        "eval_after": result,
        "policy": str(directory),
        "wall_s": wall_s,
        "tokens_sampled": sum(t.sampled_tokens for t in trajectories),
        "usage": book.summary(cfg.cost),
        "counts": dict(counts),
        "failures": dict(failures),
    }
    if baseline is not None:
        summary |= {"baseline": cfg.baseline, "eval_before": baseline["eval_after"]}
    if points:
        summary["sweep"] = {"thinking": points}
        write_atomic(out / "sweep_thinking.svg", sweep_svg(points))
    rundir.write_summary(summary)
    wandb_log.log_summary(summary)
    wandb_log.finish()
    console.print(summary_table(summary, str(write_report(rundir))))
    return summary


if __name__ == "__main__":
    main()
