"""A batch that comes group by group is trained as one that comes whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl.learner.config import LearnerConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.types import Group

Groups = Callable[..., list[Group]]
TIMES = {"learner/seconds", "learner/tokens_per_s"}
PACKED = {"learner/microbatches", "learner/packing"}  # fewer groups at a time fill fewer tokens
# Sums over tokens that nearly cancel, or differences of nearly equal numbers: relative to the size of their terms.
SMALL = {"loss/total", "loss/policy", "mismatch/mean", "mismatch/p99", "mismatch/max", "policy/approx_kl", "loss/kl",
         "policy/drift_mean", "policy/drift_p95", "policy/opsm_delta", "advantage/mean"}  # fmt: skip


class Trained:
    """A learner that shows the gradient which its optimiser got."""

    def __init__(self, policy: Policy, folder: Path, objective: ObjectiveConfig, settings: dict[str, Any]) -> None:
        given = {"lr": 1e-3, "threads": 1, "max_tokens_per_microbatch": 64} | settings
        self.learner = Learner(policy, LearnerConfig(**given), objective, folder)
        self.gradients: list[torch.Tensor] = []
        step = self.learner.optimizer.step

        def spy(loss: float) -> dict[str, float]:
            grads = [p.grad for p in self.learner.optimizer.parameters if p.grad is not None]
            self.gradients.append(torch.cat([g.flatten() for g in grads]))
            return step(loss)

        self.learner.optimizer.step = spy  # type: ignore[method-assign]


def batch(make_groups: Groups, count: int = 5, seed: int = 0, version: int = 0) -> list[Group]:
    """Lengths differ from group to group; group 1 has no variance, a rollout of group 2 failed, all of group 3 did."""
    groups = make_groups(count=count, seed=seed, version=version)
    for t in groups[1].trajectories:
        t.reward = 1.0
    for t in [groups[2].trajectories[0], *groups[3].trajectories]:
        t.failure_kind, t.reward = "env_error", float("nan")
    return groups


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"loss_aggregation": "token_mean"}, {}),
    ({"loss_aggregation": "constant", "loss_constant": 30}, {}),
    ({"kl_coef": 0.1, "opsm_delta": 0.001}, {}),
    ({"kl_coef": {"default": 0.3}, "old_policy": "learner", "correction": "truncate"}, {}),
    ({"loss_aggregation": "token_mean"}, {"train_indexer": "kl", "indexer_kl_coef": 3.0}),
    ({}, {"compute_dtype": "bfloat16"}),
]


@pytest.mark.parametrize(("objective", "settings"), CASES)
def test_any_order_of_arrival_gives_the_gradient_of_the_whole_batch(
    policy: Policy, make_groups: Groups, tmp_path: Path, objective: dict[str, Any], settings: dict[str, Any]
) -> None:
    start = {name: value.clone() for name, value in policy.module.state_dict().items()}
    groups = batch(make_groups)
    later = batch(make_groups, seed=1)  # of older weights: ratios are not 1
    rng = np.random.default_rng(0)
    whole = Trained(policy, tmp_path, ObjectiveConfig(**objective), settings)
    wanted = [whole.learner.step(groups), whole.learner.step(later)]
    for cuts in ([1, 2, 3, 4], [2], [1, 4]):
        policy.module.load_state_dict(start)
        parts = Trained(policy, tmp_path, ObjectiveConfig(**objective), settings)
        for n, all_of_them in enumerate((groups, later)):
            order = rng.permutation(len(all_of_them))
            for part in np.split(order, cuts):
                parts.learner.accumulate([all_of_them[i] for i in part])
            found = parts.learner.finish([group.id for group in all_of_them])
            # bfloat16 rounds each micro-batch's gradient, and another packing rounds others.
            close = 2e-2 if settings.get("compute_dtype") == "bfloat16" else 1e-6
            difference = float((parts.gradients[n] - whole.gradients[n]).norm() / whole.gradients[n].norm())
            if n == 0:  # later the weights themselves differ, by what AdamW makes of it
                assert difference < close
                assert found.keys() == wanted[n].keys()
                for name in found.keys() - TIMES - PACKED:
                    small = 1e-6 if name in SMALL else 0.0
                    assert found[name] == pytest.approx(wanted[n][name], rel=20 * close, abs=max(small, close)), name
            else:
                assert difference < max(1e-3, 5 * close)
            assert found["learner/tokens"] == wanted[n]["learner/tokens"]
        assert parts.learner.version == 2


def test_the_indexer_has_a_divisor_of_its_own(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    """By hand: L_I is a mean over the batch's tokens, whatever the policy's loss is divided by."""
    losses, tokens = [], []
    groups = make_groups(count=3)
    for group in groups:
        alone = Trained(policy, tmp_path, ObjectiveConfig(), {"train_indexer": "kl", "lr": 1e-12})
        metrics = alone.learner.step([group])
        losses.append(metrics["loss/indexer"])
        tokens.append(metrics["learner/tokens"])
    together = Trained(policy, tmp_path, ObjectiveConfig(loss_aggregation="token_mean"), {"train_indexer": "kl"})
    for group in reversed(groups):
        together.learner.accumulate([group])
    found = together.learner.finish([0, 1, 2])["loss/indexer"]
    assert found == pytest.approx(np.average(losses, weights=tokens), rel=1e-5)


def test_what_was_begun_and_dropped_leaves_nothing(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    start = {name: value.clone() for name, value in policy.module.state_dict().items()}
    wanted = Trained(policy, tmp_path, ObjectiveConfig(), {})
    wanted.learner.step(batch(make_groups))
    policy.module.load_state_dict(start)
    found = Trained(policy, tmp_path, ObjectiveConfig(), {})
    before = found.learner.state_dict()
    found.learner.accumulate(make_groups(count=2, seed=7))
    assert found.learner.state_dict() == before
    assert found.learner.optimizer.moments() == {}
    assert all(torch.equal(value, start[name]) for name, value in policy.module.state_dict().items())
    found.learner.step(batch(make_groups))  # a batch that comes whole begins anew
    assert torch.equal(found.gradients[0], wanted.gradients[0])


def test_groups_are_counted_once(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer, groups = Trained(policy, tmp_path, ObjectiveConfig(), {}).learner, make_groups(count=3)
    with pytest.raises(ValueError, match=r"of the groups \[0\]: accumulated were \[\]"):
        trainer.finish([0])
    trainer.accumulate(groups[:2])
    with pytest.raises(ValueError, match=r"of the groups \[0, 1, 2\]: accumulated were \[0, 1\]"):
        trainer.finish([0, 1, 2])
    trainer.accumulate(groups[1:])
    with pytest.raises(ValueError, match=r"accumulated were \[0, 1, 1, 2\]"):
        trainer.finish([0, 1, 2])
    assert trainer.version == 0


def test_several_minibatches_cannot_come_in_parts(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer = Trained(policy, tmp_path, ObjectiveConfig(), {"minibatches": 2}).learner
    with pytest.raises(ValueError, match=r"learner\.minibatches=2"):
        trainer.accumulate(make_groups())


def test_groups_without_variance_need_no_pass(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer, groups = Trained(policy, tmp_path, ObjectiveConfig(), {}), make_groups(count=2)
    for t in (t for group in groups for t in group.trajectories):
        t.reward = 0.5
    for group in groups:
        trainer.learner.accumulate([group])
    metrics = trainer.learner.finish([1, 0])
    assert (metrics["learner/microbatches"], metrics["loss/total"], trainer.gradients) == (0.0, 0.0, [])
    assert trainer.learner.version == 1


def test_a_bad_group_skips_the_step_and_keeps_them_all(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer, groups = Trained(policy, tmp_path, ObjectiveConfig(), {}).learner, make_groups(count=3)
    groups[1].trajectories[0].reward = float("nan")
    before = {name: value.clone() for name, value in policy.module.state_dict().items()}
    for group in groups:
        trainer.accumulate([group])
    assert trainer.finish([0, 1, 2])["learner/skipped_steps"] == 1.0
    assert all(torch.equal(value, before[name]) for name, value in policy.module.state_dict().items())
    assert len(list((tmp_path / "bad_batches").iterdir())) == 1
    assert trainer.step(make_groups(seed=1, version=1))["learner/grad_norm"] > 0


def test_a_part_that_fails_leaves_nothing_to_finish(
    policy: Policy, make_groups: Groups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of its gradient is there then, and no step may be made of it."""
    trainer, groups = Trained(policy, tmp_path, ObjectiveConfig(), {}).learner, make_groups(count=3)
    before = {name: value.clone() for name, value in policy.module.state_dict().items()}
    trainer.accumulate(groups[:2])
    backward, calls = torch.Tensor.backward, []

    def fails(loss: torch.Tensor) -> None:
        calls.append(loss)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        backward(loss)

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "backward", fails)
        with pytest.raises(torch.OutOfMemoryError):
            trainer.accumulate(groups[2:])
    with pytest.raises(ValueError, match=r"accumulated were \[\]"):
        trainer.finish([0, 1, 2])
    assert all(torch.equal(value, before[name]) for name, value in policy.module.state_dict().items())
