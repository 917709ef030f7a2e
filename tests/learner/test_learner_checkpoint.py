"""Full-state checkpoints: resuming is bitwise the same as never having stopped."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rl.learner import moments
from rl.learner.checkpoint import (
    checkpoints,
    damage,
    latest_checkpoint,
    load_checkpoint,
    newest_whole,
    save_checkpoint,
)
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


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda c: os.truncate(c / "state.pt", 100), r"state.pt has 100 bytes instead of \d+"),
    "emptied": (lambda c: os.truncate(c / "policy" / "model.safetensors", 0), "model.safetensors has 0 bytes"),
    "a flipped bit": (lambda c: _flip(c / "state.pt"), "state.pt was changed after it was written"),
    "a flipped weight": (lambda c: _flip(c / "policy" / "model.safetensors"), "model.safetensors was changed"),
    "a stray file": (lambda c: (c / "policy" / "extra.safetensors").write_bytes(b"x"), "does not belong to it"),
    "a file gone": (lambda c: (c / "policy" / "config.json").unlink(), "policy/config.json is not there"),
    "no manifest": (lambda c: (c / "manifest.json").unlink(), "manifest.json cannot be read"),
    "a manifest of another shape": (lambda c: (c / "manifest.json").write_text("null"), "manifest.json cannot be read"),
    "a manifest nested too deep": (lambda c: (c / "manifest.json").write_text("[" * 5000), "manifest.json cannot be"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_one_before(policy: Policy, tmp_path: Path, how: str) -> None:
    trainer, root = learner(policy, tmp_path), tmp_path / "c"
    for step in (1, 2):
        save_checkpoint(root, trainer, step, keep=2)
    assert newest_whole(root) == (root / "step_000002", [])
    spoil, says = DAMAGES[how]
    spoil(root / "step_000002")
    found, said = newest_whole(root)
    assert found == root / "step_000001"
    assert len(said) == 1
    assert re.search(f"step_000002 is damaged .*{says}", said[0])
    spoil(root / "step_000001") if how != "no manifest" else (root / "step_000001" / "manifest.json").unlink()
    assert newest_whole(root)[0] is None
    assert len(newest_whole(root)[1]) == 2


def test_retention_keeps_whole_ones(policy: Policy, tmp_path: Path) -> None:
    """A damaged checkpoint does not count: with keep=2 the last two that can be resumed from stay."""
    trainer, root = learner(policy, tmp_path), tmp_path / "c"
    for step in (1, 2, 3):
        save_checkpoint(root, trainer, step, keep=3)
    os.truncate(root / "step_000003" / "state.pt", 10)
    save_checkpoint(root, trainer, 4, keep=2)
    assert newest_whole(root)[0] == root / "step_000004"
    assert damage(root / "step_000002") is None
    assert not (root / "step_000001").exists()


def test_too_little_space_is_said_before_anything_is_written(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, root = learner(policy, tmp_path), tmp_path / "c"
    save_checkpoint(root, trainer, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match=r"it needs 0\.\d MiB and 0\.0 MiB are free.*c'") as raised:
        save_checkpoint(root, trainer, 2)
    assert raised.value.errno == 28
    assert [p.name for p in root.iterdir()] == ["step_000001"]
    monkeypatch.undo()
    assert newest_whole(root)[0] == root / "step_000001"
    save_checkpoint(root, trainer, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk: root only")
def test_a_disk_that_fills_up_leaves_nothing_half_written(policy: Policy, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        trainer, root = learner(policy, tmp_path), disk / "c"
        saved, said = 0, ""
        while shutil.disk_usage(disk).free > 0 and saved < 50:
            try:
                save_checkpoint(root, trainer, saved + 1, keep=50)
            except OSError as error:
                said = str(error)
                break
            saved += 1
        assert saved >= 1
        assert "; 1 MiB more make room" in said  # rounded up: 600 KiB in all
        assert sorted(p.name for p in root.iterdir()) == [f"step_{s:06d}" for s in range(1, saved + 1)]
        assert newest_whole(root) == (root / f"step_{saved:06d}", [])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_shards_that_are_on_another_machine_are_said(
    policy: Policy, make_groups: Groups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank finds them missing; no other looks, for it may be late and the folder renamed."""
    trainer, root = learner(policy, tmp_path), tmp_path / "c"
    trainer.step(make_groups())
    elsewhere = SimpleNamespace(storage_data={0: SimpleNamespace(relative_path="__1_0.distcp")})
    monkeypatch.setattr(moments, "_metadata", lambda folder: elsewhere)
    with pytest.raises(OSError, match=r"__1_0\.distcp of .* was written on another machine: .* runs_dir must be"):
        save_checkpoint(root, trainer, 1)
    assert list(root.iterdir()) == []
    monkeypatch.setattr(moments, "_run", lambda work: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    group: Any = object()
    moments.write_moments(tmp_path, trainer.optimizer.moments(), group)


def test_what_a_killed_save_left_goes_with_the_next(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "c" / ".partial_step_000007").mkdir(parents=True)
    save_checkpoint(tmp_path / "c", learner(policy, tmp_path), 8)
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step_000008"]


def test_moments_of_another_policy_are_refused(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path)
    trainer.step(make_groups())
    path = save_checkpoint(tmp_path / "c", trainer, 1)
    names = dict(zip(trainer.optimizer.names, trainer.optimizer.parameters, strict=True))
    first = next(iter(names))
    with pytest.raises(ValueError, match=rf"holds moments of {re.escape(first)}, which does not learn here \(1 such\)"):
        moments.read_moments(path, {k: v for k, v in names.items() if k != first}, alone=True)
    with pytest.raises(ValueError, match=rf"{re.escape(first)} has shape .*; this policy's is \(3,\)"):
        moments.read_moments(path, names | {first: torch.zeros(3)}, alone=True)
