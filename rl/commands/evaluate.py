"""`rl-eval`: held-out evaluation of any policy, or of several.

rl-eval run=demo                     the last policy of a run
rl-eval path=pkg://rl.bases/tiny_dsa_base env=search eval.n_tasks=16
rl-eval run=demo 'sweep.thinking=[16,32,64,null]'       the same tasks under limits on thinking
rl-eval 'runs=[seed-0,seed-1,seed-2]'                   several runs, and their mean
rl-eval run=seed-1 baseline=seed-0                      the difference, task by task
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from configs.schema import EvaluateConfig
    from rl.types import Trajectory


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("evaluate", run)


def run(cfg: EvaluateConfig) -> None:
    from rich.console import Console

    from rl.commands.evaluate_settings import baseline_of, like_the_run, policies_of, results_of
    from rl.run.preflight import configuration

    with configuration():  # of all policies, before the first is evaluated
        policies = policies_of(cfg)
        baseline = baseline_of(cfg)
        out = results_of(cfg, policies)
        settings, certificates = {}, {}
        for name, directory in policies:
            settings[name] = like_the_run(copy.deepcopy(cfg), name if cfg.path is None else None)
            certificates[name] = check(settings[name], directory)
    console = Console() if sys.stdout.isatty() else Console(width=120)  # a log file has no width: room for the tables
    if not cfg.runs:
        ((name, directory),) = policies
        evaluate_policy(settings[name], name, directory, out, console, baseline, certificates[name])
        return
    from rl.tracking.policies import policies_summary, print_policies
    from rl.tracking.report import write_report
    from rl.tracking.rundir import RunDir

    found = {}
    for name, directory in policies:
        found[name] = evaluate_policy(
            settings[name], name, directory, out / name, console, baseline, certificates[name]
        )
    summary = policies_summary(found, cfg.eval.confidence)
    rundir = RunDir(out)
    rundir.write_summary(summary)
    print_policies(console, summary, str(write_report(rundir)))


def check(cfg: EvaluateConfig, directory: Path) -> dict[str, Any]:
    """Raise ValueError when the policy in ``directory`` could not be evaluated with these settings; settles how many
    turns an episode may have. How its task sets' certificates stand."""
    from rl.commands.evaluate_settings import check_before_start
    from rl.recipes.evaluate import HELDOUT
    from rl.run.assemble import open_composer, open_tasksets
    from rl.run.certified import standings
    from rl.run.deadlines import check_deadlines
    from rl.run.engine_refusals import check_engine
    from rl.run.preflight import check_environments, check_judge, start_renderer
    from rl.run.room import about_places, check_room
    from rl.run.turn_limit import settle_turns

    check_before_start(cfg)
    renderer = start_renderer(cfg.policy, directory, cfg.rollout.retention)
    check_judge(cfg.judge)
    check_engine(cfg.rollout, cfg.ray, cfg.policy, directory, None)
    check_room(cfg, None)
    open_composer(cfg.reward)
    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
    heldout = tasksets[HELDOUT]
    check_environments(heldout, renderer, thinking=cfg.rollout.thinking, context=cfg.rollout.context.policy)
    check_deadlines(cfg.rollout, heldout)
    certificates, said = standings(tasksets["train"], cfg.certificate, cfg.certificates)
    for sentence in said + settle_turns(cfg.rollout, heldout) + about_places(cfg.rollout, cfg.ray):
        print(sentence)
    return certificates


def evaluate_policy(
    cfg: EvaluateConfig,
    name: str,
    directory: Path,
    out: Path,
    console: Console,
    baseline: Mapping[str, Any] | None,
    certificates: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluate the policy in ``directory`` and all points of the sweep; write, log and print it. The summary.

    ``baseline``: an earlier summary whose evaluation this one is compared with. ``certificates``: of the task sets.
    """
    from omegaconf import OmegaConf

    from rl.recipes.evaluate import HELDOUT, evaluate
    from rl.run.assemble import cluster, open_composer, open_judge, open_pool, open_tasksets
    from rl.run.room import cpus_beside_learner
    from rl.tracking.episodes import event_counts
    from rl.tracking.evaluation import eval_summary, evaluation_metrics
    from rl.tracking.report import write_report
    from rl.tracking.rundir import RunDir, write_atomic
    from rl.tracking.summary import summary_table
    from rl.tracking.sweep import sweep_metrics, sweep_point, sweep_svg
    from rl.tracking.usage import UsageBook, tally
    from rl.tracking.wandb_log import WandbLog

    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
    reward = open_composer(cfg.reward).describe()
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
    cpus = cpus_beside_learner(cfg.rollout, cfg.judge, cfg.ray) + 1
    with cluster(cfg.ray, cpus), open_judge(cfg, directory):
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
        "certificates": certificates,
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
