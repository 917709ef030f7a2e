"""Held-out evaluation as a stage of a run: its progress, its files, its entry in the books, and its cache."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.closure import code_hash
from rl.recipes.evaluate import HELDOUT, evaluate
from rl.run.assemble import open_composer, renderer_class
from rl.run.inputs import without_place
from rl.run.ledger import RolloutMeter
from rl.run.paths import policy_directory
from rl.run.stage_cache import cached_stage, tree_hash
from rl.tracking.episodes import by_family
from rl.tracking.evaluation import eval_summary, evaluation_metrics
from rl.tracking.rundir import write_atomic
from rl.tracking.usage import tally, usage_metrics

if TYPE_CHECKING:
    from rl.learner.actor import LearnerHandle
    from rl.rollout.pool import RolloutPool
    from rl.run.job import Job
    from rl.tracking.progress import Stage
    from rl.types import Trajectory


def evaluation_stage(
    job: Job,
    title: str,
    name: str,
    pool: RolloutPool,
    *,
    learner: LearnerHandle | None = None,
    cache_key: str | None = None,
    family: str | None = None,
) -> dict[str, Any]:
    """Held-out evaluation of the policy that the workers hold, over all families or one; its entry of the summary.

    ``learner``: the workers first take its weights, as version 0. ``cache_key`` names that policy: an earlier
    evaluation of it with the same tasks and code is reused.
    """
    cfg = job.cfg
    tasks = job.tasksets[HELDOUT]
    result: dict[str, Any]

    def produce(out: Path, stage: Stage) -> None:
        if learner is not None:
            learner.sync(pool, 0)
        meter = RolloutMeter(job.ledger.cost, pool)
        trajectories = _evaluate(job, pool, stage, family)
        stored = job.rundir.log_trajectories(name, trajectories, tokens=cfg.tracking.save_tokens)
        # After they are on disk: it raises when none has a score.
        result = eval_summary(trajectories, cfg.eval) | {
            "flops": meter.read(trajectories),
            "usage": tally(trajectories),
        }
        shutil.copy2(stored, out / "trajectories.jsonl")
        write_atomic(out / "eval.json", json.dumps(result))
        job.wandb_log.log_trajectories(name, 0, trajectories)

    if cache_key is None:
        with job.progress.stage(title) as stage, tempfile.TemporaryDirectory() as folder:
            produce(Path(folder), stage)
            result = json.loads((Path(folder) / "eval.json").read_text())
    else:
        judge = tree_hash(policy_directory("judge.path", cfg.judge.path)) if cfg.judge.path else None
        inputs = {
            "policy": cache_key, "env": without_place(cfg.env, job.rundir.path), "family": family,
            "tasks": tasks.fingerprint(),
            "eval": asdict(cfg.eval), "rollout": asdict(cfg.rollout), "reward": cfg.reward, "judge": asdict(cfg.judge),
            "judge_weights": judge, "save_tokens": cfg.tracking.save_tokens,
            "code": code_hash(evaluation_stage, type(pool), tasks, open_composer(cfg.reward),
                              renderer_class(cfg.policy.renderer)),
        }  # fmt: skip
        kept = cached_stage(title, "eval", inputs, cfg.cache_dir, job.progress, produce)
        result = json.loads((kept.path / "eval.json").read_text())
        if kept.reused:
            shutil.copy2(kept.path / "trajectories.jsonl", job.rundir.trajectories / f"{name}.jsonl")
    _log_evaluation(job, title, name, result)
    return result


def _log_evaluation(job: Job, title: str, name: str, result: dict[str, Any]) -> None:
    job.ledger.put(title, "evaluation", rollout=result["flops"])
    job.usage.put(title, "evaluation", result["usage"])
    job.log(name, 0, evaluation_metrics(result) | usage_metrics(result["usage"]))


def _evaluate(job: Job, pool: RolloutPool, stage: Stage, family: str | None) -> list[Trajectory]:
    started = time.perf_counter()

    def on_group(done: int, total: int, trajectories: list[Trajectory]) -> None:
        stage.total = total
        means = {
            family: sum(t.reward_parts.get("score/outcome", 0.0) for t in members) / len(members)
            for family, members in by_family(trajectories).items()
        }
        tokens = sum(t.sampled_tokens for t in trajectories)
        stage.update(done, rewards=means, tokens_per_s=tokens / (time.perf_counter() - started))

    cfg = job.cfg
    heldout = job.tasksets[HELDOUT]
    return evaluate(pool, heldout, cfg.eval, deadline_s=cfg.rollout.group_s, family=family, on_group=on_group)
