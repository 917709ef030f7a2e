"""A command that only trains is refused in one line when this machine could not hold its processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from configs.schema import AdaptConfig, AdaptDataConfig, EvaluateConfig, PolicyConfig, RayConfig
from rl.learner.config import MeansConfig
from rl.recipes.policy_stages import ranks_of
from rl.recipes.sparse_checks import check
from rl.rollout.config import RolloutConfig
from rl.run.preflight import check_preset
from rl.run.room import check_room, check_trainer_room


def test_room() -> None:
    check_trainer_room(MeansConfig(), RayConfig())
    check_trainer_room(MeansConfig(ranks=64), RayConfig(address="auto", learner_gpus=1.0))
    with pytest.raises(ValueError, match=r"ray.num_cpus=1: learner.ranks=2 need 2 CPUs, one each"):
        check_trainer_room(MeansConfig(ranks=2), RayConfig(num_cpus=1))
    with pytest.raises(ValueError, match=r"learner.ranks=64 with ray.learner_gpus=1 .* need 64 GPUs, and this machine"):
        check_trainer_room(MeansConfig(ranks=64), RayConfig(learner_gpus=1.0))


def test_two_ranks_share_no_gpu() -> None:
    with pytest.raises(ValueError, match=r"ray.learner_gpus=0.5 with learner.ranks=2: NCCL takes one rank a GPU"):
        AdaptConfig(learner=MeansConfig(ranks=2), ray=RayConfig(learner_gpus=0.5))


def test_experts_that_ranks_cannot_share_are_found_before_anything_is_trained() -> None:
    """tiny_dsa has eight experts."""
    with pytest.raises(ValueError, match=r"learner.expert_parallel=3: must divide the 8 experts of a layer"):
        check_preset(PolicyConfig(), expert_parallel=3)
    with pytest.raises(ValueError, match=r"learner.expert_parallel=3: must divide the 8 experts of a layer"):
        check(AdaptConfig(learner=MeansConfig(ranks=3, expert_parallel=3), data=AdaptDataConfig(source="needles")))


def test_what_rounds_otherwise_is_in_a_stage_s_key() -> None:
    assert ranks_of(AdaptConfig()) == {}
    assert ranks_of(AdaptConfig(learner=MeansConfig(ranks=4, shard_ranks=2))) == {"ranks": [4, 2, 1]}


def test_a_command_that_only_samples() -> None:
    """It has a process fewer; what it has needs room too."""
    cfg = EvaluateConfig(rollout=RolloutConfig(env_workers=2), ray=RayConfig(num_cpus=2))
    with pytest.raises(ValueError, match=r"^ray\.num_cpus=2: rollout\.workers=1 and rollout\.env_workers=2 .* 3 CPUs"):
        check_room(cfg, None)
    check_room(replace(cfg, ray=RayConfig(num_cpus=3)), None)
    with pytest.raises(ValueError, match=r"^rollout\.workers=1 and .* with ray\.worker_gpus=64 need 64 GPUs, and this"):
        check_room(replace(cfg, ray=RayConfig(worker_gpus=64)), None)
