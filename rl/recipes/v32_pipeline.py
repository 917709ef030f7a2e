"""Specialists → verified data → distillation → mixed RL (V3.2 sec. 3): `rl-train experiment=v32_pipeline`.

    cold start ─┬─ GRPO on family 1 ─ data 1 ─┐
                ├─ …                          ├─ distillation (from the cold start) ─ GRPO on all families
                └─ GRPO on family n ─ data n ─┘

Every specialist starts from the same cold start and sees its own family only. All stages share one pool of workers;
one learner lives at a time. A finished specialist has a record in ``stages/<family>/``, so that ``resume=<run>``
goes on with the first unfinished stage, and inside a GRPO stage from its last checkpoint.
"""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.closure import code_hash
from rl.data.corpus import load_data, save_data
from rl.learner.trainer import Means
from rl.recipes.distill import FIGURES, distill, verified
from rl.recipes.evaluation_stage import evaluation_stage
from rl.recipes.stages import grpo_stage, learner_of, workers
from rl.rollout.worker import GroupSpec
from rl.run.assemble import members_of
from rl.run.job import Job, figures_of, reporter
from rl.run.ledger import RolloutMeter
from rl.run.stage_cache import StageResult, cached_stage, tree_hash
from rl.tracking.rundir import RunDir, write_atomic
from rl.tracking.usage import tally, usage_metrics

if TYPE_CHECKING:
    from envs.taskset import Taskset
    from rl.rollout.pool import RolloutPool
    from rl.tracking.progress import Stage

BEFORE, DISTILL, DISTILLED = "evaluation cold start", "distillation", "evaluation distilled"
MIXED, AFTER = "GRPO mixed", "evaluation after"
RECORD = "stage.json"


def stage_names(families: list[str]) -> list[str]:
    """What the progress display lists, in order."""
    names = [BEFORE]
    for family in families:
        names += [_grpo(family), _evaluation(family), _data(family)]
    return [*names, DISTILL, DISTILLED, MIXED, AFTER]


def pipeline(job: Job, start: StageResult, opening: Future[RolloutPool]) -> None:
    """All stages from the cold start to the final policy in ``<run>/policy``; results go into ``job.summary``."""
    cfg = job.cfg
    train = job.tasksets["train"]
    with workers(job, opening) as pool:
        with learner_of(job, start.path, job.rundir.path) as learner:
            before = evaluation_stage(job, BEFORE, "eval_before", pool, learner=learner, cache_key=start.key)
            job.summary["eval_before"] = before
        found: dict[str, Any] = {"specialists": {}}
        job.summary["pipeline"] = found
        for family, member in members_of(train).items():
            found["specialists"][family] = _specialist(job, start, pool, family, member)
            job.write()
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


def _specialist(job: Job, start: StageResult, pool: RolloutPool, family: str, member: Taskset) -> dict[str, Any]:
    """One specialist: GRPO on its family, its evaluation there, its data. Done once, recorded when all of it is."""
    cfg = job.cfg
    files = RunDir(job.rundir.path / "stages" / family)
    record = files.path / RECORD
    titles = (_grpo(family), _evaluation(family), _data(family))
    if record.is_file():
        for title in titles:
            job.progress.reused(title, str(files.path))
        stored: dict[str, Any] = json.loads(record.read_text())
        return stored
    own = replace(cfg, steps=cfg.pipeline.specialist_steps, prompts_per_step=cfg.pipeline.specialist_prompts)
    with learner_of(job, start.path, files.path) as learner:
        state = grpo_stage(job, titles[0], f"grpo/{family}", own, learner, pool, member, files)
        learner.save_policy(files.path / "policy")
        evaluation = evaluation_stage(job, titles[1], f"eval_specialist_{family}", pool, family=family)
        counts = _make_data(job, pool, family, member, files)
    result = state.summary() | {"eval": evaluation, "data": counts}
    write_atomic(record, json.dumps(result, indent=1) + "\n")
    return result


def _make_data(job: Job, pool: RolloutPool, family: str, member: Taskset, files: RunDir) -> dict[str, int]:
    """Rollouts of the present weights on training tasks that come after those of the GRPO stage; the verified are
    kept in ``files``. Returns the filter's counts."""
    cfg, title = job.cfg.pipeline, _data(family)
    with job.progress.stage(title, total=cfg.data_tasks) as stage:
        meter = RolloutMeter(job.ledger.cost, pool)
        indices = [member.next_index() for _ in range(cfg.data_tasks)]
        specs = [GroupSpec(n, member.task(i), i, cfg.data_samples, pool.version) for n, i in enumerate(indices)]
        groups = pool.run(specs, job.cfg.step_deadline_s, lambda done, group: stage.update(done))
        trajectories = [t for group in groups for t in group.trajectories]
        kept, counts = verified(trajectories, cfg.keep_per_task)
        job.rundir.log_trajectories(f"data_{family}", trajectories, tokens=job.cfg.tracking.save_tokens)
        save_data(files.path / "data", kept)
        job.ledger.put(title, "data", rollout=meter.read(trajectories))
        used = tally(trajectories)
        job.usage.put(title, "data", used)
        figures = {f"data/{name}": float(n) for name, n in counts.items()}
        job.log(f"data/{family}", 0, figures | usage_metrics(used))
        stage.update(cfg.data_tasks, note=f"{counts['kept']} of {counts['sampled']} rollouts kept")
    return counts


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


def _grpo(family: str) -> str:
    return f"GRPO {family}"


def _evaluation(family: str) -> str:
    return f"evaluation {family}"


def _data(family: str) -> str:
    return f"data {family}"
