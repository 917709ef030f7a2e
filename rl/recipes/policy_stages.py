"""The stages before any rollout: the base policy, and its cold start. Both are cached by what they depend on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import AdaptConfig, TrainConfig
    from envs.taskset import Taskset
    from rl.run.stage_cache import StageResult
    from rl.tracking.progress import Progress, Stage
    from rl.tracking.rundir import RunDir

BASE, COLD = "base policy", "cold start"


def base_stage(cfg: TrainConfig, rundir: RunDir, progress: Progress) -> StageResult:
    """The base policy: a directory as it stands, with ``base.index_precision`` in its config.json, or pre-trained now
    (``base=scratch``)."""
    from envs.closure import code_hash
    from rl.learner.trainer import Means
    from rl.policy.io import copy_with_precision, index_precision
    from rl.recipes.pretrain import pretrain
    from rl.run.assemble import open_taskset
    from rl.run.inputs import without_place
    from rl.run.job import reporter
    from rl.run.preflight import start_directory
    from rl.run.stage_cache import StageResult, cached_stage, tree_hash

    directory = start_directory(cfg.policy, cfg.base.source)
    if directory is not None:
        key, precision = tree_hash(directory), cfg.base.index_precision
        if precision is not None and precision != index_precision(directory):
            return cached_stage(
                BASE, "base", {"base": key, "index_precision": precision}, cfg.cache_dir, progress,
                lambda out, stage: copy_with_precision(directory, out, precision),
            )  # fmt: skip
        progress.reused(BASE, cfg.policy.path or cfg.base.source)
        return StageResult(directory, key, reused=True)
    taskset = open_taskset(cfg.env, "train", cfg.base.seed)
    inputs = {
        "policy": asdict(cfg.policy), "base": asdict(cfg.base), "env": without_place(cfg.env, rundir.path),
        "tasks": taskset.fingerprint(),
        "code": code_hash(pretrain, taskset),
    }  # fmt: skip
    inputs |= ranks_of(cfg)

    def produce(out: Path, stage: Stage) -> None:
        pretrain(cfg.policy, cfg.base, taskset, out, reporter(stage, "base", rundir), Means.of(cfg))

    return cached_stage(BASE, "base", inputs, cfg.cache_dir, progress, produce)


def coldstart_stage(
    cfg: TrainConfig, base: StageResult, taskset: Taskset, rundir: RunDir, progress: Progress,
    summary: dict[str, Any] | None = None,
) -> StageResult:  # fmt: skip
    """The cold-started policy, or the base itself: ``coldstart.enabled=false``, or there is nothing to start from.
    ``summary`` gets what became of the demonstrations, and what there is to say about them is said."""
    from envs.closure import code_hash
    from rl.learner.trainer import Means
    from rl.recipes.cold_start import FIGURES, coldstart, notices
    from rl.run.assemble import open_renderer, renderer_class
    from rl.run.inputs import without_place
    from rl.run.job import figures_of, reporter
    from rl.run.stage_cache import cached_stage

    if not cfg.coldstart.enabled:
        progress.reused(COLD, "off (coldstart.enabled=false)")
        return base
    seed = cfg.seed if cfg.coldstart.seed is None else cfg.coldstart.seed
    inputs = {
        "base": base.key, "coldstart": asdict(cfg.coldstart), "env": without_place(cfg.env, rundir.path),
        "tasks": taskset.fingerprint(),
        "seed": seed, "thinking": cfg.rollout.thinking, "retention": cfg.rollout.retention,
        "renderer": cfg.policy.renderer,
    }  # fmt: skip
    inputs |= ranks_of(cfg)
    if cfg.coldstart.as_rollouts:
        inputs["rollout"] = asdict(cfg.rollout)
    unused = () if cfg.coldstart.as_rollouts else ("rl.data.rehearse",)
    inputs["code"] = code_hash(coldstart, taskset, renderer_class(cfg.policy.renderer), skip=unused)

    def produce(out: Path, stage: Stage) -> None:
        renderer = open_renderer(cfg.policy.renderer, str(base.path), cfg.rollout.retention)
        report = reporter(stage, "coldstart", rundir)
        coldstart(base.path, cfg.coldstart, taskset, seed, out, report, renderer, cfg.rollout, Means.of(cfg))

    start = cached_stage(COLD, "coldstart", inputs, cfg.cache_dir, progress, produce)
    figures = figures_of(start.path, FIGURES)
    said = notices(figures, cfg.rollout)
    for sentence in said:
        progress.say(f"{COLD}: {sentence}")
    if summary is not None:
        told = ("asked", "demos", "dropped", "demo_outcome", "needs", "off")
        summary["cold_start"] = {**{name: figures[name] for name in told if name in figures}, "notices": said}
    return base if "off" in figures else start


def ranks_of(cfg: TrainConfig | AdaptConfig) -> dict[str, Any]:
    """What a stage's key holds of ``learner.ranks`` and how weights and rows are split over them: each rounds otherwise
    than one process."""
    learner = cfg.learner
    if learner.ranks == 1:
        return {}
    context = [learner.context_parallel] if learner.context_parallel > 1 else []
    return {"ranks": [learner.ranks, learner.shard_ranks or learner.ranks, learner.expert_parallel, *context]}
