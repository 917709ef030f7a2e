"""Specialists → one policy that they teach (DeepSeek-V4, arXiv 2606.19348): `rl-train experiment=v4_pipeline`.

    cold start ─┬─ GRPO on family 1 ── teacher of family 1 ─┐
                ├─ …                                        ├─ on-policy distillation on all families
                └─ GRPO on family n ── teacher of family n ─┘      (from the cold start)

Where V3.2 copies what the specialists have sampled and goes on with mixed RL (``rl.recipes.v32_pipeline``), the policy
samples itself here, and is told at each of its own tokens what the specialist would have said. The loop is GRPO's, with
``objective.distill``: the rewards are logged, and count as far as its ``reward_weight`` says.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from envs.mixture import families_of
from rl.recipes.evaluation_stage import evaluation_stage
from rl.recipes.specialists import BEFORE, folder_of, specialists, stages_of
from rl.recipes.stages import grpo_stage, learner_of, workers
from rl.run.assemble import members_of
from rl.tracking.rundir import RunDir

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from rl.rollout.pool import RolloutPool
    from rl.run.job import Job
    from rl.run.stage_cache import StageResult

TAUGHT, AFTER = "on-policy distillation", "evaluation after"


def stage_names(families: list[str]) -> list[str]:
    """What the progress display lists, in order."""
    names = [name for family in families for name in stages_of(family, data=False)]
    return [BEFORE, *names, TAUGHT, AFTER]


def pipeline(job: Job, start: StageResult, opening: Future[RolloutPool]) -> None:
    """All stages from the cold start to the final policy in ``<run>/policy``; results go into ``job.summary``."""
    train = job.tasksets["train"]
    with workers(job, opening) as pool:
        specialists(job, start, pool, data=False)
        cfg = taught(job)
        with learner_of(job, start.path, job.rundir.path, cfg) as learner:
            state = grpo_stage(job, TAUGHT, "grpo", cfg, learner, pool, train, job.rundir)
            learner.save_policy(job.rundir.path / "policy")
            job.summary["eval_after"] = evaluation_stage(job, AFTER, "eval_after", pool)
        job.summary |= state.summary() | {"workers": pool.stats()}


def taught(job: Job) -> TrainConfig:
    """The run's settings with the specialists as teachers, each of the families that it was trained on. With
    ``learner.lora`` a teacher is its adapter, and all of them share the policy's base."""
    teachers: dict[str, str] = {}
    for name, member in members_of(job.tasksets["train"]).items():
        directory = folder_of(job, name) / "policy"
        if job.cfg.learner.lora.rank:
            directory = _last_adapter(RunDir(folder_of(job, name)).checkpoints)
        teachers |= dict.fromkeys(families_of(member), str(directory))
    objective = job.cfg.objective
    return replace(job.cfg, objective=replace(objective, distill=replace(objective.distill, teachers=teachers)))


def _last_adapter(checkpoints: Path) -> Path:
    """The adapter in the last checkpoint. Raises ValueError when there is none that can be used."""
    from rl.learner.checkpoint import newest_whole  # loads torch

    checkpoint, said = newest_whole(checkpoints)
    if checkpoint is None:
        raise ValueError(f"no specialist in {checkpoints} that could teach: {'; '.join(said) or 'no checkpoint'}")
    return checkpoint / "policy"
