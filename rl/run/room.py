"""Whether a Ray of this machine has room for every process of a command, and what there is to say about places."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import EvaluateConfig, RayConfig, TrainConfig
    from rl.learner.config import MeansConfig
    from rl.rollout.config import JudgeConfig, RolloutConfig


def check_room(cfg: TrainConfig | EvaluateConfig, learner: MeansConfig | None) -> None:
    """Raise ValueError when a Ray of this machine could not place every process: some would wait for ever.
    ``learner``: None: there is none."""
    workers, split = cfg.rollout.workers, cfg.rollout.tensor_parallel
    gpus = workers * split * cfg.ray.worker_gpus + cfg.judge.is_worker * cfg.judge.num_gpus
    engines = f"rollout.workers={workers}" + (f" of rollout.tensor_parallel={split}" if split > 1 else "")
    if cfg.rollout.env_workers:
        engines += f" and rollout.env_workers={cfg.rollout.env_workers} (ray.env_cpus={cfg.ray.env_cpus:g})"
    _check_room(learner, cfg.ray, engines, cpus_beside_learner(cfg.rollout, cfg.judge, cfg.ray), gpus)


def cpus_beside_learner(rollout: RolloutConfig, judge: JudgeConfig, ray: RayConfig) -> int:
    """CPUs that Ray reserves for rollout workers, environment workers and the judge."""
    return rollout.workers + judge.is_worker + ceil(rollout.env_workers * ray.env_cpus)


def check_trainer_room(learner: MeansConfig, ray: RayConfig) -> None:
    """The same for a command that only trains."""
    if learner.ranks > 1 or ray.learner_gpus:
        _check_room(learner, ray, None, 0, 0.0)


def _check_room(
    learner: MeansConfig | None, ray: RayConfig, engines: str | None, others: int, other_gpus: float
) -> None:
    """``others``: CPUs of the processes beside the learner's, and their GPUs; ``engines``: what is said of those."""
    if ray.address is not None:
        return
    ranks, share = (0, 0.0) if learner is None else (learner.ranks, ray.learner_gpus)
    counts = [f"learner.ranks={ranks}"] if ranks > 1 or engines is None else []
    several = " and ".join(counts + ([] if engines is None else [engines]))
    cpus = ranks + others
    if ray.num_cpus is not None and ray.num_cpus < cpus:
        raise ValueError(
            f"ray.num_cpus={ray.num_cpus}: {several} need {cpus} CPUs, one each unless said; give at least {cpus} "
            "(they need not be there), or null"
        )
    wanted = ranks * share + other_gpus
    if not wanted and ranks <= 1:
        return
    from rl.run.local_ray import visible_gpus

    gpus = visible_gpus()
    shares = "" if learner is None else f"ray.learner_gpus={share:g} and "
    if wanted > gpus:
        raise ValueError(
            f"{several} with {shares}ray.worker_gpus={ray.worker_gpus:g} need {wanted:g} GPUs, "
            f"and this machine shows {gpus}; lower one of them, or join a cluster (ray=cluster)"
        )
    if ranks > 1 and not share and gpus:
        raise ValueError(
            f"ray.learner_gpus=0 with learner.ranks={ranks} on a machine with {gpus} GPUs: all ranks would take the "
            "first one; set it to 1, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on CPUs"
        )


def about_places(rollout: RolloutConfig, ray: RayConfig) -> list[str]:
    """What is to be said when settings of environment workers are there, and no such worker."""
    if rollout.env_workers or not ray.env_resources:
        return []
    return [
        f"warning: ray.env_resources={dict(ray.env_resources)}, but rollout.env_workers=0: environments run where the "
        "engines do; say how many workers there are to be for them"
    ]
