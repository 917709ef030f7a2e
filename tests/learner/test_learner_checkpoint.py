"""Full-state checkpoints: resuming is bitwise the same as never having stopped."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.learner.checkpoint import checkpoints, latest_checkpoint, load_checkpoint, save_checkpoint
from rl.learner.config import LearnerConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.loading import build_policy, load_policy
from rl.types import Group

Groups = Callable[..., list[Group]]


def learner(policy: Policy, run_dir: Path, kl_coef: float = 0.0) -> Learner:
    config = LearnerConfig(lr=1e-3, warmup_steps=3, minibatches=2, threads=1, max_tokens_per_microbatch=64)
    return Learner(policy, config, ObjectiveConfig(kl_coef=kl_coef), run_dir)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_resume_is_bitwise(
    policy: Policy, policy_config: dict, make_groups: Groups, tmp_path: Path, kl_coef: float
) -> None:
    steps = [make_groups(count=3, version=v, seed=v) for v in range(4)]
    straight = learner(policy, tmp_path, kl_coef)
    for groups in steps[:2]:
        straight.step(groups)
    path = save_checkpoint(tmp_path / "checkpoints", straight, 2, {"taskset": {"position": 16}})
    for groups in steps[2:]:
        last = straight.step(groups)
    drawn = (torch.rand(2).tolist(), np.random.rand(), random.random())

    resumed = learner(build_policy(policy_config | {"seed": 5}), tmp_path, kl_coef)
    assert load_checkpoint(path, resumed) == {"taskset": {"position": 16}, "step": 2}
    assert resumed.version == 2
    for groups in steps[2:]:
        again = resumed.step(groups)
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == drawn
    assert again["loss/total"] == last["loss/total"]
    for name, value in straight.weights().items():
        assert np.array_equal(value, resumed.weights()[name]), name


def test_keeps_the_last_n_and_replaces(policy: Policy, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path)
    for step in (1, 2, 3, 3):
        save_checkpoint(tmp_path / "c", trainer, step, keep=2)
    assert [p.name for p in checkpoints(tmp_path / "c")] == ["step_000002", "step_000003"]
    assert latest_checkpoint(tmp_path / "c") == tmp_path / "c" / "step_000003"
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step_000002", "step_000003"]


def test_an_interrupted_write_is_invisible(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = learner(policy, tmp_path)
    save_checkpoint(tmp_path / "c", trainer, 1)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "c", trainer, 2)
    assert [p.name for p in checkpoints(tmp_path / "c")] == ["step_000001"]
    monkeypatch.undo()
    save_checkpoint(tmp_path / "c", trainer, 2)
    assert latest_checkpoint(tmp_path / "c") == tmp_path / "c" / "step_000002"


def test_policy_folder_loads_alone(policy: Policy, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path)
    path = save_checkpoint(tmp_path / "c", trainer, 1)
    loaded = load_policy(path / "policy").weights()
    assert all(torch.equal(value, loaded[name]) for name, value in policy.weights().items())


def test_errors_name_the_cure(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"state\.pt is missing"):
        load_checkpoint(tmp_path, learner(policy, tmp_path))
    path = save_checkpoint(tmp_path / "c", learner(policy, tmp_path), 1)
    with pytest.raises(FileNotFoundError, match="kl_coef=0"):
        load_checkpoint(path, learner(policy, tmp_path, kl_coef=0.1))
    assert latest_checkpoint(tmp_path / "nothing") is None
