"""The stages that need rollout workers, each of them a building block: learner, GRPO, held-out evaluation.

`rl-train` puts them one after the other; the pipeline runs GRPO several times on the same workers, which get the
weights of whoever is training by a weight sync.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.recipes.grpo import LoopState, grpo
from rl.run.ledger import RolloutMeter, StageMeter
from rl.tracking.evaluation import evaluation_metrics
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
ENV_CODE = ("envs",)
EVAL_CODE = (
    "rl/recipes/evaluate.py",
    "rl/evaluation",
    "rl/tracking/evaluation.py",
    "rl/tracking/summary.py",
    "rl/recipes/stages.py",
    "rl/run/flops.py",
    "rl/run/ledger.py",
    "rl/tracking/usage.py",
    "rl/rollout",
    "rl/policy",
    "rl/chat",
    "rewards",
)


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
) -> LoopState:  # fmt: skip
    """GRPO from the last checkpoint in ``files``, or from the beginning, to ``cfg.steps`` or the end of the budget.

    ``stage`` names the rows in metrics.jsonl; trajectories and checkpoints go to ``files``. The learner starts from its
    own policy; the workers hold what it holds when this returns.
    """
    from rl.learner.checkpoint import latest_checkpoint

    state = LoopState()
    main = files is job.rundir
    with job.progress.stage(title, total=cfg.steps) as progress:
        checkpoint = latest_checkpoint(files.checkpoints)
        if checkpoint is not None:
            state = LoopState(**learner.load(checkpoint))
            taskset.load_state_dict(state.taskset)
        learner.sync(pool, state.step)
        meter = StageMeter(job.ledger, title, pool, cfg.objective, state.flops)

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
            job.usage.put(title, "rl", state.usage)
            if not main:  # the loop wrote the row beside its trajectories; the run's own file has all stages
                job.rundir.log_metrics(stage, step, metrics)
            job.write(state.summary() if main else None)
            job.wandb_log.log(stage, step, metrics)
            name = f"step_{step:06d}" if main else f"{stage}/step_{step:06d}"
            job.wandb_log.log_trajectories(name, step, [t for g in groups for t in g.trajectories])

        grpo(cfg, pool, learner, taskset, files, state, on_step, meter, stage)
        if state.step < cfg.steps:
            progress.update(state.step, note=state.stop)
    return state


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
    from rl.run.build import HELDOUT, env_source
    from rl.run.cache import run_stage, source_hash, stage_key
    from rl.tracking.rundir import write_atomic
    from rl.tracking.summary import eval_summary

    cfg = job.cfg
    inputs = {
        "policy": cache_key, "env": cfg.env, "family": family, "env_source": env_source(job.tasksets[HELDOUT]),
        "eval": asdict(cfg.eval), "rollout": asdict(cfg.rollout), "reward": cfg.reward, "judge": asdict(cfg.judge),
        "code": source_hash(*EVAL_CODE, *ENV_CODE),
    }  # fmt: skip
    target = Path(cfg.cache_dir) / f"eval-{stage_key(inputs)}"
    if cache_key is not None and target.is_dir():
        shutil.copy2(target / "trajectories.jsonl", job.rundir.trajectories / f"{name}.jsonl")
        job.progress.reused(title, str(target))
        result: dict[str, Any] = json.loads((target / "eval.json").read_text())
        _log_evaluation(job, title, name, result)
        return result
    with job.progress.stage(title) as stage:
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
        if cache_key is not None:

            def produce(out: Path) -> None:
                shutil.copy2(stored, out / "trajectories.jsonl")
                write_atomic(out / "eval.json", json.dumps(result))

            run_stage("eval", inputs, cfg.cache_dir, produce)
    _log_evaluation(job, title, name, result)
    job.wandb_log.log_trajectories(name, 0, trajectories)
    return result


def _log_evaluation(job: Job, title: str, name: str, result: dict[str, Any]) -> None:
    job.ledger.put(title, "evaluation", rollout=result["flops"])
    job.usage.put(title, "evaluation", result["usage"])
    job.log(name, 0, evaluation_metrics(result) | usage_metrics(result["usage"]))


def _evaluate(job: Job, pool: RolloutPool, stage: Stage, family: str | None) -> list[Trajectory]:
    from rl.recipes.evaluate import HELDOUT, evaluate
    from rl.tracking.metrics import by_family

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
