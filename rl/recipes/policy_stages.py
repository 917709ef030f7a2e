"""The stages before any rollout: the base policy, and its cold start. Both are cached by what they depend on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset
    from rl.run.cache import StageResult
    from rl.run.job import Report
    from rl.tracking.progress import Progress
    from rl.tracking.rundir import RunDir

BASE, COLD = "base policy", "cold start"
# What each cached stage runs; a change in these files makes the stage run again.
_ENV_CODE = ("envs",)
_SFT_CODE = (
    "rl/recipes/pretrain.py",
    "rl/data/corpus.py",
    "rl/data/demos.py",
    "rl/policy",
    "rl/learner",
    "rl/objective/logprobs.py",
    "rl/chat",
)
_BASE_CODE = (*_SFT_CODE, "rl/data/drills.py")
_COLD_CODE = (*_SFT_CODE, "rl/recipes/cold_start.py")
_REHEARSAL_CODE = ("rl/data/rehearse.py", "rl/recipes/distill.py", "rl/rollout/rollout.py", "rl/rollout/env_runner.py")


def base_stage(cfg: TrainConfig, rundir: RunDir, progress: Progress) -> StageResult:
    """The base policy: a directory as it stands, or pre-trained now (``base=scratch``)."""
    from rl.recipes.pretrain import pretrain
    from rl.run.build import env_source, open_taskset
    from rl.run.cache import StageResult, source_hash, tree_hash
    from rl.run.job import kept_stage

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
    from rl.recipes.cold_start import coldstart
    from rl.run.build import env_source, open_renderer
    from rl.run.cache import source_hash
    from rl.run.job import kept_stage

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
