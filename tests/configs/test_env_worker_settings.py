"""Environments on machines of their own: settings that only a cluster can hold are refused on one machine."""

from __future__ import annotations

import pytest
from train_runs import train_config

from rl.run.room import about_places


def test_resources_of_your_own_are_a_clusters() -> None:
    words = ("rollout.env_workers=2", "ray.env_resources.sandbox=1")
    cfg = train_config(*words, "ray.address=auto", "ray.worker_resources.h100=0.5")
    assert (dict(cfg.ray.env_resources), dict(cfg.ray.worker_resources)) == ({"sandbox": 1.0}, {"h100": 0.5})
    assert cfg.rollout.env_workers == 2
    with pytest.raises(Exception, match=r"ray\.env_resources=\{'sandbox': 1\.0\}: a local Ray has no .*ray=cluster"):
        train_config(*words)
    with pytest.raises(Exception, match=r"ray\.worker_resources=.*GPU is no name of your own; use .*ray\.worker_gpus"):
        train_config("ray.address=auto", "ray.worker_resources.GPU=1")
    with pytest.raises(Exception, match=r"ray\.env_resources\.sandbox=0.*above 0"):
        train_config("ray.address=auto", "ray.env_resources.sandbox=0")
    assert about_places(cfg.rollout, cfg.ray) == []
    alone = train_config(words[1], "ray.address=auto")
    (said,) = about_places(alone.rollout, alone.ray)
    assert said.startswith("warning: ray.env_resources={'sandbox': 1.0}, but rollout.env_workers=0: environments run")
    with pytest.raises(Exception, match=r"ray\.env_cpus=0.*above 0"):
        train_config("ray.env_cpus=0")
