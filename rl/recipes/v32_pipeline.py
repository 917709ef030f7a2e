"""Specialists → verified data → distillation → mixed RL (V3.2 sec. 3): `rl-train experiment=v32_pipeline`.

    cold start ─┬─ GRPO on family 1 ─ data 1 ─┐
                ├─ …                          ├─ distillation (from the cold start) ─ GRPO on all families
                └─ GRPO on family n ─ data n ─┘

Every specialist starts from the same cold start and sees its own family only (``rl.recipes.specialists``). All stages
share one pool of workers; one learner lives at a time. ``resume=<run>`` goes on with the first unfinished stage, and
inside a GRPO stage from its last checkpoint.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from envs.closure import code_hash
from rl.data.corpus import load_data
from rl.learner.trainer import Means
from rl.recipes.distill import FIGURES, distill
from rl.recipes.evaluation_stage import evaluation_stage
from rl.recipes.specialists import BEFORE, specialists, stages_of
from rl.recipes.stages import grpo_stage, learner_of, workers
from rl.run.job import Job, figures_of, reporter
from rl.run.stage_cache import StageResult, cached_stage, tree_hash

if TYPE_CHECKING:
    from rl.rollout.pool import RolloutPool
    from rl.tracking.progress import Stage

DISTILL, DISTILLED = "distillation", "evaluation distilled"
MIXED, AFTER = "GRPO mixed", "evaluation after"


def stage_names(families: list[str]) -> list[str]:
    """What the progress display lists, in order."""
    names = [name for family in families for name in stages_of(family, data=True)]
    return [BEFORE, *names, DISTILL, DISTILLED, MIXED, AFTER]


def pipeline(job: Job, start: StageResult, opening: Future[RolloutPool]) -> None:
    """All stages from the cold start to the final policy in ``<run>/policy``; results go into ``job.summary``."""
    cfg = job.cfg
    train = job.tasksets["train"]
    with workers(job, opening) as pool:
        found = specialists(job, start, pool, data=True)
        distilled = _distillation(job, start, list(found["specialists"]))
        found["distillation"] = figures_of(distilled.path, FIGURES)
        with learner_of(job, distilled.path, job.rundir.path) as learner:
            key = tree_hash(distilled.path)
            found["distilled"] = evaluation_stage(
                job, DISTILLED, "eval_distilled", pool, learner=learner, cache_key=key
            )
            job.write()
            state = grpo_stage(job, MIXED, "grpo", cfg, learner, pool, train, job.rundir)
            learner.save_policy(job.rundir.path / "policy")
            job.summary["eval_after"] = evaluation_stage(job, AFTER, "eval_after", pool)
        job.summary |= state.summary() | {"workers": pool.stats()}


def _distillation(job: Job, start: StageResult, families: list[str]) -> StageResult:
    """One policy trained from the cold start on the data of all specialists; kept in the run's ``stages``."""
    stages = job.rundir.path / "stages"
    config = job.cfg.pipeline.distill
    inputs = {
        "start": start.key, "data": {f: tree_hash(stages / f / "data") for f in families},
        "distill": vars(config), "seed": job.cfg.seed, "code": code_hash(distill),
    }  # fmt: skip

    def produce(out: Path, stage: Stage) -> None:
        data = [document for family in families for document in load_data(stages / family / "data")]
        report = reporter(stage, "distill", job.rundir)
        distill(start.path, config, data, job.cfg.seed, out, report, Means.of(job.cfg))

    result = cached_stage(DISTILL, "distill", inputs, stages, job.progress, produce)
    figures = figures_of(result.path, FIGURES)
    job.ledger.put(DISTILL, "supervised", learner=job.ledger.cost.supervised(figures))
    return result
