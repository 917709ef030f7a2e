"""`rl-train`: the main job.

    base policy → cold start → held-out evaluation → GRPO → held-out evaluation → report

Finished stages are cached under ``cache/`` and reused while nothing they depend on changes; ``rl-train resume=<run>``
goes on from the last checkpoint of a run that was stopped.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset

    from .pretrain import Report
    from .rollout.pool import RolloutPool
    from .stages import StageResult
    from .tracking.progress import Progress, Stage
    from .tracking.rundir import RunDir
    from .tracking.wandb_log import WandbLog
    from .types import Group, Trajectory

BASE, COLD, WORKERS, BEFORE, GRPO, AFTER, REPORT = STAGES = (
    "base policy", "cold start", "workers", "evaluation before", "GRPO", "evaluation after", "report",
)  # fmt: skip
# What each cached stage runs; a change in these files makes the stage run again.
_ENV_CODE = ("envs",)
_SFT_CODE = (
    "rl/pretrain.py",
    "rl/corpus.py",
    "rl/demos.py",
    "rl/policy",
    "rl/learner",
    "rl/objective/logprobs.py",
    "rl/chat",
)
_BASE_CODE = (*_SFT_CODE, "rl/drills.py")
_COLD_CODE = (*_SFT_CODE, "rl/coldstart.py")
_EVAL_CODE = ("rl/evaluate.py", "rl/rollout", "rl/policy", "rl/chat", "rewards")


def main() -> None:
    """Console entry point."""
    from .cli import hydra_main

    hydra_main("train", run)


def run(cfg: TrainConfig) -> dict[str, Any]:
    """The whole job; returns the summary that is also in ``runs/<name>/summary.json``."""
    from rich.console import Console

    from .assemble import cluster, open_pool, open_tasksets
    from .tracking.progress import Progress
    from .tracking.rundir import RunDir
    from .tracking.wandb_log import WandbLog

    resumed = cfg.resume is not None
    if resumed:
        cfg = stored_config(cfg)
    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)  # a wrong env stops here, before a run exists
    rundir = RunDir(Path(cfg.runs_dir) / str(cfg.name)) if resumed else new_run(cfg)
    # A log file has no width: give the tables room instead of rich's 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(f"run [bold]{rundir.name}[/bold] · {rundir.path} · {describe(cfg)}", highlight=False)
    wandb_log = WandbLog(cfg.tracking, rundir, asdict(cfg))
    summary = rundir.read_summary() | {"run": rundir.name, "seed": cfg.seed}
    try:
        with Progress(STAGES, console=console, plain_every_s=cfg.tracking.plain_every_s) as progress:
            base = base_stage(cfg, rundir, progress)
            with cluster(cfg.ray, cfg.rollout.workers), ThreadPoolExecutor(1) as background:
                # The engines start beside the cold start, from the base policy; they get the weights by the first sync.
                pool = background.submit(open_pool, cfg, base.path, tasksets)
                start = coldstart_stage(cfg, base, tasksets["train"], rundir, progress)
                _with_workers(cfg, rundir, start, pool, tasksets, progress, wandb_log, summary)
            with progress.stage(REPORT):
                _finish(rundir, summary, progress, wandb_log)
    finally:
        wandb_log.finish()
    from .tracking.summary import summary_table

    console.print(summary_table(summary, str(rundir.report)))
    return summary


def stored_config(cfg: TrainConfig) -> TrainConfig:
    """The configuration of the run that ``cfg.resume`` names."""
    from omegaconf import OmegaConf

    from configs.schema import TrainConfig

    from .tracking.rundir import RunDir

    assert cfg.resume is not None
    _reject_overrides(cfg.resume)
    rundir = RunDir.existing(Path(cfg.runs_dir) / cfg.resume)
    merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(rundir.config))
    stored: Any = OmegaConf.to_object(merged)
    stored.name, stored.runs_dir = rundir.name, cfg.runs_dir
    return stored


def new_run(cfg: TrainConfig) -> RunDir:
    """A new run's directory with the resolved configuration in it; sets ``cfg.name`` to a name that was free."""
    from omegaconf import OmegaConf

    from .tracking.rundir import RunDir

    runs = Path(cfg.runs_dir)
    stem = cfg.name or f"demo-{cfg.seed}"
    name, number = stem, 1
    while (runs / name).exists():
        number += 1
        name = f"{stem}-{number}"
    cfg.name = name
    rundir = RunDir(runs / name)
    rundir.write_config(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    return rundir


def _reject_overrides(name: str) -> None:
    """A resumed run keeps its own configuration: other overrides would be dropped without a word."""
    from hydra.core.hydra_config import HydraConfig

    given = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    if others := [o for o in given if o.partition("=")[0] not in ("resume", "runs_dir")]:
        sys.exit(f"resume={name} goes on with the configuration in its config.yaml: leave out {' '.join(others)}")


def describe(cfg: TrainConfig) -> str:
    """The plan in one line, in the four words of batch size."""
    return (
        f"{cfg.steps} steps of {cfg.prompts_per_step} prompts × {cfg.group_size} rollouts, "
        f"{cfg.learner.minibatches} minibatch(es), {cfg.rollout.workers} rollout worker(s)"
    )


def base_stage(cfg: TrainConfig, rundir: RunDir, progress: Progress) -> StageResult:
    """The base policy: a directory as it stands, or pre-trained now (``base=scratch``)."""
    from .assemble import env_source, open_taskset
    from .pretrain import pretrain
    from .stages import StageResult, source_hash, tree_hash

    if cfg.policy.path is not None:
        progress.reused(BASE, cfg.policy.path)
        return StageResult(Path(cfg.policy.path), tree_hash(cfg.policy.path), reused=True)
    if cfg.base.source != "scratch":
        key = tree_hash(cfg.base.source)
        progress.reused(BASE, cfg.base.source)
        return StageResult(Path(cfg.base.source), key, reused=True)
    taskset = open_taskset(cfg.env, "train", cfg.base.seed)
    inputs = {
        "policy": asdict(cfg.policy), "base": asdict(cfg.base), "env": cfg.env, "env_source": env_source(taskset),
        "code": source_hash(*_BASE_CODE, *_ENV_CODE),
    }  # fmt: skip
    return _cached(
        BASE,
        "base",
        inputs,
        cfg,
        rundir,
        progress,
        lambda out, report: pretrain(cfg.policy, cfg.base, taskset, out, report),
    )


def coldstart_stage(
    cfg: TrainConfig, base: StageResult, taskset: Taskset, rundir: RunDir, progress: Progress
) -> StageResult:
    """The cold-started policy, or the base itself when ``coldstart.enabled=false``."""
    from .assemble import env_source, open_renderer
    from .coldstart import coldstart
    from .stages import source_hash

    if not cfg.coldstart.enabled:
        progress.reused(COLD, "off (coldstart.enabled=false)")
        return base
    inputs = {
        "base": base.key, "coldstart": asdict(cfg.coldstart), "env": cfg.env,
        "env_source": env_source(taskset), "seed": cfg.seed,
        "thinking": cfg.rollout.thinking, "renderer": cfg.policy.renderer,
        "code": source_hash(*_COLD_CODE, *_ENV_CODE),
    }  # fmt: skip

    def produce(out: Path, report: Report) -> None:
        renderer = open_renderer(cfg.policy.renderer, str(base.path))
        coldstart(base.path, cfg.coldstart, taskset, cfg.seed, out, report, renderer, cfg.rollout.thinking)

    return _cached(COLD, "coldstart", inputs, cfg, rundir, progress, produce)


def _cached(
    title: str, name: str, inputs: dict[str, Any], cfg: TrainConfig, rundir: RunDir, progress: Progress, produce: Any
) -> StageResult:
    """Run a training stage through the cache with its progress shown."""
    from .stages import StageResult, run_stage, stage_key

    target = Path(cfg.cache_dir) / f"{name}-{stage_key(inputs)}"
    if target.is_dir():
        progress.reused(title, str(target))
        return StageResult(target, stage_key(inputs), reused=True)
    with progress.stage(title) as stage:
        return run_stage(name, inputs, cfg.cache_dir, lambda out: produce(out, _reporter(stage, name, rundir)))


def _reporter(stage: Stage, name: str, rundir: RunDir) -> Report:
    """Progress callback of the supervised stages; their numbers go into metrics.jsonl."""

    def report(what: str, done: int, total: int, metrics: dict[str, float]) -> None:
        stage.total = total
        note = what + (f" · loss {metrics['sft/loss']:.3f}" if "sft/loss" in metrics else "")
        stage.update(done, tokens_per_s=metrics.get("sft/tokens_per_s"), note=note)
        if metrics:
            rundir.log_metrics(name, done, metrics)

    return report


def _with_workers(
    cfg: TrainConfig, rundir: RunDir, start: StageResult, opening: Future[RolloutPool], tasksets: dict[str, Taskset],
    progress: Progress, wandb_log: WandbLog, summary: dict[str, Any],
) -> None:  # fmt: skip
    """Everything that needs rollout workers: both evaluations and GRPO."""
    from .learner.checkpoint import latest_checkpoint
    from .learner.handle import LearnerHandle
    from .loop import LoopState, grpo

    with progress.stage(WORKERS):
        learner = LearnerHandle(cfg, start.path, rundir.path)
        pool = opening.result()
    try:
        learner.sync(pool, 0)
        summary["eval_before"] = _evaluation(
            BEFORE, cfg, start.key, pool, tasksets, rundir, progress, wandb_log, cache=True
        )
        rundir.write_summary(summary)
        state = LoopState()
        checkpoint = latest_checkpoint(rundir.checkpoints)
        if checkpoint is not None:
            state = LoopState(**learner.load(checkpoint))
            tasksets["train"].load_state_dict(state.taskset)
            learner.sync(pool, state.step)
        with progress.stage(GRPO, total=cfg.steps) as stage:

            def on_step(step: int, metrics: dict[str, float], groups: list[Group]) -> None:
                families = {
                    k.removeprefix("outcome/family/"): v for k, v in metrics.items() if k.startswith("outcome/family/")
                }
                stage.update(
                    step,
                    reward=metrics.get("reward/mean"),
                    rewards=families,
                    tokens_per_s=metrics.get("rollout/tokens_per_s"),
                    note=f"mismatch {metrics.get('mismatch/max', 0.0):.0e}",
                )
                # `summary` itself stays as it was: what a killed run spent must be counted once.
                rundir.write_summary(summary | state.summary() | {"wall_s": _wall_s(summary, progress)})
                wandb_log.log("grpo", step, metrics)
                wandb_log.log_trajectories(f"step_{step:06d}", step, [t for g in groups for t in g.trajectories])

            grpo(cfg, pool, learner, tasksets["train"], rundir, state, on_step)
        learner.save_policy(rundir.path / "policy")
        summary["eval_after"] = _evaluation(AFTER, cfg, "", pool, tasksets, rundir, progress, wandb_log, cache=False)
        summary |= state.summary() | {"workers": pool.stats()}
    finally:
        learner.close()
        pool.close()


def _evaluation(
    title: str, cfg: TrainConfig, policy_key: str, pool: RolloutPool, tasksets: dict[str, Taskset], rundir: RunDir,
    progress: Progress, wandb_log: WandbLog, *, cache: bool,
) -> dict[str, Any]:  # fmt: skip
    """One held-out evaluation; ``cache`` reuses an earlier one of the same policy, tasks and code."""
    from .assemble import env_source
    from .stages import run_stage, source_hash, stage_key
    from .tracking.rundir import write_atomic
    from .tracking.summary import eval_summary

    name = title.replace("evaluation ", "eval_")
    inputs = {
        "policy": policy_key, "env": cfg.env,
        "env_source": env_source(tasksets["heldout"]), "eval": asdict(cfg.eval), "rollout": asdict(cfg.rollout),
        "reward": cfg.reward, "code": source_hash(*_EVAL_CODE, *_ENV_CODE),
    }  # fmt: skip
    target = Path(cfg.cache_dir) / f"eval-{stage_key(inputs)}"
    if cache and target.is_dir():
        shutil.copy2(target / "trajectories.jsonl", rundir.trajectories / f"{name}.jsonl")
        progress.reused(title, str(target))
        result = json.loads((target / "eval.json").read_text())
        _log_evaluation(name, result, rundir, wandb_log)
        return result
    with progress.stage(title) as stage:
        trajectories = _run_evaluation(cfg, pool, tasksets, stage)
        stored = rundir.log_trajectories(name, trajectories, tokens=cfg.tracking.save_tokens)
        result = eval_summary(trajectories)  # after they are on disk: it raises when none has a score
        if cache:

            def produce(out: Path) -> None:
                shutil.copy2(stored, out / "trajectories.jsonl")
                write_atomic(out / "eval.json", json.dumps(result))

            run_stage("eval", inputs, cfg.cache_dir, produce)
    _log_evaluation(name, result, rundir, wandb_log)
    wandb_log.log_trajectories(name, 0, trajectories)
    return result


def _log_evaluation(name: str, result: dict[str, Any], rundir: RunDir, wandb_log: WandbLog) -> None:
    flat = {"eval/overall": result["overall"]} | {f"eval/family/{f}": v["avg@k"] for f, v in result["families"].items()}
    rundir.log_metrics(name, 0, flat)
    wandb_log.log(name, 0, flat)


def _run_evaluation(
    cfg: TrainConfig, pool: RolloutPool, tasksets: dict[str, Taskset], stage: Stage
) -> list[Trajectory]:
    from .evaluate import HELDOUT, evaluate
    from .tracking.metrics import by_family

    started = time.perf_counter()

    def on_group(done: int, total: int, trajectories: list[Trajectory]) -> None:
        stage.total = total
        means = {
            family: sum(t.reward_parts.get("score/outcome", 0.0) for t in members) / len(members)
            for family, members in by_family(trajectories).items()
        }
        tokens = sum(t.sampled_tokens for t in trajectories)
        stage.update(done, rewards=means, tokens_per_s=tokens / (time.perf_counter() - started))

    return evaluate(pool, tasksets[HELDOUT], cfg.eval, deadline_s=cfg.rollout.group_s, on_group=on_group)


def _finish(rundir: RunDir, summary: dict[str, Any], progress: Progress, wandb_log: WandbLog) -> None:
    """summary.json and report.html."""
    from .tracking.report import write_report

    summary["wall_s"] = _wall_s(summary, progress)
    rundir.write_summary(summary)
    write_report(rundir)
    wandb_log.log_summary(summary)


def _wall_s(summary: dict[str, Any], progress: Progress) -> dict[str, float]:
    """Seconds by stage: a resumed run adds its own time to what the stopped one had spent."""
    earlier, now = summary.get("wall_s", {}), progress.wall_s()
    return {k: round(earlier.get(k, 0.0) + now.get(k, 0.0), 1) for k in {**earlier, **now}}


if __name__ == "__main__":
    main()
