"""A specialist: one GRPO run on one family, from the cold start that all of them share.

What it leaves is in ``stages/<family>/``: its policy, its checkpoints, its data where the pipeline goes on with that,
and its record. So ``resume=<run>`` goes on with the first that is unfinished, and inside it from its last checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.data.corpus import save_data
from rl.recipes.distill import verified
from rl.recipes.evaluation_stage import evaluation_stage
from rl.recipes.stages import grpo_stage, learner_of
from rl.rollout.orders import GroupSpec
from rl.run.assemble import members_of
from rl.run.ledger import RolloutMeter
from rl.tracking.rundir import RunDir, write_atomic
from rl.tracking.usage import tally, usage_metrics

if TYPE_CHECKING:
    from envs.taskset import Taskset
    from rl.rollout.pool import RolloutPool
    from rl.run.job import Job
    from rl.run.stage_cache import StageResult

BEFORE, RECORD = "evaluation cold start", "stage.json"


def stages_of(family: str, data: bool) -> list[str]:
    """What the progress display lists of one specialist, in order. ``data``: it makes data at the end."""
    names = [f"GRPO {family}", f"evaluation {family}"]
    return [*names, data_title(family)] if data else names


def data_title(family: str) -> str:
    """The stage in which a specialist makes data."""
    return f"data {family}"


def folder_of(job: Job, family: str) -> Path:
    """Where a specialist's files are."""
    return job.rundir.path / "stages" / family


def specialists(job: Job, start: StageResult, pool: RolloutPool, *, data: bool) -> dict[str, Any]:
    """The evaluation of the cold start, and a specialist of every family. Returns ``job.summary["pipeline"]``, which
    grows with each of them under ``specialists``."""
    with learner_of(job, start.path, job.rundir.path) as learner:
        before = evaluation_stage(job, BEFORE, "eval_before", pool, learner=learner, cache_key=start.key)
        job.summary["eval_before"] = before
    found: dict[str, Any] = {"specialists": {}}
    job.summary["pipeline"] = found
    for family, member in members_of(job.tasksets["train"]).items():
        found["specialists"][family] = specialist(job, start, pool, family, member, data=data)
        job.write()
    return found


def specialist(
    job: Job, start: StageResult, pool: RolloutPool, family: str, member: Taskset, *, data: bool
) -> dict[str, Any]:
    """GRPO on its family, its evaluation there, with ``data`` its data. Done once, recorded when all of it is."""
    cfg = job.cfg
    files = RunDir(folder_of(job, family))
    record = files.path / RECORD
    titles = stages_of(family, data)
    if record.is_file():
        for title in titles:
            job.progress.reused(title, str(files.path))
        stored: dict[str, Any] = json.loads(record.read_text())
        return stored
    own = replace(cfg, steps=cfg.pipeline.specialist_steps, prompts_per_step=cfg.pipeline.specialist_prompts)
    with learner_of(job, start.path, files.path) as learner:
        state = grpo_stage(job, titles[0], f"grpo/{family}", own, learner, pool, member, files)
        learner.save_policy(files.path / "policy")
        result = state.summary()
        result["eval"] = evaluation_stage(job, titles[1], f"eval_specialist_{family}", pool, family=family)
        if data:
            result["data"] = make_data(job, pool, family, member, files)
    write_atomic(record, json.dumps(result, indent=1) + "\n")
    return result


def make_data(job: Job, pool: RolloutPool, family: str, member: Taskset, files: RunDir) -> dict[str, int]:
    """Rollouts of the present weights on training tasks that come after those of the GRPO stage; the verified are
    kept in ``files``. Returns the filter's counts."""
    cfg, title = job.cfg.pipeline, data_title(family)
    with job.progress.stage(title, total=cfg.data_tasks) as stage:
        meter = RolloutMeter(job.ledger.cost, pool)
        indices = [member.next_index() for _ in range(cfg.data_tasks)]
        specs = [
            GroupSpec(n, member.task(i), i, cfg.data_samples, pool.version, records=False)
            for n, i in enumerate(indices)
        ]
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
