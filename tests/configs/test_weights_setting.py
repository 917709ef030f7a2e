"""How new weights reach the engines: what cannot be is refused with the field."""

from __future__ import annotations

import pytest
from train_runs import train_config


def test_nccl_wants_a_gpu_of_its_own_for_every_rank() -> None:
    one = ("rollout.weights=nccl", "ray.learner_gpus=1")
    with pytest.raises(Exception, match=r"rollout\.weights=nccl with .*ray\.worker_gpus=0\.5: NCCL takes one"):
        train_config(*one, "ray.worker_gpus=0.5")
    assert train_config(*one, "ray.worker_gpus=1").rollout.weights == "nccl"
    with pytest.raises(Exception, match=r"rollout\.weights='rdma'.*store.*gloo.*nccl"):
        train_config("rollout.weights=rdma")
    with pytest.raises(Exception, match=r"rollout\.bucket_mb=0"):
        train_config("rollout.weights=gloo", "rollout.bucket_mb=0")
