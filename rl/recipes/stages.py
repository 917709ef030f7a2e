"""The stages that need rollout workers, each of them a building block: learner, GRPO, held-out evaluation.

`rl-train` puts them one after the other; the pipeline runs GRPO several times on the same workers, which get the
weights of whoever is training by a weight sync.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.recipes.evaluate import HELDOUT, evaluate
from rl.recipes.grpo import Position, grpo
from rl.run.assemble import open_composer, renderer_class
from rl.run.closure import code_hash
from rl.run.ledger import RolloutMeter, StageMeter
from rl.run.stage_cache import cached_stage
from rl.run.stage_log import StageLog, Totals
from rl.tracking.episodes import by_family
from rl.tracking.evaluation import eval_summary, evaluation_metrics
from rl.tracking.rundir import write_atomic
from rl.tracking.usage import tally, usage_metrics

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset
    from rl.learner.actor import LearnerHandle
    from rl.rollout.pool import RolloutPool
    from rl.run.job import Job
    from rl.tracking.progress import Stage
    from rl.tracking.rundir import RunDir
    from rl.types import Group, Trajectory

WORKERS = "workers"


@contextmanager
def workers(job: Job, opening: Future[RolloutPool]) -> Iterator[RolloutPool]:
    """The pool that was opening in the background, once its engines are up."""
    with job.progress.stage(WORKERS):
        pool = opening.result()
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def learner_of(job: Job, policy: Path, run_dir: Path) -> Iterator[LearnerHandle]:
    """A learner that starts from ``policy``; it starts in the background and ends with the block."""
    from rl.learner.actor import LearnerHandle

    learner = LearnerHandle(job.cfg, policy, run_dir)
    try:
        yield learner
    finally:
        learner.close()


def grpo_stage(
    job: Job, title: str, stage: str, cfg: TrainConfig, learner: LearnerHandle, pool: RolloutPool, taskset: Taskset,
    files: RunDir,
) -> Totals:  # fmt: skip
    """GRPO from the last checkpoint in ``files``, or from the beginning, to ``cfg.steps`` or the end of the budget.

    ``stage`` names the rows in metrics.jsonl; trajectories and checkpoints go to ``files``. The learner starts from its
    own policy; the workers hold what it holds when this returns.
    """
    from rl.learner.checkpoint import latest_checkpoint  # loads torch

    at, totals = Position(), Totals()
    main = files is job.rundir
    with job.progress.stage(title, total=cfg.steps) as progress:
        checkpoint = latest_checkpoint(files.checkpoints)
        if checkpoint is not None:
            stored = learner.load(checkpoint)
            if "at" not in stored:
                raise ValueError(f"{checkpoint} was written by an earlier version of this package: start a new run")
            at, totals = Position(**stored["at"]), Totals(**stored["totals"])
            taskset.load_state_dict(at.taskset)
        learner.sync(pool, at.step)
        meter = StageMeter(job.ledger, title, pool, cfg.objective, totals.flops)

        def on_step(step: int, metrics: dict[str, float], groups: list[Group]) -> None:
            families = {
                k.removeprefix("outcome/family/"): v for k, v in metrics.items() if k.startswith("outcome/family/")
            }
            progress.update(
                step,
                reward=metrics.get("reward/mean"),
                rewards=families,
                tokens_per_s=metrics.get("rollout/tokens_per_s"),
                note=f"mismatch {metrics.get('mismatch/max', 0.0):.0e}",
            )
            job.usage.put(title, "rl", totals.usage)
            if not main:  # the row stands next to the stage's trajectories; the run's own file has all stages
                job.rundir.log_metrics(stage, step, metrics)
            job.write(totals.summary() if main else None)
            job.wandb_log.log(stage, step, metrics)
            name = f"step_{step:06d}" if main else f"{stage}/step_{step:06d}"
            job.wandb_log.log_trajectories(name, step, [t for g in groups for t in g.trajectories])

        log = StageLog(cfg, stage, files, pool, totals, meter, on_step)
        grpo(cfg, pool, learner, taskset, at, log, files.checkpoints)
        if at.step < cfg.steps:
            progress.update(at.step, note=totals.stop)
    return totals


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
        reward = open_composer(cfg.reward)
        inputs = {
            "policy": cache_key, "env": cfg.env, "family": family, "tasks": tasks.fingerprint(),
            "eval": asdict(cfg.eval), "rollout": asdict(cfg.rollout), "reward": cfg.reward, "judge": asdict(cfg.judge),
            "code": code_hash(evaluate, eval_summary, tally, RolloutMeter, tasks, reward,
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
