"""A checkpoint that is written while the learner goes on is that of the step at which it was taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import Case, end_ranks, run_ranks

from rl.learner import checkpoint
from rl.learner.checkpoint import damage, save_checkpoint, snapshot, write_snapshot
from rl.learner.config import LearnerConfig, LoraConfig
from rl.learner.learner import Learner
from rl.learner.process import LearnerProcess
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.loading import build_policy, load_policy
from rl.types import Group

Groups = Callable[..., list[Group]]
SETTINGS: dict[str, Any] = {"lr": 1e-3, "threads": 1, "max_tokens_per_microbatch": 64}


def files(path: Path) -> dict[str, bytes]:
    """Tensors as they are on disk. Two files of the moments differ where torch writes times and unique names."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("config", "kl_coef"), [({}, 0.1), ({"compute_dtype": "bfloat16"}, 0.1), ({"lora": LoraConfig(rank=4)}, 0.0)]
)
def test_what_is_written_later_is_what_it_was(
    policy: Policy, policy_config: dict[str, Any], make_groups: Groups, tmp_path: Path, config: dict[str, Any],
    kl_coef: float,
) -> None:  # fmt: skip
    learner = Learner(policy, LearnerConfig(**SETTINGS | config), ObjectiveConfig(kl_coef=kl_coef), tmp_path)
    learner.step(make_groups())
    at_once = save_checkpoint(tmp_path / "at_once", learner, 1, {"note": 7})
    taken = snapshot(learner, 1, {"note": 7}, copied=True)
    learner.step(make_groups(version=1, seed=1))
    later = write_snapshot(tmp_path / "later", taken)
    assert damage(later) is None
    assert files(later) == files(at_once) != {}
    after = save_checkpoint(tmp_path / "after", learner, 2)
    assert files(after).keys() == files(later).keys()
    assert files(after) != files(later)
    again = Learner(
        build_policy(policy_config), LearnerConfig(**SETTINGS | config), ObjectiveConfig(kl_coef=kl_coef), tmp_path
    )
    found = []
    for path in (at_once, later):
        assert checkpoint.load_checkpoint(path, again) == {"note": 7, "step": 1}
        found.append({n: {k: v.clone() for k, v in m.items()} for n, m in again.optimizer.moments().items()})
    one, other = found
    assert one.keys() == other.keys() != set()
    assert all(torch.equal(one[name][part], other[name][part]) for name in one for part in one[name])


@pytest.mark.parametrize(
    ("shards", "settings"), [(2, {}), pytest.param(1, {"lora": {"rank": 4}}, marks=pytest.mark.slow)]
)
def test_ranks_go_on_while_they_write(
    policy: Policy, make_groups: Groups, tmp_path: Path, shards: int, settings: dict[str, Any]
) -> None:
    """Split over two, and a copy on each."""
    policy.save(tmp_path / "policy")
    case = Case(
        tmp_path / "policy", [make_groups()], settings=settings, save=tmp_path / "at_once", beside=tmp_path / "later"
    )
    end_ranks()  # torch keeps meshes of one shape
    run_ranks(2, shards, [case], tmp_path / "ranks")
    at_once, later = (tmp_path / name / "step_000001" for name in ("at_once", "later"))
    assert damage(later) is None
    assert files(later) == files(at_once) != {}
    config = LearnerConfig(**SETTINGS | ({"lora": LoraConfig(rank=4)} if settings else {}))
    again = Learner(load_policy(tmp_path / "policy"), config, ObjectiveConfig(), tmp_path)
    found = []
    for path in (at_once, later):
        checkpoint.load_checkpoint(path, again)
        found.append({n: {k: v.clone() for k, v in m.items()} for n, m in again.optimizer.moments().items()})
    one, other = found
    assert one.keys() == other.keys() != set()
    assert all(torch.equal(one[name][part], other[name][part]) for name in one for part in one[name])


@pytest.fixture
def process(policy_config: dict[str, Any], tmp_path: Path) -> LearnerProcess:
    return LearnerProcess(policy_config, LearnerConfig(**SETTINGS), ObjectiveConfig(), str(tmp_path))


def test_the_next_checkpoint_waits_for_the_one_before(
    process: LearnerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def gated(*given: Any) -> Path:
        assert gate.wait(60)
        return write_snapshot(*given)

    assert process.checkpoint_written()  # nothing is being written
    monkeypatch.setattr(checkpoint, "write_snapshot", gated)
    process.save_checkpoint(str(tmp_path / "c"), 1, beside=True)
    assert not process.checkpoint_written()
    threading.Timer(0.2, gate.set).start()
    process.save_checkpoint(str(tmp_path / "c"), 2, beside=True)
    assert (tmp_path / "c" / "step_000001").is_dir()
    assert process.checkpoint_written(wait=True)
    assert [p.name for p in sorted((tmp_path / "c").iterdir())] == ["step_000001", "step_000002"]


def test_what_goes_wrong_in_writing_is_raised_once(process: LearnerProcess, tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file where a folder should be")
    process.save_checkpoint(str(tmp_path / "c"), 1, beside=True)
    with pytest.raises(OSError, match="c"):
        process.checkpoint_written(wait=True)
    assert process.checkpoint_written(wait=True)
