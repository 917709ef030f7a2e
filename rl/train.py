"""`rl-train`: the main job.

    base policy → cold start → held-out evaluation → GRPO → held-out evaluation → report

With ``pipeline.enabled`` (experiment=v32_pipeline) GRPO is specialists, their data, a distillation and a mixed GRPO
(``rl.pipeline``); with ``self_verification.enabled`` it is a verifier and a prover in turn (``rl.selfverify``).
Finished stages are cached under ``cache/`` and reused while nothing they depend on changes; ``rl-train resume=<run>``
goes on from the last checkpoint of a run that was stopped.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset

    from .job import Job
    from .pretrain import Report
    from .rollout.pool import RolloutPool
    from .stages import StageResult
    from .tracking.progress import Progress
    from .tracking.rundir import RunDir

BASE, COLD, WORKERS, BEFORE, GRPO, AFTER, REPORT = (
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
_REHEARSAL_CODE = ("rl/rehearse.py", "rl/distill.py", "rl/rollout/rollout.py", "rl/rollout/env_runner.py")


def main() -> None:
    """Console entry point."""
    from .cli import hydra_main

    hydra_main("train", run)


def run(cfg: TrainConfig) -> dict[str, Any]:
    """The whole job; returns the summary that is also in ``runs/<name>/summary.json``."""
    from rich.console import Console

    from . import selfverify
    from .assemble import cluster, open_composer, open_judge, open_pool, open_tasksets
    from .coldstart import FIGURES
    from .job import Job, figures_of
    from .ledger import open_ledger
    from .pipeline import members_of, pipeline, stage_names
    from .tracking.progress import Progress
    from .tracking.rundir import RunDir
    from .tracking.usage import UsageBook
    from .tracking.wandb_log import WandbLog

    resumed = cfg.resume is not None
    if resumed:
        cfg = stored_config(cfg)
    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)  # a wrong env stops here, before a run exists
    reward = open_composer(cfg.reward).describe()  # so does a wrong reward
    cfg.objective.check_families(list(members_of(tasksets["train"])))
    rundir = RunDir(Path(cfg.runs_dir) / str(cfg.name)) if resumed else new_run(cfg)
    # A log file has no width: give the tables room instead of rich's 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(f"run [bold]{rundir.name}[/bold] · {rundir.path} · {describe(cfg)}", highlight=False)
    console.print(reward, highlight=False, markup=False)
    wandb_log = WandbLog(cfg.tracking, rundir, asdict(cfg))
    summary = rundir.read_summary() | {"run": rundir.name, "seed": cfg.seed, "reward": reward}
    body, middle = plain, [BEFORE, GRPO, AFTER]
    if cfg.pipeline.enabled:
        body, middle = pipeline, stage_names(list(members_of(tasksets["train"])))
    if cfg.self_verification.enabled:
        body, middle = selfverify.self_verification, selfverify.stage_names(cfg.self_verification)
    try:
        stages = [BASE, COLD, WORKERS, *middle, REPORT]
        with Progress(stages, console=console, plain_every_s=cfg.tracking.plain_every_s) as progress:
            base = base_stage(cfg, rundir, progress)
            ledger = open_ledger(cfg.budget, base.path, summary.get("compute", {}).get("stages"))
            usage = UsageBook(summary.get("usage", {}).get("stages"))
            job = Job(cfg, rundir, tasksets, progress, wandb_log, ledger, summary, usage)
            engines = cfg.rollout.workers + cfg.judge.is_worker
            with cluster(cfg.ray, engines), open_judge(cfg, base.path) as judge, ThreadPoolExecutor(1) as background:
                # The engines start beside the cold start, from the base policy; they get the weights by the first sync.
                records = cfg.replay.indexer != "off"
                pool = background.submit(open_pool, cfg, base.path, tasksets, record_indexer=records)
                start = coldstart_stage(cfg, base, tasksets["train"], rundir, progress)
                if cfg.coldstart.enabled:
                    ledger.put(COLD, "supervised", learner=ledger.cost.supervised(figures_of(start.path, FIGURES)))
                body(job, start, pool)
                if judge is not None:  # what it was asked is no trajectory's, so it has its own place
                    summary["judge"] = asyncio.run(judge.stats())
            with progress.stage(REPORT):
                _finish(job)
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
    plan = (
        f"{cfg.steps} steps of {cfg.prompts_per_step} prompts × {cfg.group_size} rollouts, "
        f"{cfg.learner.minibatches} minibatch(es), {cfg.rollout.workers} rollout worker(s)"
    )
    if cfg.self_verification.enabled:
        v = cfg.self_verification
        return (
            f"{v.iterations} iterations: verifier {v.verify_steps} steps of {v.verify_prompts} × {cfg.group_size}, "
            f"prover {v.prove_steps} steps of {v.prove_prompts} × {cfg.group_size}, labels for {v.label_problems} "
            f"problems × {v.label_samples}"
        )
    if not cfg.pipeline.enabled:
        return plan
    p = cfg.pipeline
    return f"specialists: {p.specialist_steps} steps of {p.specialist_prompts} × {cfg.group_size}; mixed: {plan}"


def base_stage(cfg: TrainConfig, rundir: RunDir, progress: Progress) -> StageResult:
    """The base policy: a directory as it stands, or pre-trained now (``base=scratch``)."""
    from .assemble import env_source, open_taskset
    from .job import kept_stage
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
    return kept_stage(
        BASE,
        "base",
        inputs,
        cfg.cache_dir,
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
    from .job import kept_stage
    from .stages import source_hash

    if not cfg.coldstart.enabled:
        progress.reused(COLD, "off (coldstart.enabled=false)")
        return base
    seed = cfg.seed if cfg.coldstart.seed is None else cfg.coldstart.seed
    inputs = {
        "base": base.key, "coldstart": asdict(cfg.coldstart), "env": cfg.env,
        "env_source": env_source(taskset), "seed": seed,
        "thinking": cfg.rollout.thinking, "retention": cfg.rollout.retention, "renderer": cfg.policy.renderer,
        "code": source_hash(*_COLD_CODE, *_ENV_CODE),
    }  # fmt: skip
    if cfg.coldstart.as_rollouts:
        inputs |= {"rollout": asdict(cfg.rollout), "rollout_code": source_hash(*_REHEARSAL_CODE)}

    def produce(out: Path, report: Report) -> None:
        renderer = open_renderer(cfg.policy.renderer, str(base.path), cfg.rollout.retention)
        coldstart(base.path, cfg.coldstart, taskset, seed, out, report, renderer, cfg.rollout)

    return kept_stage(COLD, "coldstart", inputs, cfg.cache_dir, rundir, progress, produce)


def plain(job: Job, start: StageResult, opening: Future[RolloutPool]) -> None:
    """Evaluation, GRPO over all families, evaluation; the final policy is ``<run>/policy``."""
    from .worker_stages import evaluation_stage, grpo_stage, learner_of, workers

    with learner_of(job, start.path, job.rundir.path) as learner, workers(job, opening) as pool:
        before = evaluation_stage(job, BEFORE, "eval_before", pool, learner=learner, cache_key=start.key)
        job.summary["eval_before"] = before
        job.write()
        state = grpo_stage(job, GRPO, "grpo", job.cfg, learner, pool, job.tasksets["train"], job.rundir)
        learner.save_policy(job.rundir.path / "policy")
        job.summary["eval_after"] = evaluation_stage(job, AFTER, "eval_after", pool)
        job.summary |= state.summary() | {"workers": pool.stats()}


def _finish(job: Job) -> None:
    """summary.json and report.html."""
    from .tracking.report import write_report

    job.summary |= job.spent()
    job.rundir.write_summary(job.summary)
    write_report(job.rundir)
    job.wandb_log.log_summary(job.summary)


if __name__ == "__main__":
    main()
