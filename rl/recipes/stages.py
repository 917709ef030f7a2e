"""The stages that need rollout workers, each of them a building block: workers, learner, GRPO.

`rl-train` puts them one after the other; the pipeline runs GRPO several times on the same workers, which get the
weights of whoever is training by a weight sync.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from rl.learner.group import LearnerLost
from rl.recipes.grpo import Position, grpo
from rl.rollout.losses import Losses
from rl.run.assemble import HELDOUT, TRAIN
from rl.run.ending import asked
from rl.run.finished import FOLDER, FinishedGroups
from rl.run.ledger import StageMeter
from rl.run.preflight import configuration
from rl.run.stage_log import StageLog, Totals
from rl.run.taught import with_directories

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset
    from rl.learner.actor import LearnerHandle
    from rl.learner.config import LoraConfig
    from rl.rollout.pool import RolloutPool
    from rl.run.job import Job
    from rl.tracking.progress import Stage
    from rl.tracking.rundir import RunDir
    from rl.types import Group

WORKERS = "workers"


@contextmanager
def opening(open_pool: Callable[[Event], RolloutPool]) -> Iterator[Future[RolloutPool]]:
    """The pool, opening in the background. When the block fails before the engines are up, nobody waits for them:
    ``open_pool`` is told by its event."""
    given_up = Event()
    with ThreadPoolExecutor(1) as background:
        try:
            yield background.submit(open_pool, given_up)
        except BaseException:
            given_up.set()
            raise


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
def learner_of(job: Job, policy: Path, run_dir: Path, cfg: TrainConfig | None = None) -> Iterator[LearnerHandle]:
    """A learner that starts from ``policy``; it starts in the background and ends with the block. ``cfg``: default the
    run's."""
    from rl.learner.actor import LearnerHandle

    cfg = job.cfg if cfg is None else cfg
    learner = LearnerHandle(replace(cfg, objective=with_directories(cfg.objective, cfg.runs_dir)), policy, run_dir)
    try:
        yield learner
    finally:
        learner.close()


def check_resume(files: RunDir, tasksets: Mapping[str, Taskset], lora: LoraConfig) -> list[str]:
    """Raise ValueError when the last checkpoint in ``files`` is of another adapter than ``lora``, or of other data than
    ``tasksets`` (train and heldout) read now; else the first is where it was then, where the stage will put it again.
    Returns what is to be said about checkpoints that are damaged."""
    from rl.learner.checkpoint import check_adapter, newest_whole, stored_extra  # loads torch

    checkpoint, said = newest_whole(files.checkpoints)
    if checkpoint is None and said:
        raise ValueError(f"no checkpoint in {files.checkpoints} can be used: {'; '.join(said)}; start a new run")
    if checkpoint is not None:
        check_adapter(checkpoint, lora)
    read = any(taskset.inputs() for taskset in tasksets.values())
    if checkpoint is not None and read and "at" in (stored := stored_extra(checkpoint)):
        at = Position(**stored["at"])
        tasksets[TRAIN].load_state_dict(at.taskset)
        tasksets[HELDOUT].check_inputs(at.heldout)
    return said


def grpo_stage(
    job: Job, title: str, stage: str, cfg: TrainConfig, learner: LearnerHandle, pool: RolloutPool, taskset: Taskset,
    files: RunDir,
) -> Totals:  # fmt: skip
    """GRPO from the last checkpoint in ``files``, or from the beginning, to ``cfg.steps`` or the end of the budget.

    ``stage`` names the rows in metrics.jsonl; trajectories and checkpoints go to ``files``. The learner starts from its
    own policy; the workers hold what it holds when this returns. A learner that dies on the way is started again.
    Raises LearnerLost when it dies too often (``learner.max_restarts``).
    """
    begun, losses = copy.deepcopy(taskset.state_dict()), Losses(cfg.learner.max_restarts, cfg.learner.restarts_s)
    with job.progress.stage(title, total=cfg.steps) as progress:
        restarts = 0
        while True:
            try:
                return _to_the_end(job, title, stage, cfg, learner, pool, taskset, files, progress, restarts)
            except LearnerLost as error:
                if asked() is not None:  # the signal that ends this command has reached the learner too
                    raise
                if not losses.may_replace():
                    raise LearnerLost(
                        f"{error}, and there were {losses.recent} restarts in {cfg.learner.restarts_s:g} s "
                        "(learner.max_restarts, learner.restarts_s)"
                    ) from error
                print(f"{error}; {title} goes on from its last checkpoint with new processes")
            # As a run that was killed and resumed: groups that were finished are on disk, the rest runs again.
            learner.restart()
            pool.restart()
            taskset.load_state_dict(copy.deepcopy(begun))
            restarts += 1


def _to_the_end(
    job: Job, title: str, stage: str, cfg: TrainConfig, learner: LearnerHandle, pool: RolloutPool, taskset: Taskset,
    files: RunDir, progress: Stage, restarts: int,
) -> Totals:  # fmt: skip
    """``grpo_stage`` as long as the learner lives."""
    from rl.learner.checkpoint import newest_whole  # loads torch

    at, totals = Position(), Totals()
    main = files is job.rundir
    checkpoint, _ = newest_whole(files.checkpoints)
    if checkpoint is not None:
        stored = learner.load(checkpoint)
        if "at" not in stored:
            raise ValueError(f"{checkpoint} was written by an earlier version of this package: start a new run")
        at, totals = Position(**stored["at"]), Totals(**stored["totals"])
        with configuration():  # data that has changed is no fault of the program
            taskset.load_state_dict(at.taskset)
    at.heldout = job.tasksets[HELDOUT].inputs()
    learner.sync(pool, at.step)
    meter = StageMeter(job.ledger, title, pool, cfg.objective, totals.flops)

    def on_step(step: int, metrics: dict[str, float], groups: list[Group]) -> None:
        families = {k.removeprefix("outcome/family/"): v for k, v in metrics.items() if k.startswith("outcome/family/")}
        progress.update(
            step,
            reward=metrics.get("reward/mean"),
            rewards=families,
            tokens_per_s=metrics.get("rollout/tokens_per_s"),
            note=f"mismatch {metrics.get('mismatch/max', 0.0):.0e}",
        )
        job.usage.put(title, "rl", totals.usage)
        summary = copy.deepcopy(job.current(totals.summary() if main else None))
        name = f"step_{step:06d}" if main else f"{stage}/step_{step:06d}"

        def write() -> None:
            if not main:  # the row stands next to the stage's trajectories; the run's own file has all stages
                job.rundir.log_metrics(stage, step, metrics)
            job.rundir.write_summary(summary)
            job.wandb_log.log(stage, step, metrics)
            job.wandb_log.log_trajectories(name, step, [t for g in groups for t in g.trajectories])

        log.writer.put(f"{name} of wandb and summary.json", write)

    log = StageLog(cfg, stage, files, pool, totals, meter, on_step, restarts)
    origin = hashlib.sha256(job.rundir.config.read_bytes() + learner.started_from.encode()).hexdigest()
    limit, keep = cfg.keep_finished_mb * 2**20, cfg.keep_checkpoints
    finished = FinishedGroups(files.path / FOLDER, origin, limit, keep, beside=log.beside)
    grpo(cfg, pool, learner, taskset, at, log, files.checkpoints, finished)
    if at.step < cfg.steps:
        progress.update(at.step, note=totals.stop)
    return totals
