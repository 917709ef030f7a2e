"""A command that only trains is refused in one line when this machine could not hold its processes."""

from __future__ import annotations

import pytest

from configs.schema import AdaptConfig, RayConfig
from rl.learner.config import MeansConfig
from rl.run.preflight import check_trainer_room


def test_room() -> None:
    check_trainer_room(MeansConfig(), RayConfig())
    check_trainer_room(MeansConfig(ranks=64), RayConfig(address="auto", learner_gpus=1.0))
    with pytest.raises(ValueError, match=r"ray.num_cpus=1: learner.ranks=2 make 2 processes, one CPU each"):
        check_trainer_room(MeansConfig(ranks=2), RayConfig(num_cpus=1))
    with pytest.raises(ValueError, match=r"learner.ranks=64 with ray.learner_gpus=1 .* need 64 GPUs, and this machine"):
        check_trainer_room(MeansConfig(ranks=64), RayConfig(learner_gpus=1.0))


def test_two_ranks_share_no_gpu() -> None:
    with pytest.raises(ValueError, match=r"ray.learner_gpus=0.5 with learner.ranks=2: NCCL takes one rank a GPU"):
        AdaptConfig(learner=MeansConfig(ranks=2), ray=RayConfig(learner_gpus=0.5))
